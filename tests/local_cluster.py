"""Run a Ray cluster of several machines, each a separate raylet on this machine."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from ray.cluster_utils import Cluster

from tests.conftest import REPOSITORY
from tests.processes import environment_of, pids_with

# File in which Ray records the cluster that `ray.init()` would join.
CURRENT = os.path.join(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")


class LocalCluster:
    """Start machines with the given numbers of CPUs; the first is the head, which runs the driver."""

    def __init__(self, *cpus: int, object_store_mb: int = 150) -> None:
        # The path of a socket is limited to 107 characters.
        self.folder = tempfile.mkdtemp(prefix="rc", dir="/tmp")
        self.object_store_memory = object_store_mb * 2**20
        os.environ["PYTHONPATH"] = str(REPOSITORY)  # for the processes of all machines
        os.makedirs(os.path.dirname(CURRENT), exist_ok=True)
        head = {"num_cpus": cpus[0], "include_dashboard": False, "temp_dir": self.folder}
        self.cluster = Cluster(
            initialize_head=True, head_node_args=head | {"object_store_memory": self.object_store_memory}
        )
        self.machines = [self.add(count) for count in cpus[1:]]

    @property
    def address(self) -> str:
        """Return the value for RAY_ADDRESS."""
        return str(self.cluster.address)

    def add(self, cpus: int) -> Any:
        """Start one more machine."""
        return self.cluster.add_node(num_cpus=cpus, object_store_memory=self.object_store_memory)

    def kill(self, machine: Any) -> None:
        """Remove a machine without notice, like a power cut, by SIGKILL to its raylet."""
        self.cluster.remove_node(machine, allow_graceful=False)

    def drain(self, machine: Any, seconds: int) -> None:
        """Announce the removal of a machine, like the provider of a preemptible machine."""
        command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", self.address]
        command += ["--node-id", machine.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "preemption", "--deadline-remaining-seconds", str(seconds)]
        subprocess.run(command, check=True, capture_output=True)

    def machine_of(self, pid: int) -> Any:
        """Return the machine (never the head) whose raylet has started a process, or None."""
        raylets = {each.all_processes["raylet"][0].process.pid: each for each in self.cluster.worker_nodes}
        while pid > 1 and pid not in raylets:
            try:
                with open(f"/proc/{pid}/stat") as file:
                    pid = int(file.read().rpartition(")")[2].split()[1])  # the parent's process id
            except OSError:
                return None
        return raylets.get(pid)

    def close(self) -> None:
        """Stop all machines, and trainers that have outlived theirs."""
        self.cluster.shutdown()
        for pid in pids_with("SSLSV_ROLE=trainer"):
            if any(self.folder in entry for entry in environment_of(pid)):
                os.kill(pid, signal.SIGKILL)
        if os.path.exists(CURRENT) and Path(CURRENT).read_text().strip() == self.address:
            os.remove(CURRENT)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def local_cluster(*cpus: int, object_store_mb: int = 150) -> Iterator[LocalCluster]:
    """Yield a LocalCluster, to which RAY_ADDRESS points meanwhile."""
    with mock.patch.dict(os.environ):
        cluster = LocalCluster(*cpus, object_store_mb=object_store_mb)  # this sets PYTHONPATH
        os.environ["RAY_ADDRESS"] = cluster.address
        try:
            yield cluster
        finally:
            os.environ.pop("RAY_ADDRESS")
            cluster.close()
