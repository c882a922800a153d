"""Whether the cluster's autoscaler, if it has one, would add machines for a request."""

import json
import time

import ray
import ray._private.ray_constants as constants
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from sslsv.capacity import Machine

ANSWER_SECONDS = 12.0  # it looks at requests every 5 s


def will_grow(bundles: list[Machine]) -> bool:
    """Ask for room for `bundles`, each on one machine, and see whether machines are being started for it.

    Ray publishes no limits of its clusters: what an autoscaler begins is all that can be seen.  Without one,
    and where it begins nothing, the answer is no and the request withdrawn.
    """
    if not has_autoscaler():
        return False
    before = _machines()
    request_resources(bundles=bundles)
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        if machines_to_come() > 0 or _machines() > before:
            return True
        time.sleep(0.5)
    request_resources(bundles=[])
    return False


def has_autoscaler() -> bool:
    """Whether something writes down what it does to the size of the cluster."""
    return is_autoscaler_v2() or _report() is not None


def machines_to_come() -> int:
    """How many machines the autoscaler is starting."""
    if is_autoscaler_v2():
        try:
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
        except ray.exceptions.RpcError:  # too busy to answer; it will be asked again
            return 0
        return len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
    report = _report() or {}
    return len(report.get("pending_nodes", [])) + sum(report.get("pending_launches", {}).values())


def _report() -> "dict[str, dict[str, int]] | None":
    """What the older autoscaler writes down in every round."""
    status = _internal_kv_get(constants.DEBUG_AUTOSCALING_STATUS)
    report: dict[str, dict[str, int]] | None = json.loads(status).get("autoscaler_report") if status else None
    return report


def _machines() -> int:
    return sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
