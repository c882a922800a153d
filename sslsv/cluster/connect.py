"""Join or start a Ray cluster, query its machines, compute what fits, and call its autoscaler for more."""

import contextlib
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import AuthenticationError, RayError, RpcError

from sslsv.config import ResourcesConfig

GROWTH_SECONDS = 12.0  # wait before a request is refused; an autoscaler reads requests every 5 s
SETTLING_SECONDS = 10.0  # time until the resources of ended workers are free again
PAUSE_SECONDS = 0.5  # between two queries of the cluster
MAX_SOCKET = 107  # largest number of characters in the path of a Unix socket
SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # Ray appends this

Machine = dict[str, float]  # resources of a machine, such as {"CPU": 8.0, "GPU": 1.0}


class CapacityError(ValueError):
    """Report that the machine or cluster can't hold the request, or can't be used."""


@dataclass(frozen=True)
class Cluster:
    """Hold the machines of a cluster by node id, and the state of its autoscaler, if it has one."""

    machines: dict[str, Machine]  # all resources of each machine that responds and is not leaving
    free: dict[str, Machine]  # unreserved resources of these machines
    leaving: Set[str]  # ids of machines that their provider is about to remove
    num_starting: int  # number of machines that are being started, for any request
    has_autoscaler: bool


def cluster_state() -> Cluster:
    """Query the connected cluster; raises RayError if it has not answered for half a minute."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=30)  # the cluster may be busy
    nodes = {node.node_id: node for node in [*status.active_nodes, *status.idle_nodes] if node.node_id}
    leaving = {node_id for node_id, node in nodes.items() if node.node_status == "DRAINING"}
    responding = {node["NodeID"] for node in ray.nodes() if node["Alive"] and _answers(node)}  # type: ignore[no-untyped-call]
    staying = {node_id: node for node_id, node in nodes.items() if node_id in responding - leaving}
    return Cluster(
        machines={node_id: node.total_resources() for node_id, node in staying.items()},
        free={node_id: node.available_resources() for node_id, node in staying.items()},
        leaving=leaving,
        num_starting=len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches),
        has_autoscaler=status.stats.autoscaler_version != "0",  # counts the autoscaler's rounds
    )


def _reach(address: str, timeout: float = 5) -> None:
    """Raise OSError if nothing answers at `host:port`, ValueError if the address has another form."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout).close()


def _answers(node: dict[str, Any]) -> bool:
    """Return whether the machine itself responds; Ray notices a lost one only after half a minute."""
    with contextlib.suppress(OSError):
        _reach(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}", timeout=1)
        return True
    return False


def with_device(resources: ResourcesConfig, machines: Iterable[Machine]) -> ResourcesConfig:
    """Return the request with `gpu` resolved: as set, or if null, whether the machines have a GPU."""
    has_gpu = total_of(machines, "GPU") >= 1 if resources.gpu is None else resources.gpu
    return replace(resources, gpu=has_gpu)


def room_for(resources: ResourcesConfig, machines: Sequence[Machine], more_cpus: float = 0.0) -> int:
    """Return how many workers fit, each on a single machine; its data process may be on another machine.

    `more_cpus` is added to the CPUs of `machines`; a negative value stands for CPUs that other jobs hold.
    """
    need = worker_bundle(resources)
    slots = sum(min(int(machine.get(kind, 0.0) / need[kind] + 1e-6) for kind in need) for machine in machines)
    cpus = total_of(machines, "CPU") + more_cpus
    return min(slots, int(cpus / (resources.cpus_per_worker + resources.cpus_per_data_task) + 1e-6))


def worker_bundle(resources: ResourcesConfig) -> Machine:
    """Return the resources that one training worker reserves."""
    return {"CPU": resources.cpus_per_worker} | ({"GPU": 1.0} if resources.gpu else {})


def bundles_of(resources: ResourcesConfig, workers: int) -> list[Machine]:
    """Return the request to an autoscaler: workers with a data process each, then further data processes."""
    cpus = resources.cpus_per_data_task
    pair = worker_bundle(resources) | {"CPU": resources.cpus_per_worker + cpus}
    return [pair] * workers + [{"CPU": cpus}] * ((resources.data_tasks or 0) - workers)


def total_of(machines: Iterable[Machine], kind: str) -> float:
    """Return the sum of one resource, such as "CPU", over the machines."""
    return sum(machine.get(kind, 0.0) for machine in machines)


@contextlib.contextmanager
def connection(
    resources: ResourcesConfig, environment: dict[str, str] | None = None, *, is_dry_run: bool = False
) -> Iterator[ResourcesConfig]:
    """Connect to a Ray cluster that can hold the request: RAY_ADDRESS, else one running here, else a new one.

    Worker processes get `environment`. Yields the request with `gpu` resolved. Raises CapacityError within
    seconds if the request does not fit and no autoscaler is starting machines. With `is_dry_run`, no machines
    are requested, and the request need not fit.
    """
    was_connected = ray.is_initialized()
    if not was_connected:
        check_address(os.environ.get("RAY_ADDRESS", ""))
        connect(environment)
    try:
        cluster = cluster_state()
        if not is_dry_run:
            # Ray does not expose the limits of a cluster, only the machines that are being started.
            patience = GROWTH_SECONDS if cluster.has_autoscaler else 0.0
            counts = [resources.worker_range[0]]
            _, cluster = wait_for_room(resources, counts, patience, lambda text: print(text, file=sys.stderr))
        yield with_device(resources, cluster.machines.values())
    except RpcError as error:
        raise CapacityError(f"the Ray cluster does not answer any more: {error}; see `ray status`") from error
    finally:
        if not is_dry_run:
            request_machines([])  # the request would outlive the command and keep its machines
        if not was_connected:
            ray.shutdown()


def wait_for_room(
    resources: ResourcesConfig, counts: list[int], patience_seconds: float, notice: Callable[[str], None]
) -> tuple[int, Cluster]:
    """Return the largest of the worker numbers `counts` that fits into the free resources, and the cluster.

    If some fit now, but more would fit into empty machines, waits up to `SETTLING_SECONDS` for ended workers
    to release resources. Calls `notice` once if machines are started or it waits longer. Raises CapacityError
    after `patience_seconds` without room and without new machines; Ray itself would wait forever, silently.
    """
    start, has_notified = time.monotonic(), False
    deadline = start + patience_seconds
    while True:
        cluster, now = cluster_state(), time.monotonic()
        machines, free = list(cluster.machines.values()), list(cluster.free.values())
        request = with_device(resources, machines)
        request_machines(bundles_of(request, counts[-1]))
        room, room_alone = room_for(request, free), room_for(request, machines)
        count, max_count = (max((n for n in counts if n <= size), default=0) for size in (room, room_alone))
        if count and (count == max_count or now - start >= SETTLING_SECONDS):
            return count, cluster
        cpus, gpus = (total_of(machines, kind) for kind in ("CPU", "GPU"))
        sentence = (
            f"{counts[0]} training worker(s) (resources.workers) take {request.cpus_per_worker:g} CPUs each "
            f"(resources.cpus_per_worker){' and a GPU' if request.gpu else ''} on one machine, and "
            f"{request.cpus_per_data_task:g} CPUs for a data process (resources.cpus_per_data_task), but "
            f"{len(machines)} machine(s) with {cpus:g} CPUs and {gpus:g} GPUs in all have room for "
            f"{room_alone} ({room} while other jobs run)"
        )
        if cluster.num_starting > 0:
            deadline = now + patience_seconds
        elif not count and now >= deadline:
            raise CapacityError(
                f"{sentence}; wait for other jobs to end, lower resources.workers or the CPUs reserved for "
                "each (they are only counted, not enforced), or set resources.gpu=false to train on CPUs"
            )
        if not has_notified and (cluster.num_starting > 0 or now - start >= SETTLING_SECONDS):
            notice(f"waiting for machines: {sentence}")
            has_notified = True
        time.sleep(PAUSE_SECONDS)


def request_machines(bundles: list[Machine]) -> None:
    """Ask the autoscaler, if there is one, for exactly `bundles`, each on one machine."""
    with contextlib.suppress(RayError):  # a lost cluster holds no request
        request_resources(bundles=bundles)


def connect(environment: dict[str, str] | None = None, **options: Any) -> None:
    """Join the cluster that `ray.init` finds, or start one on this machine only, without a dashboard.

    Worker processes get `environment` and the priority of their role (`lower_priority`). A new cluster
    listens on 127.0.0.1 (see sslsv/__init__.py) and requires a token, unless RAY_AUTH_MODE is set otherwise.
    Raises CapacityError if the cluster refuses this process, has another version, or does not start.
    """
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        choose_folder()
        if not has_own_cluster():
            options["address"] = "local"
    keep_token_private()

    def lower_priority() -> None:  # runs before sys.path contains this package
        os.nice({"trainer": 0, "data": 19}.get(os.environ.get("SSLSV_ROLE", ""), 10))

    options |= {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    runtime_env = {"env_vars": environment or {}, "worker_process_setup_hook": lower_priority}
    try:
        ray.init(runtime_env=runtime_env, **options)
    except (ConnectionError, AuthenticationError) as error:
        raise CapacityError(
            f"the Ray cluster at {os.environ.get('RAY_ADDRESS') or 'this machine'} does not answer, or does "
            "not let this process in; if it asks for a token, set RAY_AUTH_MODE=token and put its token into "
            "~/.ray/auth_token; or set RAY_ADDRESS=local to run on this machine alone"
        ) from error
    except RuntimeError as error:
        advice = "end other programs, or free memory and disk space in RAY_TMPDIR (default /tmp)"
        if "Version mismatch" in str(error):
            advice = "install the same Python and Ray on all machines, or set RAY_ADDRESS=local"
        raise CapacityError(f"Ray can't be used: {' '.join(str(error).split())}; {advice}") from error
    except Exception as error:
        if type(error) is not Exception:  # Ray raises a plain Exception after half a minute
            raise
        raise CapacityError(
            "Ray's processes have not started within half a minute: this machine is too busy, or short of "
            "memory; try again, or end other programs"
        ) from error


def ray_folder() -> Path:
    """Return the folder of Ray's sockets and logs on this machine, as documented by Ray."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")


def choose_folder() -> None:
    """Make Ray use /tmp/ray-<user id> if the path of its default folder is too long or not writable.

    Raises CapacityError if /tmp/ray-<user id> belongs to another user, who could then run code as this user.
    """
    folder = ray_folder()
    is_writable = os.access(folder if folder.is_dir() else folder.parent, os.W_OK | os.X_OK)
    if len(os.fsencode(folder)) + len(SOCKET) > MAX_SOCKET or not is_writable:
        own_folder = os.environ["RAY_TMPDIR"] = f"/tmp/ray-{os.getuid()}"
        os.makedirs(own_folder, mode=0o700, exist_ok=True)
        if os.stat(own_folder).st_uid != os.getuid():
            raise CapacityError(f"{own_folder} is another user's; set RAY_TMPDIR to a short path of yours")


def has_own_cluster() -> bool:
    """Return whether a cluster started by this user runs here, by Ray's file of the newest cluster.

    Ray would join that cluster unchecked, and would wait in vain if it has ended or is another user's.
    """
    address_file = ray_folder() / "ray_current_cluster"
    with contextlib.suppress(OSError, ValueError):
        _reach(address_file.read_text().strip())
        return address_file.stat().st_uid == os.getuid()
    return False


def keep_token_private() -> None:
    """Let only the owner read `~/.ray/auth_token`, which Ray would make readable by all users.

    Anyone who can read the token can run code in every cluster that uses it. Does nothing if Ray takes the
    token from elsewhere or uses none. If the file can't be written, uses a token that no other process knows.
    """
    token_source = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token_source or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    try:
        if os.environ.get("RAY_ADDRESS", "") in ("", "local") and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)  # before Ray creates it; Ray then fills the empty file
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    if file.exists() and file.stat().st_uid == os.getuid() and file.stat().st_mode & 0o077:
        file.chmod(0o600)


def check_address(address: str) -> None:
    """Raise CapacityError if nothing answers at RAY_ADDRESS; Ray itself would retry for minutes."""
    try:
        _reach(address)
    except ValueError:
        return  # no address, `auto` or `local`
    except OSError as error:
        raise CapacityError(
            f"RAY_ADDRESS is {address}, where no Ray cluster answers ({error}); start one, correct the "
            "address, or unset RAY_ADDRESS to run on this machine alone"
        ) from error
