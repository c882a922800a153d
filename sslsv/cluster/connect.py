"""Join or start Ray, look at the machines of the cluster, work out what fits, ask its autoscaler for more."""

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

GROWTH_SECONDS = 12.0  # until a request is refused; an autoscaler reads requests every 5 s
SETTLING_SECONDS = 10.0  # until the resources of ended workers are free again
PAUSE_SECONDS = 0.5  # between two looks at the cluster
MAX_SOCKET = 107  # characters of the path of a Unix socket
SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # what Ray adds to its folder

Machine = dict[str, float]  # its resources, such as {"CPU": 8.0, "GPU": 1.0}


class CapacityError(ValueError):
    """The machine or cluster can't hold what is asked for."""


@dataclass(frozen=True)
class Cluster:
    """The machines of a cluster by node id, and what its autoscaler, if it has one, is doing."""

    machines: dict[str, Machine]  # all resources of each machine that answers and stays
    free: dict[str, Machine]  # their unreserved resources
    leaving: Set[str]  # machines that their provider has announced to take away
    coming: int  # machines that are being started, for any request
    has_autoscaler: bool


def cluster_state() -> Cluster:
    """Look at the connected cluster; raises RayError when it has not answered for half a minute."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=30)  # it may be busy
    nodes = {node.node_id: node for node in [*status.active_nodes, *status.idle_nodes] if node.node_id}
    leaving = {name for name, node in nodes.items() if node.node_status == "DRAINING"}
    there = {node["NodeID"] for node in ray.nodes() if node["Alive"] and _answers(node)}  # type: ignore[no-untyped-call]
    staying = {name: node for name, node in nodes.items() if name in there - leaving}
    return Cluster(
        machines={name: node.total_resources() for name, node in staying.items()},
        free={name: node.available_resources() for name, node in staying.items()},
        leaving=leaving,
        coming=len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches),
        has_autoscaler=status.stats.autoscaler_version != "0",  # it counts its rounds
    )


def _reach(address: str, timeout: float = 5) -> None:
    """Raise OSError if nothing answers at `host:port`, ValueError if it is no such address."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout).close()


def _answers(node: dict[str, Any]) -> bool:
    """Ask the machine itself, because Ray notices a lost one only after half a minute."""
    with contextlib.suppress(OSError):
        _reach(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}", timeout=1)
        return True
    return False


def with_device(resources: ResourcesConfig, machines: Iterable[Machine]) -> ResourcesConfig:
    """Return the request with `gpu` decided: as set, else whether the machines have one."""
    has_gpu = total_of(machines, "GPU") >= 1 if resources.gpu is None else resources.gpu
    return replace(resources, gpu=has_gpu)


def room_for(resources: ResourcesConfig, machines: Sequence[Machine], more_cpus: float = 0.0) -> int:
    """Return how many workers fit, each on one machine, with CPUs for a data process on any machine.

    `more_cpus` are further CPUs for data processes, beside those of `machines`.
    """
    own = worker_bundle(resources)
    slots = sum(min(int(each.get(kind, 0.0) / own[kind] + 1e-6) for kind in own) for each in machines)
    cpus = total_of(machines, "CPU") + more_cpus
    return min(slots, int(cpus / (resources.cpus_per_worker + resources.cpus_per_data_task) + 1e-6))


def worker_bundle(resources: ResourcesConfig) -> Machine:
    """Return what one training worker reserves."""
    return {"CPU": resources.cpus_per_worker} | ({"GPU": 1.0} if resources.gpu else {})


def bundles_of(resources: ResourcesConfig, workers: int) -> list[Machine]:
    """Return the request to an autoscaler: workers with a data process each, then further data processes."""
    cpus = resources.cpus_per_data_task
    together = worker_bundle(resources) | {"CPU": resources.cpus_per_worker + cpus}
    return [together] * workers + [{"CPU": cpus}] * ((resources.data_tasks or 0) - workers)


def total_of(machines: Iterable[Machine], kind: str) -> float:
    """Return the sum of one resource, such as "CPU", over the machines."""
    return sum(machine.get(kind, 0.0) for machine in machines)


@contextlib.contextmanager
def connection(
    resources: ResourcesConfig, environment: dict[str, str] | None = None, *, only_looks: bool = False
) -> Iterator[ResourcesConfig]:
    """Connect to a Ray cluster that can hold the request: RAY_ADDRESS, one running here, else a new one.

    Processes that it starts have `environment`.  Yields the request with its `gpu` decided.  Raises
    CapacityError within seconds if the request does not fit and no autoscaler is starting machines.  With
    `only_looks` no machine is asked for, and the request need not fit.
    """
    was_connected = ray.is_initialized()
    if not was_connected:
        check_address(os.environ.get("RAY_ADDRESS", ""))
        connect(environment)
    try:
        cluster = cluster_state()
        if not only_looks:
            # Ray does not publish the limits of a cluster; only the machines being started can be seen.
            patience = GROWTH_SECONDS if cluster.has_autoscaler else 0.0
            counts = [resources.worker_range[0]]
            _, cluster = wait_for_room(resources, counts, patience, lambda text: print(text, file=sys.stderr))
        yield with_device(resources, cluster.machines.values())
    except RpcError as error:
        raise CapacityError(f"the Ray cluster does not answer any more: {error}; see `ray status`") from error
    finally:
        if not only_looks:
            request_machines([])  # the request would outlive the command and keep its machines
        if not was_connected:
            ray.shutdown()


def wait_for_room(
    resources: ResourcesConfig, counts: list[int], patience_seconds: float, notice: Callable[[str], None]
) -> tuple[int, Cluster]:
    """Return how many workers, of the numbers `counts`, fit into what is free, and the cluster.

    If empty machines would hold more, waits up to `SETTLING_SECONDS` for ended workers to free theirs. Tells
    `notice` once what it waits for.  Raises CapacityError after `patience_seconds` without room and without a
    machine being started; Ray itself would wait silently and for ever.
    """
    start, is_told = time.monotonic(), False
    deadline = start + patience_seconds
    while True:
        cluster, now = cluster_state(), time.monotonic()
        machines, free = list(cluster.machines.values()), list(cluster.free.values())
        request = with_device(resources, machines)
        request_machines(bundles_of(request, counts[-1]))
        room, room_alone = room_for(request, free), room_for(request, machines)
        count, most = (max((n for n in counts if n <= each), default=0) for each in (room, room_alone))
        if count and (count == most or now - start >= SETTLING_SECONDS):
            return count, cluster
        cpus, gpus = (total_of(machines, kind) for kind in ("CPU", "GPU"))
        sentence = (
            f"{counts[0]} training worker(s) (resources.workers) take {request.cpus_per_worker:g} CPUs each "
            f"(resources.cpus_per_worker){' and a GPU' if request.gpu else ''} on one machine, and "
            f"{request.cpus_per_data_task:g} CPUs for a data process (resources.cpus_per_data_task), but "
            f"{len(machines)} machine(s) with {cpus:g} CPUs and {gpus:g} GPUs in all have room for "
            f"{room_alone}, beside other jobs for {room}"
        )
        if cluster.coming > 0:
            deadline = now + patience_seconds
        elif not count and now >= deadline:
            raise CapacityError(
                f"{sentence}; wait for them, lower resources.workers or the CPUs reserved for each (they are "
                "only counted, not enforced), or set resources.gpu=false to train on CPUs"
            )
        if not is_told and (cluster.coming > 0 or now - start >= SETTLING_SECONDS):
            notice(f"waiting for machines: {sentence}")
            is_told = True
        time.sleep(PAUSE_SECONDS)


def request_machines(bundles: list[Machine]) -> None:
    """Ask an autoscaler, if there is one, for room for `bundles`, each on one machine, and nothing else."""
    with contextlib.suppress(RayError):  # a lost cluster holds no request
        request_resources(bundles=bundles)


def connect(environment: dict[str, str] | None = None, **options: Any) -> None:
    """Join the cluster that `ray.init` finds, or start one for this machine alone, without a dashboard.

    Worker processes have `environment` and a lower priority (`lower_priority`). A new cluster listens on
    127.0.0.1 (see sslsv/__init__.py) and asks for a token, unless RAY_AUTH_MODE says otherwise. Raises
    CapacityError when the cluster does not let this process in, or has another version.
    """
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        choose_folder()
        if not has_own_cluster():
            options["address"] = "local"
    keep_token_private()

    def lower_priority() -> None:  # It runs before sys.path contains this package.
        os.nice({"trainer": 0, "data": 19}.get(os.environ.get("SSLSV_ROLE", ""), 10))

    options |= {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    start = {"env_vars": environment or {}, "worker_process_setup_hook": lower_priority}
    try:
        ray.init(runtime_env=start, **options)
    except (ConnectionError, AuthenticationError) as error:
        raise CapacityError(
            f"the Ray cluster at {os.environ.get('RAY_ADDRESS') or 'this machine'} does not answer, or does "
            "not let this process in; if it asks for a token, set RAY_AUTH_MODE=token and put its token into "
            "~/.ray/auth_token; or set RAY_ADDRESS=local to run on this machine alone"
        ) from error
    except RuntimeError as error:
        cure = "end what else runs, or make room in memory and on the disk of RAY_TMPDIR (else /tmp)"
        if "Version mismatch" in str(error):
            cure = "install the same Python and Ray on all machines, or set RAY_ADDRESS=local"
        raise CapacityError(f"Ray can't be used: {' '.join(str(error).split())}; {cure}") from error
    except Exception as error:
        if type(error) is not Exception:  # Ray raises a plain one after it has waited for half a minute
            raise
        raise CapacityError(
            "Ray's processes have not started within half a minute: this machine is too busy, or short of "
            "memory; try again, or end what else runs"
        ) from error


def ray_folder() -> Path:
    """Return where Ray keeps its sockets and logs on this machine, as its documentation says."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")


def choose_folder() -> None:
    """Have Ray use /tmp/ray-<user id> if its own folder has too long a path or is not writable.

    Raises CapacityError if another user owns that folder, who could then run code as this one.
    """
    folder = ray_folder()
    is_open = os.access(folder if folder.is_dir() else folder.parent, os.W_OK | os.X_OK)
    if len(os.fsencode(folder)) + len(SOCKET) > MAX_SOCKET or not is_open:
        own = os.environ["RAY_TMPDIR"] = f"/tmp/ray-{os.getuid()}"
        os.makedirs(own, mode=0o700, exist_ok=True)
        if os.stat(own).st_uid != os.getuid():
            raise CapacityError(f"{own} is another user's; set RAY_TMPDIR to a short folder of yours")


def has_own_cluster() -> bool:
    """Tell whether a cluster that this user has started runs here: Ray keeps the newest one in a file.

    Ray would join that one, and wait in vain if it has ended or belongs to another user.
    """
    note = ray_folder() / "ray_current_cluster"
    with contextlib.suppress(OSError, ValueError):
        _reach(note.read_text().strip())
        return note.stat().st_uid == os.getuid()
    return False


def keep_token_private() -> None:
    """Let only the owner read `~/.ray/auth_token`, which Ray would write readable by all users.

    Anyone who can read it can run code in every cluster that uses it. Does nothing if Ray takes the token
    from elsewhere or uses none. If it can't be written, the cluster has a token that no other process gets.
    """
    names_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if names_token or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    try:
        if os.environ.get("RAY_ADDRESS", "") in ("", "local") and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)  # before Ray makes it: Ray fills an empty file
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    if file.exists() and file.stat().st_uid == os.getuid() and file.stat().st_mode & 0o077:
        file.chmod(0o600)


def check_address(address: str) -> None:
    """Raise CapacityError when nothing answers at RAY_ADDRESS: Ray itself would try for minutes."""
    try:
        _reach(address)
    except ValueError:
        return  # no address, `auto` or `local`
    except OSError as error:
        raise CapacityError(
            f"RAY_ADDRESS is {address}, where no Ray cluster answers ({error}); start one, mend the address, "
            "or unset RAY_ADDRESS to run on this machine alone"
        ) from error
