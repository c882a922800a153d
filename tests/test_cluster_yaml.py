"""Check that `ray up`, Slurm and Kubernetes would accept the cluster files; nothing is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.scripts import symmetric_run

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/cluster-local.yaml"])
def test_cluster_files__pass_rays_own_validator(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    validate_config(config)
    # Not ~/sslsv: scripts of `ray submit` run in ~, where Python would import that folder as the package.
    assert config["file_mounts"]["~/sslsv-project"] == "."
    # `data` without the slash would also exclude sslsv/data.
    excluded = set(config["rsync_exclude"])
    assert {"/data", "/tune", "/runs"} <= excluded and "data" not in excluded
    assert any("requirements.txt" in command for command in config["setup_commands"])
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("--disable-usage-stats" in command for command in starts if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("export" in line and "RAY_AUTH_MODE=token" in line for line in config["setup_commands"])


def test_cluster_yaml__has_a_head_that_does_not_train_and_spot_workers_with_a_fallback():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    spot, fallback = types["gpu_spot"], types["gpu_on_demand"]
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in fallback["node_config"]
    assert spot["priority"] > fallback.get("priority", 0) and spot["resources"] == fallback["resources"]
    # In the background, with all streams redirected, because ssh waits for open ones.
    watch = config["worker_start_ray_commands"][-1]
    assert "deploy/spot_watch.py $RAY_HEAD_IP:6379 >" in watch and watch.endswith("2>&1 < /dev/null &")


def test_kuberay__every_pod_has_the_same_image_storage_and_a_token_and_the_head_no_tasks():
    job = yaml.safe_load((ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8"))
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    assert all(pod["volumes"] == pods[0]["volumes"] for pod in pods)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}


def test_slurm__is_a_shell_script_that_makes_a_token_once_which_only_its_user_can_read(tmp_path):
    script = ROOT / "deploy" / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    assert text.index("export RAY_AUTH_MODE=token") < text.index("srun --")
    command = next(line for line in text.splitlines() if "get-auth-token" in line)
    search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": search_path, "RAY_AUTH_MODE": "token"}
    file, contents = tmp_path / ".ray" / "auth_token", []
    for _ in range(2):
        printed = subprocess.check_output(["bash", "-c", command], env=environment, stderr=subprocess.STDOUT)
        contents.append(file.read_text(encoding="utf-8"))
        assert contents[0].encode() not in printed
    assert contents[0] == contents[1] and len(contents[0]) > 30
    assert file.stat().st_mode & 0o777 == 0o600


def test_slurm__every_node_gets_its_cpus_and_waits_ten_minutes_for_the_others(tmp_path):
    (tmp_path / ".ray").mkdir()
    for name, line in {
        ".ray/auth_token": "known",
        "scontrol": "printf 'n1\\nn2\\n'",
        "srun": 'echo "$RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    environment |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32"}
    command = ["bash", ROOT / "deploy" / "slurm.sbatch", "a.yml"]
    seconds, command_line = subprocess.check_output(command, env=environment, text=True).strip().split(" ", 1)
    node = "--cpus-per-task=32 ray symmetric-run --address n1:6379 --min-nodes 2 --num-cpus 32 --"
    assert command_line == f"{node} python -m sslsv.train a.yml resources.workers=8" and seconds == "600"
    assert '"RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"' in Path(symmetric_run.__file__).read_text("utf-8")
