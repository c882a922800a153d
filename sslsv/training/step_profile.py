"""Times the parts of real training steps and of the data processes that feed them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sslsv.cluster.worker import open_training
from sslsv.data.pipeline import whole_batches
from sslsv.data.timed_views import DATA_SECTIONS, MAKING_SECONDS, TimedViewMaker
from sslsv.ops import distributed
from sslsv.training.loop import Training
from sslsv.training.step_parts import STEP_SECTIONS, stopwatch_of, watched_functions
from sslsv.training.stopwatch import Stopwatch
from sslsv.training.validation import TrainingError


def profile_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Entry of a Ray Train worker: seconds of `job["steps"]` steps by section, after some to get going."""
    training = open_training(job)
    try:
        with contextlib.closing(training.batches()) as batches:
            return profile_steps(training, batches, job["steps"])
    except TrainingError as error:
        return {"error": str(error)}
    finally:
        if training.log is not None:
            training.log.close()


def profile_steps(training: Training, batches: Iterator[dict[str, Tensor]], steps: int) -> dict[str, Any]:
    """Take real steps and time them: `seconds` by section and `data_seconds` of the data processes, per step.

    The first two blocks of every data process are not counted: they find files and caches cold.
    """
    config = training.config
    has_gpu = training.device.type == "cuda"
    watch = stopwatch_of(training.device)
    data = np.zeros(len(DATA_SECTIONS))
    share = config.train.batch_size // distributed.world_size()
    in_block = whole_batches(config.resources.utterances_per_block, share)
    unmeasured = min(2 * in_block * (config.resources.data_tasks or 1), 3 * steps)
    with _watched(training, watch):
        for step in range(unmeasured + steps):
            if step == unmeasured:
                watch.seconds.clear()
                data[:] = 0.0
            with watch.section("waiting for data"):
                batch = next(batches)
            if MAKING_SECONDS in batch:
                data += batch.pop(MAKING_SECONDS).sum(0).numpy()
            with watch.section("reporting"):
                batch.pop("bad_utterance")
                batch.pop("bad_bank_file")
            with watch.section("transfer"):
                numbers = training.take_step(batch)
            with watch.section("reporting"):
                training.meter.add(numbers)
                if training.state.step % config.train.log_every_steps == 0:
                    training.finish_interval(is_epoch_end=False)
    return {
        "seconds": {name: watch.seconds.get(name, 0.0) / steps for name in STEP_SECTIONS},
        "data_seconds": dict(zip(DATA_SECTIONS, (data / steps).tolist(), strict=True)),
        "workers": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "has_gpu": has_gpu,
        "has_bf16": _has_bf16(has_gpu),
    }


@contextlib.contextmanager
def _watched(training: Training, watch: Stopwatch) -> Iterator[None]:
    """The parts of a step report to the stopwatch while inside."""
    training.maker = TimedViewMaker(training.maker)
    if isinstance(training.model, DistributedDataParallel):
        training.model.register_comm_hook(watch, _average_and_wait)
    with watch.watching(watched_functions(training.state, training.model)):
        yield


def _average_and_wait(
    watch: Stopwatch,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # DDP insists on these very annotations
) -> torch.futures.Future[Tensor]:
    """What DDP does with gradients, but waited for at once, not hidden behind the backward pass."""
    with watch.section("communication"):
        gradient = bucket.buffer().div_(distributed.world_size())
        dist.all_reduce(gradient)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(gradient)
    return done


def _has_bf16(has_gpu: bool) -> bool:
    """Whether the device multiplies bf16 matrices faster than float32 ones."""
    if has_gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
