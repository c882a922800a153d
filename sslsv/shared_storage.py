"""Whether all machines of a cluster see the storage of a run."""

import posixpath
import socket
import uuid

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sslsv.capacity import CapacityError
from sslsv.run_folder import RunFolder
from sslsv.storage import is_uri


def check_storage_is_shared(place: str) -> None:
    """Raise CapacityError unless every machine of the cluster sees what is written to `run.storage` here."""
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
        blind = {others[node] for node, answer in seen.items() if not ray.get(answer, timeout=60)}
    finally:
        folder.delete_folder("")
    if blind:
        raise CapacityError(
            f"run.storage is {place}, where {', '.join(sorted(blind))} does not see what "
            f"{socket.gethostname()} writes: give a folder that all machines of the cluster mount, or a URI "
            "such as s3://bucket/runs"
        )


@ray.remote(num_cpus=0)
def _sees(storage: str, name: str) -> bool:
    return RunFolder(storage, name).has("probe")
