"""Run a Ray cluster whose autoscaler adds machines; each one is a separate raylet on this machine."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tests.conftest import REPOSITORY

HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # id of the head in Ray's fake provider


@contextlib.contextmanager
def autoscaling_cluster(cpus: int, most: int) -> Iterator[str]:
    """Yield the address of a one-CPU head; the autoscaler may add up to `most` machines of `cpus` CPUs."""
    folder = Path(tempfile.mkdtemp(prefix="ra", dir="/tmp"))
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = f"{socket.gethostbyname(socket.gethostname())}:{port}"
    machine = {"resources": {"CPU": cpus, "object_store_memory": 150 * 2**20}, "node_config": {}}
    head = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "test",
        "max_workers": most,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": HEAD,
            "gcs_address": address,
            "use_node_id_as_ip": True,  # all nodes share this machine's address
            # Disable the setup by ssh, which would fail after half a minute.
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": head,
            "more": machine | {"min_workers": 0, "max_workers": most},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    }
    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
    config |= {key: [] for key in lists}
    for commands in ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"):
        config[f"{commands}_commands"] = []
    (folder / "cluster.yaml").write_text(json.dumps(config))
    environment = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    environment |= {"RAY_enable_autoscaler_v2": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    environment |= {"RAY_CLOUD_INSTANCE_ID": HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    environment["PYTHONPATH"] = str(REPOSITORY)
    ray = str(Path(sys.executable).parent / "ray")
    options = ["--head", "--block", f"--port={port}", "--num-cpus=1", f"--temp-dir={folder}"]
    options += ["--include-dashboard=false", f"--object-store-memory={150 * 2**20}"]
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            [ray, "start", *options, f"--autoscaling-config={folder}/cluster.yaml"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(address, folder)
        with mock.patch.dict(os.environ, RAY_ADDRESS=address):
            yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _kill_rest(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(address: str, folder: Path) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(60):
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return time.sleep(3)  # for the autoscaler's first round
        time.sleep(0.5)
    raise RuntimeError((folder / "head.log").read_text())


def _kill_rest(folder: Path) -> None:
    """Kill the processes that the autoscaler has started: all whose command names this cluster's folder."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and str(folder).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
