"""Test `ray up`, `submit`, `exec` and `down` as in the README, on two machines made of namespaces."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

import tests.cluster_nodes as nodes

ROOT = Path(__file__).parent.parent
RAY = str(Path(sys.executable).with_name("ray"))
SMALL = ["data.root=/media/demo", "run.storage=/media/runs", "train.epochs=2", "run.progress=false"]


def cluster_file(machines: nodes.Machines) -> dict:
    """Return deploy/cluster-local.yaml for these machines, which use the packages of this environment."""
    config = yaml.safe_load((ROOT / "deploy/cluster-local.yaml").read_text(encoding="utf-8"))
    head, *workers = machines.addresses
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(machines.key)}
    config |= {"min_workers": len(workers), "max_workers": len(workers)}
    config["setup_commands"] = [
        f"ln -sfn {sys.prefix} ~/sslsv-env",
        *(c for c in config["setup_commands"] if "python3 -m venv" not in c and "pip install" not in c),
        # Replaces `pip install -e`, which would change this environment.
        "grep -q PYTHONPATH ~/.bashrc || sed -i '1i export PYTHONPATH=$HOME/sslsv-project' ~/.bashrc",
    ]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[key] = [
            c + " --num-cpus=2 --object-store-memory=200000000" * ("start" in c) for c in config[key]
        ]
    return config


@pytest.mark.slow
def test_ray_up__train_evaluate_tune_and_prepare_on_two_machines_then_nothing_is_left() -> None:
    reason = nodes.reason_not_to_run()
    if reason:  # no root, no sshd or no network namespaces
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="sslsv", dir="/var/tmp"))
    try:
        with nodes.Machines(folder / "nodes", 2) as machines:
            run_everything(folder, machines)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_everything(folder: Path, machines: nodes.Machines) -> None:
    home = folder / "laptop"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_UP_enable_autoscaler_v2": "0"}

    def ray(*arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            [RAY, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
        )
        output = done.stdout + done.stderr
        print(f"$ ray {' '.join(arguments)}\n{output}")  # transcript, shown by pytest -s
        assert (done.returncode != 0) == fails, output
        return output

    file = str(folder / "cluster.yaml")
    Path(file).write_text(yaml.safe_dump(cluster_file(machines), sort_keys=False))
    ray("get-auth-token", "--generate")
    ray("up", "-y", "--no-config-cache", "--disable-usage-stats", file)
    wait = "for i in $(seq 60); do ray status | grep -q '/4[.]0 CPU' && break; sleep 1; done; ray status"
    assert "/4.0 CPU" in ray("exec", file, wait)
    ray("exec", file, "python -m sslsv.prepare_data demo /media/demo")

    # One worker on each machine: 1.5 of its 2 CPUs.
    shares = ["resources.workers=2", "resources.cpus_per_worker=1.5"]
    output = ray("submit", file, "sslsv/train.py", "configs/demo.yml", *SMALL, *shares)
    assert "report: /media/runs/demo/report.html" in output
    summary = json.loads((machines.shared / "runs/demo/summary.json").read_text())
    assert summary["is_finished"] and summary["workers"] == 2

    corpus = os.environ.get("SSLSV_CORPUS")  # optional: real speech in VoxCeleb's layout
    if corpus:
        real = ["run.name=real", f"data.root={corpus}", *SMALL[1:], "optimizer.schedule.warmup_epochs=1"]
        ray("submit", file, "sslsv/train.py", "configs/corpus/simclr.yml", *real, *shares)
        summary = json.loads((machines.shared / "runs/real/summary.json").read_text())
        assert summary["is_finished"] and summary["workers"] == 2 and "test/trials/eer" in summary["last"]

    output = ray("submit", file, "sslsv/evaluate.py", "/media/runs/demo", "--", "--root", "/media/demo")
    assert "report: /media/runs/demo/evaluation/report.html" in output
    plan = ray(
        "submit", file, "sslsv/tune.py", "tune_spaces/demo.py", "data.root=/media/demo", "--", "--plan"
    )
    assert "trials" in plan
    job = "python -m sslsv.train configs/demo.yml run.name=job train.epochs=2 " + " ".join(
        SMALL[:2] + SMALL[3:]
    )
    assert "succeeded" in ray("exec", file, f"ray job submit --working-dir ~/sslsv-project -- {job}")
    output = ray("submit", file, "sslsv/train.py", "configs/no_such.yml", fails=True)
    assert "configs/no_such.yml is no yaml file" in output and "Traceback" not in output.partition("Error")[0]

    running = "pgrep -r D,R,S '^(raylet|gcs_server)'"
    for address in machines.addresses:
        assert machines.ssh(address, running).stdout, machines.ssh(address, "ps -ef").stdout
    ray("down", "-y", file)
    # On existing machines, `ray down` ends only the head; the rest ends after a minute without the head.
    for address in machines.addresses:
        running_processes = "not looked"
        deadline = time.monotonic() + 120
        while running_processes and time.monotonic() < deadline:
            running_processes = machines.ssh(address, f"{running}; sleep 2").stdout
        assert not running_processes, machines.ssh(address, "ps -ef").stdout
