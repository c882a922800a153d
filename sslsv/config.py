"""The settings of a run: the tree of sections, read strictly from yaml, overridden by `key.path=value`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sslsv.data.section import DataConfig
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.settings import EvaluationConfig, LabelFreeConfig
from sslsv.models.barlow_twins import BarlowTwins
from sslsv.models.simclr import SimCLR
from sslsv.models.vibcreg import VIbCReg
from sslsv.models.vicreg import VICReg
from sslsv.overrides import apply_overrides, differences
from sslsv.project import locate
from sslsv.runs.storage import check_place
from sslsv.setting_checks import check_memory_settings, check_run_name, is_among
from sslsv.settings import at_least, build, refuse_if
from sslsv.strict_yaml import ConfigError, dump_yaml, parse_yaml, read_yaml
from sslsv.training.optim import OptimizerConfig
from sslsv.worker_counts import Workers, check_equal_shares, check_workers

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "LabelFreeConfig",
    "apply_overrides",
    "differences",
    "load_config",
    "to_yaml",
]


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """What to do when all embeddings become alike."""

    min_feature_std: float = 0.01  # spread of embeddings: 1 = even, 0 = alike; new weights have 0.03 to 0.1
    action: Literal["warn", "stop", "ignore"] = "warn"  # stop saves tune the rest of a dead trial


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop: how long, how much at once, in which arithmetic."""

    epochs: int = 100
    batch_size: int = 256  # utterances per step over ALL workers
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of encoder and projector; losses are always fp32
    channels_last: bool = False  # memory layout of convolutions; faster with bf16
    compile: bool = False  # torch.compile: minutes at the start, faster steps on GPUs
    sync_batchnorm: bool = True  # batch statistics over all workers: the same run whatever their number
    # For a small GPU, `recompute` first: the very same run in half the memory and 1.3 times the time.
    recompute: bool = False  # keep the blocks' inputs only, and run the blocks again for the gradients
    # If that is not enough: the loss still sees the whole batch, batch norm sees each chunk as a worker's.
    chunk_size: int | None = None  # utterances per forward pass of one worker; null = its share at once
    patience: int | None = None  # validations without a better value before the run stops; null = never
    log_every_steps: int = 50
    collapse: CollapseConfig = field(default_factory=CollapseConfig)

    def __post_init__(self) -> None:
        """Refuse counts below their smallest sensible value."""
        at_least(1, self, "epochs", "log_every_steps", "patience")
        at_least(2, self, "batch_size", "chunk_size")
        check_memory_settings(self.chunk_size, self.recompute, self.compile, self.sync_batchnorm)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is called, where it goes, and who is told."""

    storage: str = "runs"  # folder or URI (s3://, gs://, ...) with one folder per run; shared by all machines
    name: str | None = None  # null = the yaml's file name without .yml
    checkpoint_every_minutes: float = 10.0  # also one after every validation
    keep_checkpoints: int = 2  # newest ones kept, besides the best
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"  # auto = online if an API key is set up
    wandb_project: str = "sslsv"
    tensorboard: bool = True
    progress: bool = True  # progress bar in the terminal
    max_failures: int = 3  # restarts after crashes without a new checkpoint between them; -1 = without end

    def __post_init__(self) -> None:
        """Refuse counts below their smallest sensible value."""
        check_place("storage", self.storage)
        check_run_name(self.name)
        at_least(1, self, "keep_checkpoints")
        at_least(-1, self, "max_failures")
        refuse_if(
            self.checkpoint_every_minutes <= 0,
            f"checkpoint_every_minutes is {self.checkpoint_every_minutes}; it must be above 0",
        )


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What a run takes of the machine or cluster."""

    # Training processes, one GPU each if there are any; [1, 8]: as many as fit, following the cluster.
    workers: Workers = 1
    gpu: bool | None = None  # null = one per worker if the cluster has any
    threads_per_worker: int | None = None  # on CPUs; null = the machine's cores shared by its workers
    cpus_per_worker: float = 0.5  # logical CPUs reserved for each training process
    data_tasks: int | None = None  # data processes at once over all workers; null = as many as CPUs allow
    cpus_per_data_task: float = 0.5  # logical CPUs reserved for each; they run niced, on one thread
    utterances_per_block: int = 1024  # made by one data task: fewer = less memory, more overhead of Ray
    resize_minutes: float = 1.0  # workers in a range: how often to look whether more would fit
    wait_minutes: float = 10.0  # for machines that were lost; longer while an autoscaler is starting some
    hang_minutes: float = 10.0  # without a sign of life from a worker before all are started again

    def __post_init__(self) -> None:
        """Refuse counts, shares and times below their smallest sensible value."""
        check_workers(self.workers)
        at_least(1, self, "threads_per_worker", "data_tasks", "utterances_per_block")
        for name in (
            "cpus_per_worker", "cpus_per_data_task", "resize_minutes", "wait_minutes", "hang_minutes"
        ):  # fmt: skip
            refuse_if(getattr(self, name) <= 0, f"{name} is {getattr(self, name)}; it must be above 0")

    @property
    def fewest_workers(self) -> int:
        """The number of workers, or the lower end of its range."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """The number of workers, or the upper end of its range."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


ModelConfig = SimCLR.Config | VICReg.Config | VIbCReg.Config | BarlowTwins.Config


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run; the same settings and the same data give the same run."""

    seed: int = 1717  # of everything that is drawn: weights, order, crops, noise
    data: DataConfig = field(default_factory=DataConfig)
    encoder: ThinResNet34.Config = field(default_factory=ThinResNet34.Config)
    model: Annotated[ModelConfig, Field(discriminator="name")] = field(default_factory=SimCLR.Config)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    def __post_init__(self) -> None:
        """Refuse sections that do not go together."""
        refuse_if(not 0 <= self.seed < 2**63, f"seed is {self.seed}; it must be from 0 to 2**63 - 1")
        check_equal_shares(self.train, self.resources.workers)
        schedule = self.optimizer.schedule
        refuse_if(
            schedule.name == "warmup_cosine" and schedule.warmup_epochs > self.train.epochs,
            f"optimizer.schedule.warmup_epochs is {schedule.warmup_epochs}, longer than the run "
            f"(train.epochs = {self.train.epochs}); lower the first or raise the second",
        )
        refuse_if(
            self.train.precision == "fp16" and self.resources.gpu is False,
            "train.precision is 'fp16', which needs a GPU, and resources.gpu is false; use 'bf16' or 'fp32'",
        )
        evaluation = self.evaluation
        refuse_if(
            self.train.patience is not None and evaluation.chosen_by is None,
            f"train.patience is {self.train.patience} but nothing is validated; set "
            "evaluation.held_out_speakers, evaluation.validation or a label-free evaluation.criterion, or "
            "train.patience=null",
        )
        refuse_if(
            is_among(self.data.root, evaluation.validation, evaluation.test)
            and not evaluation.allow_validation_on_test,
            f"evaluation.validation and evaluation.test both name {evaluation.validation!r}: choosing "
            "checkpoints on test trials makes results look better than they are; use held_out_speakers, or "
            "set allow_validation_on_test=true to do it anyway",
        )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Settings from a yaml file, then `key.path=value` overrides; where `run.name` is null, the file's stem.

    Raises `ConfigError`: one sentence with the file, the key, what was given and what is allowed.
    """
    path = locate(path)
    raw = read_yaml(path)
    try:
        config = build(Config, {} if raw is None else raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    config = apply_overrides(config, overrides)
    if config.run.name is None:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, name=path.stem))
    return config


def to_yaml(config: Config) -> str:
    """Every setting as yaml that `load_config` reads back to an equal config."""
    return dump_yaml(dataclasses.asdict(config))


def read_config(text: str) -> Config:
    """The settings that `to_yaml` wrote."""
    return build(Config, parse_yaml(text))


def to_dict(config: Config) -> dict[str, Any]:
    """Every setting as plain nested values."""
    return dataclasses.asdict(config)
