"""Build the training state, convert it to a checkpoint, and restore it from one."""

import inspect
from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sslsv.build import build_model
from sslsv.config import Config, to_yaml
from sslsv.models.base import CorpusSize, Model
from sslsv.ops import distributed
from sslsv.ops.batchnorm import synchronize_batchnorm
from sslsv.runs.checkpoint import Checkpoint, Position, newest_undamaged_checkpoint, read_checkpoint
from sslsv.runs.environment import describe_environment
from sslsv.runs.folder import RunFolder
from sslsv.training.initial import load_source
from sslsv.training.optim import build_optimizer, encoder_rates


@dataclass(kw_only=True)
class TrainingState(Position):
    """Hold all that changes during training, equal on all workers (`seconds` on the first one only)."""

    model: Model
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    size: CorpusSize


def build_state(config: Config, size: CorpusSize, device: torch.device) -> TrainingState:
    """Build the initial state, equal on all workers; raises ValueError for an unsupported setting."""
    model = build_model(config, size).to(device)
    if config.data.speeds_are_classes and not model.needs_labels:
        raise ValueError(
            f"data.speeds_are_classes is true, but {config.model.name} sees no labels; set it to false"
        )
    if config.train.sync_batchnorm and distributed.world_size() > 1:
        synchronize_batchnorm(model)  # in place; after the move, because GPUs use a faster class
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)
    groups = encoder_rates(model.parameter_groups(), model.encoder)
    return TrainingState(
        model=model,
        optimizer=build_optimizer(groups, config.optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16"),
        size=size,
    )


def wrap_model(model: Model, config: Config, device: torch.device) -> nn.Module:
    """Wrap the model for the loop: compile it if asked, average gradients if there are several workers."""
    wrapped: nn.Module = model
    if config.train.compile:
        # If compiled, this method would be recompiled in every step, because its draws depend on the step.
        sample = torch.compiler.disable(model.sample_positives)  # type: ignore[no-untyped-call]
        model.sample_positives = sample  # type: ignore[method-assign]
        wrapped = torch.compile(model)  # type: ignore[assignment]
    return wrapped if distributed.world_size() == 1 else average_gradients(wrapped, device)


def average_gradients(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Wrap a network so that its gradients are averaged over the workers.

    Buffers need no broadcast: queues and teachers are equal on all workers by contract, and running
    statistics are shared before they are used (`share_buffers`).
    """
    # PyTorch 2.14 deprecates `broadcast_buffers`; 2.8 lacks the new name.
    names = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    # DDP rebuilds its gradient buckets after the first step, which changes the order of additions, so that a
    # resumed run would differ in the last bit. `find_unused_parameters=True` (cheap on CPUs) prevents this.
    # On GPUs, NCCL does not guarantee the order of sums anyway.
    is_cpu = device.type == "cpu"
    return DistributedDataParallel(network, find_unused_parameters=is_cpu, **{option: False})  # type: ignore[arg-type]


def checkpoint_of(state: TrainingState, config: Config) -> Checkpoint:
    """Return the state as a checkpoint that shares the state's tensors."""
    return Checkpoint(
        config=to_yaml(config),
        corpus_size=(state.size.num_utterances, state.size.num_speakers),
        model=state.model.state_dict(),
        optimizer=state.optimizer.state_dict(),
        scaler=state.scaler.state_dict(),
        **{each.name: getattr(state, each.name) for each in fields(Position)},
        environment=describe_environment(),
    )


def restore_state(state: TrainingState, folder: RunFolder, config: Config) -> None:
    """Load the run's newest undamaged checkpoint or, without one, `encoder.init` or `encoder.weights`.

    The first worker chooses the checkpoint, so that all load the same file even if the folder changes.
    """
    newest = newest_undamaged_checkpoint(folder) if distributed.is_main() else None
    name = distributed.broadcast_object(newest)
    if name is None:
        if (source := load_source(config)) is not None:
            with torch.no_grad():
                state.model.start_from(*source)
        return
    checkpoint = read_checkpoint(folder, name)
    state.model.load_state_dict(checkpoint.model)
    state.optimizer.load_state_dict(checkpoint.optimizer)
    if checkpoint.scaler and state.scaler.is_enabled():
        state.scaler.load_state_dict(checkpoint.scaler)
    for field in fields(Position):
        setattr(state, field.name, getattr(checkpoint, field.name))
