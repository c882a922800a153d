"""What the machines of a cluster have, and what of it is free."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import ray
from ray import PlacementGroupID
from ray._private.state import state as cluster_state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from sslsv.cluster.capacity import Machine


def all_machines() -> dict[str, Machine]:
    """What each machine has that is there and stays, by node id."""
    return {node["NodeID"]: dict(node["Resources"]) for node in _staying()}


def free_machines() -> dict[str, Machine]:
    """What each of them has left."""
    staying = {node["NodeID"] for node in _staying()}
    free = cluster_state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return {name: dict(resources) for name, resources in free.items() if name in staying}


def _staying() -> Iterator[dict[str, Any]]:
    leaving = cluster_state.get_draining_nodes()
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] not in leaving and _answers(node):
            yield node


def _answers(node: dict[str, Any]) -> bool:
    """Whether a machine is there: Ray itself notices after half a minute that one is gone."""
    with contextlib.suppress(OSError):
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=1).close()
        return True
    return False


def cpus_of(machines: dict[str, Machine]) -> float:
    """CPUs of all of them together."""
    return sum(machine.get("CPU", 0.0) for machine in machines.values())


def with_added(machines: dict[str, Machine], held: list[tuple[str, Machine]]) -> dict[str, Machine]:
    """What the machines would have left if what is held were given back; of others than these nothing."""
    for name, resources in held:
        if name in machines:
            for key, amount in resources.items():
                machines[name][key] = machines[name].get(key, 0.0) + amount
    return machines


def free_what_the_dead_hold() -> None:
    """Give back what controllers of this job had reserved for their workers when they were killed.

    Ray itself keeps the reservations of an actor until its whole job has ended, such as a sweep of many
    trials; the actor that Ray Train leaves behind to give them back is blind without a dashboard.
    """
    job = ray.get_runtime_context().get_job_id()
    table: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # made by the import
    for text in cluster_state._connect_and_get_accessor().get_placement_group_table():  # who made them
        group = table.FromString(text)
        is_there = group.state != table.REMOVED
        if is_there and group.creator_actor_dead and group.creator_job_id.hex() == job:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
