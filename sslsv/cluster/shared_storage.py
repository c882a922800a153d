"""Whether all machines of a cluster see the storage of a run."""

import posixpath
import socket
import time
import uuid
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sslsv.cluster.capacity import CapacityError
from sslsv.runs.folder import RunFolder, is_uri

PATIENCE_SECONDS = 30.0  # a network file system may show a new file late


def check_storage_is_shared(place: str, name: str = "run.storage") -> None:
    """Raise CapacityError unless every machine of the cluster sees what is written here to `place`.

    `name` is what the user calls it.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    others = {node["NodeID"]: node["NodeManagerHostname"] for node in nodes if node["NodeID"] != here}
    if is_uri(place) or not others:
        return
    folder = RunFolder(place, f".seen-by-all-{uuid.uuid4().hex}")
    folder.write("probe", b"")
    try:
        seen = {
            node: _sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                posixpath.dirname(folder.root), folder.name
            )
            for node in others
        }
        blind = {others[node] for node, answer in seen.items() if not _answer(answer, others[node])}
    finally:
        folder.delete_folder("")
    if blind:
        raise CapacityError(
            f"{name} is {place}, where {', '.join(sorted(blind))} does not see what "
            f"{socket.gethostname()} writes: give a folder that all machines of the cluster mount, or a URI "
            "such as s3://bucket/runs"
        )


def check_sees_run(
    folder: RunFolder, identity: dict[str, Any], patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Raise ValueError unless this machine sees the run.json that the command has written.

    A machine that joined after the command looked, and has a disk of its own in that place, would begin the
    run anew and take its checkpoints with it when it goes.
    """
    deadline = time.monotonic() + patience_seconds
    while folder.is_local and not (folder.has("run.json") and folder.read_json("run.json") == identity):
        if time.monotonic() >= deadline:
            raise ValueError(
                f"{folder.location} on this machine is not the run folder that the command has written: "
                "run.storage must be a folder that all machines of the cluster mount, or a URI such as "
                "s3://bucket/runs"
            )
        time.sleep(0.5)


def _answer(answer: "ray.ObjectRef[bool]", machine: str) -> bool:
    try:
        return ray.get(answer, timeout=60)
    except RayError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CapacityError(
            f"{machine}, a machine of the cluster, does not say whether it sees run.storage: {reason}; if it "
            "is going away, try again when `ray status` no longer has it"
        ) from error


@ray.remote(num_cpus=0)
def _sees(storage: str, name: str) -> bool:
    return RunFolder(storage, name).has("probe")
