"""Whether the cluster's autoscaler, if it has one, would add machines for a request."""

import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass

import ray
import ray._private.ray_constants as constants
from ray.autoscaler._private.util import format_readonly_node_type
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from sslsv.cluster.capacity import Machine

READONLY = format_readonly_node_type("")
ANSWER_SECONDS = 12.0  # it looks at requests every 5 s
PAUSE_SECONDS = 0.5  # between two looks at its report


def will_grow(bundles: list[Machine]) -> bool:
    """Ask for room for `bundles`, each on one machine, and see whether machines are being started for it.

    Ray publishes no limits of its clusters: what an autoscaler begins is all that can be seen.  Machines that
    it was starting anyway say nothing.  Where the answer is yes the request stands until `withdraw_request`.
    """
    if not has_autoscaler():
        return False
    before, is_growing = machines_in_all(), False
    try:
        request_resources(bundles=bundles)
        deadline = time.monotonic() + ANSWER_SECONDS
        while not is_growing and time.monotonic() < deadline:
            time.sleep(PAUSE_SECONDS)
            now = machines_in_all()
            before = now if before is None else before
            is_growing = now is not None and now > (before or 0)
    finally:
        if not is_growing:
            withdraw_request()
    return is_growing


def ask_for(bundles: list[Machine]) -> None:
    """Have an autoscaler keep room for `bundles`, until `withdraw_request`."""
    request_resources(bundles=bundles)


def withdraw_request() -> None:
    """Ask for nothing any more: a request outlives the command, and would keep its machines."""
    with contextlib.suppress(ray.exceptions.RayError):  # a cluster that is gone holds none
        request_resources(bundles=[])


def has_autoscaler() -> bool:
    """Whether something writes down what it does to the size of the cluster."""
    return is_autoscaler_v2() or _report() is not None


def adds_machines() -> bool:
    """Whether there are kinds of machines to add; without an autoscaler Ray calls each a kind of its own."""
    size = _size()
    return size is not None and any(not kind.startswith(READONLY) for kind in size.there)


def machines_to_come() -> int:
    """How many machines the autoscaler is starting."""
    size = _size()
    return size.to_come if size is not None else 0


def machines_in_all() -> int | None:
    """How many there are and will be: of one report, in which no machine is both; None: no answer now."""
    size = _size()
    return sum(size.there.values()) + size.to_come if size is not None else None


@dataclass(frozen=True)
class _Size:
    there: dict[str, int]  # machines by kind
    to_come: int


def _size() -> _Size | None:
    if is_autoscaler_v2():
        try:
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
        except ray.exceptions.RpcError:  # too busy to answer; it will be asked again
            return None
        kinds = Counter(node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes])
        to_come = len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
        return _Size(dict(kinds), to_come)
    report = _report() or {}
    to_come = len(report.get("pending_nodes", [])) + sum(report.get("pending_launches", {}).values())
    return _Size(report.get("active_nodes", {}), to_come)


def _report() -> "dict[str, dict[str, int]] | None":
    """What the older autoscaler writes down in every round."""
    status = _internal_kv_get(constants.DEBUG_AUTOSCALING_STATUS)
    report: dict[str, dict[str, int]] | None = json.loads(status).get("autoscaler_report") if status else None
    return report
