"""Ray: connect to a cluster or start one, check that it can hold the request, run the training workers."""

import contextlib
import logging
import math
import os
import posixpath
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

# Read by Ray when it starts, hence before the import.
# Ray would nice trainer and data processes alike; ours nice themselves.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")  # a report waits for one such interval
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
# For places; then others are looked for.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray else warns will be the default

import ray
import ray.train
from ray._private import ray_constants
from ray.exceptions import AuthenticationError, RayError
from ray.train.torch import TorchConfig

from sslsv.cluster.autoscaler import adds_machines, ask_for, machines_to_come, will_grow, withdraw_request
from sslsv.cluster.capacity import CapacityError, Machine, Share, bundles_of, find_share
from sslsv.cluster.elastic import ElasticTrainer, Rules
from sslsv.cluster.failure import failure_sentence, is_failure_of_system
from sslsv.cluster.token import keep_token_private
from sslsv.cluster.worker import train_worker
from sslsv.config import Config, ResourcesConfig, to_yaml, usable_counts
from sslsv.runs.display import ActorBoard, ProgressActor, live_display
from sslsv.runs.folder import RunFolder
from sslsv.runs.log import wandb_environment, wandb_mode
from sslsv.runs.storage import absolute

# An environment of their own also keeps training workers out of processes that data tasks have niced.
WORKER_ENVIRONMENT = {
    "SSLSV_ROLE": "trainer",
    # Activations of a step are freed and needed again in the next: kept by the process and in large pages.
    # Handed back to the system, each page would be zeroed anew, which took up to a third of a CPU's step.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch: huge pages
}


@contextlib.contextmanager
def connection(resources: ResourcesConfig, *, waits_for_growth: bool = False) -> Iterator[Share]:
    """A Ray cluster that can hold the request: that of RAY_ADDRESS, or one running here, else a new one.

    Raises CapacityError within seconds when it can't; with `waits_for_growth` not where an autoscaler adds
    machines for the request: the workers then wait for them.
    """
    was_connected = ray.is_initialized()
    if not was_connected:
        check_address(os.environ.get("RAY_ADDRESS", ""))
        connect()
    has_asked = False
    try:
        share = _find_share(resources, waits_for_growth)
        has_asked = share.can_grow
        if waits_for_growth and resources.data_tasks is not None and adds_machines():
            has_asked = True
            ask_for(bundles_of(resources, share.has_gpu))
        yield share
    finally:
        if has_asked:
            withdraw_request()
        if not was_connected:
            ray.shutdown()


def _find_share(resources: ResourcesConfig, waits_for_growth: bool) -> Share:
    is_told, deadline = False, time.monotonic() + 60 * resources.wait_minutes
    while True:
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        try:
            return find_share(resources, total, *free_resources())
        except CapacityError as error:
            if not waits_for_growth:
                raise
            is_anything_coming = machines_to_come() > 0  # for whomever; they may be enough
            has_gpu = resources.gpu if resources.gpu is not None else total.get("GPU", 0.0) >= 1
            if will_grow(bundles_of(resources, has_gpu)):
                print(f"waiting for the autoscaler, which adds machines: {error}", file=sys.stderr)
                return Share(has_gpu, resources.fewest_workers, can_grow=True)
            if not is_anything_coming or time.monotonic() > deadline:
                raise
            if not is_told:
                print(f"waiting for machines that are being started anyway: {error}", file=sys.stderr)
            is_told = True


def connect(**options: Any) -> None:
    """Join the cluster that `ray.init` finds, or start one for this machine alone, without a dashboard.

    Ray would let a cluster of one machine listen on all its addresses.  A new one asks for a token, unless
    RAY_AUTH_MODE says otherwise.  For a cluster that others reach: `ray start`.  Raises CapacityError when
    the cluster does not let this process in.
    """
    keep_token_private()
    earlier = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # read while one starts; one that is joined keeps its addresses
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False, **options)
    except (ConnectionError, AuthenticationError) as error:
        raise CapacityError(
            f"the Ray cluster at {os.environ.get('RAY_ADDRESS') or 'this machine'} does not answer, or does "
            "not let this process in; if it asks for a token, set RAY_AUTH_MODE=token and put its token into "
            "~/.ray/auth_token; or set RAY_ADDRESS=local to run on this machine alone"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = earlier


def free_resources() -> tuple[Machine, list[Machine]]:
    """What the connected cluster has left, and what each of its machines has in all."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return dict(ray.available_resources()), nodes  # type: ignore[no-untyped-call]


def check_address(address: str) -> None:
    """Raise CapacityError when nothing answers at RAY_ADDRESS: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not host or not port.isdigit():
        return  # none, `auto` or `local`
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise CapacityError(
            f"RAY_ADDRESS is {address}, where no Ray cluster answers ({error}); start one, mend the address, "
            "or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def train(
    config: Config,
    folder: RunFolder,
    share: Share,
    *,
    worker: Callable[[dict[str, Any]], dict[str, Any]] = train_worker,
    **extra: Any,
) -> dict[str, Any]:
    """Run `worker` in every training process; returns the first one's summary, or `{"error": sentence}`.

    Beside an error stands `is_of_system`: whether storage, network or a lack of machines was its cause.
    `extra` is added to the job that a worker is given.  After a crash the workers start again from the newest
    checkpoint, `run.max_failures` times without a newer one; also when machines are about to go, or more have
    come.
    """
    resources = config.resources
    if config.train.precision == "fp16" and not share.has_gpu:
        raise CapacityError(
            "train.precision is 'fp16', which needs a GPU, and there is none; use 'bf16' or 'fp32'"
        )
    # Workers run in another folder.
    config = replace(config, data=replace(config.data, root=absolute(config.data.root)))
    os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"  # it would show the job, wandb's key too, to others
    # Ray hands it on to what watches the workers.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(60 * resources.hang_minutes)
    actor = ProgressActor.remote()  # type: ignore[attr-defined]
    job = {
        "config": to_yaml(config),
        "storage": posixpath.dirname(folder.root) if folder.is_local else folder.storage,
        "name": folder.name,
        "has_gpu": share.has_gpu,
        "wandb_mode": wandb_mode(config.run.wandb),
        "environment": wandb_environment(),  # in the job and not in Ray's environment, whose logs show it
        "board": ActorBoard(actor),
        "cpus_of_others": share.cpus_of_others,
        "can_grow": adds_machines(),
        **extra,
    }
    per_worker = {"CPU": resources.cpus_per_worker} | ({"GPU": 1.0} if share.has_gpu else {})
    counts = usable_counts(resources.workers, config.train.batch_size, config.train.chunk_size)
    trainer = ElasticTrainer(
        worker,  # its result comes back as return_value
        train_loop_config=job,
        rules=Rules(resources, counts, share.has_gpu, share.can_grow, ActorBoard(actor), folder),
        torch_config=TorchConfig(
            backend="nccl" if share.has_gpu else "gloo", timeout_s=math.ceil(60 * resources.hang_minutes)
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(counts[0], counts[-1]),  # type: ignore[arg-type]  # as above
            use_gpu=share.has_gpu,
            resources_per_worker=per_worker,
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees the class of Ray Train v1
            # Ray's own notes about the run; ours are what a restart reads, so these are new each time.
            name=f"ray/{uuid.uuid4().hex}",
            storage_path=folder.root,
            storage_filesystem=None if folder.is_local else folder.filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=config.run.max_failures,
                controller_failure_limit=2,  # type: ignore[call-arg]  # as above; else without end
            ),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with live_display(actor, config.run.progress):
        try:
            result = trainer.fit()
        except (ray.train.TrainingFailedError, RayError) as error:  # the second: Ray's own processes died
            return {"error": failure_sentence(error, folder), "is_of_system": is_failure_of_system(error)}
        except SystemExit as error:  # what Ray Train makes of a Ctrl-C
            raise KeyboardInterrupt from error
        finally:
            delete_notes_of_ray(folder)
    summary: dict[str, Any] = result.return_value  # type: ignore[attr-defined]  # as above
    return summary


def delete_notes_of_ray(folder: RunFolder) -> None:
    """Delete Ray Train's notes about a run that has ended; what can't be deleted is only litter."""
    try:
        folder.delete_folder("ray")
    except OSError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"{folder.path('ray')}, which nothing needs, can't be deleted: {reason}", file=sys.stderr)
