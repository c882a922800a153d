"""Take one optimizer step on one worker, from a batch to updated weights."""

import functools

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from sslsv.config import Config
from sslsv.evaluation.verification import PRECISIONS
from sslsv.models.base import Corpus, Progress
from sslsv.ops import distributed
from sslsv.training.optim import clip_gradients, learning_rate
from sslsv.training.state import TrainingState


def take_step(
    state: TrainingState,
    network: nn.Module,
    batch: dict[str, Tensor],
    *,
    config: Config,
    steps_per_epoch: int,
    device: torch.device,
    corpus: Corpus,
) -> dict[str, Tensor]:
    """Update `state` by one step; `network` is its wrapped model (`wrap_model`), `batch` this worker's share.

    Returns loss, its terms, gradient norm and learning rate as tensors on the device. The step does not wait
    for a GPU, except in the scaler of fp16, which checks whether the gradients are finite.
    """
    total_steps = config.train.epochs * steps_per_epoch
    epoch = state.step // steps_per_epoch
    progress = Progress(state.step, total_steps, epoch, config.train.epochs, config.seed)
    if state.step % steps_per_epoch == 0:
        state.model.start_epoch(progress, corpus)
    base_rate = config.optimizer.learning_rate
    rate = learning_rate(config.optimizer.schedule, base_rate, state.step, total_steps, steps_per_epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = group["rate_scale"] * (rate if group["follows_schedule"] else base_rate)

    with record_function("move batch"):
        batch = {key: move(value, device) for key, value in batch.items()}
    dtype = PRECISIONS[config.train.precision]
    state.optimizer.zero_grad(set_to_none=True)
    # PyTorch's own draws, such as dropout, depend only on seed, step and rank, so a resumed run repeats them.
    torch.manual_seed(((config.seed * 1_000_003 + state.step) * 65_537 + distributed.rank()) % 2**63)
    with record_function("forward"), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = network(batch, progress)
    with record_function("backward"):
        state.scaler.scale(output.loss).backward()
    with record_function("optimizer"):
        state.scaler.unscale_(state.optimizer)
        state.model.before_step(progress)
        gradient_norm = clip_gradients(state.model, config.optimizer.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.model.after_step(progress)
    state.step += 1
    numbers = {"gradient_norm": gradient_norm, "learning_rate": torch.full((), rate, device=device)}
    return {"loss": output.loss, **output.metrics, **numbers}


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on `device`; a copy from pinned memory overlaps with the GPU's computation."""
    if device.type != "cuda":
        return tensor.to(device)
    with torch.cuda.stream(_copy_stream(device)):
        moved = tensor.to(device, non_blocking=True)
    torch.cuda.current_stream(device).wait_stream(_copy_stream(device))
    # Keep the allocator from reusing the memory before the step has read it.
    moved.record_stream(torch.cuda.current_stream(device))
    return moved


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
