"""Define the settings of a run: every field with its unit and range, and the rules between fields."""

import os
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from sslsv.data.section import DataConfig
from sslsv.settings import (
    Location,
    apply_overrides,
    build,
    choice,
    differences,
    dump_yaml,
    load,
    locate,
    parse_yaml,
    refuse_if,
    section,
)

# Metrics that can select the best checkpoint; not label_free/alignment, best when all embeddings are equal.
LowerIsBetter = Literal["eer", "min_dcf", "label_free/pseudo_eer"]
HigherIsBetter = Literal["label_free/lidar", "label_free/rankme"]
Criterion = Literal[LowerIsBetter, HigherIsBetter]
CRITERIA = get_args(Criterion)
# Prefixes of settings that change no result, so that a resumed run may change them ("run." is a section).
CHANGEABLE: tuple[str, ...] = ("run.", "resources.", "data.max_bad_share:", "data.bank_cache_mb:")
CHANGEABLE += ("evaluation.batch_seconds:", "train.log_every_steps:", "train.recompute:")
Count = Annotated[int, Field(ge=1)]


@section
class ScheduleConfig:
    """Set how the learning rate changes over a run. Descriptions name the schedules that use a setting."""

    name: Literal["constant", "step", "cosine", "warmup_cosine", "warmup_exponential"] = "step"
    warmup_epochs: Annotated[float, Field(ge=0, description="warmup_*: epochs of linear warm-up")] = 10.0
    min_learning_rate: Annotated[
        float, Field(ge=0, description="cosine, warmup_cosine, warmup_exponential: rate of the last step")
    ] = 1e-5
    decay_factor: Annotated[float, Field(gt=0, le=1, description="step: factor of each decay")] = 0.95
    decay_every_epochs: Annotated[int, Field(ge=1, description="step: epochs between two decays")] = 5


@section
class OptimizerConfig:
    """Choose the optimiser and its learning rate."""

    name: Literal["adam", "adamw", "sgd", "lars"] = "adam"
    # The rate applies to the global batch (train.batch_size) and is not scaled with its size.
    learning_rate: Annotated[float, Field(gt=0, description="base rate, scaled by the schedule")] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, description="applied to matrices and kernels only")] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="sgd and lars: momentum")] = 0.9
    nesterov: Annotated[bool, Field(description="sgd: use Nesterov momentum")] = False
    clip_norm: Annotated[float | None, Field(gt=0, description="maximum joint L2 norm of gradients")] = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        lowest, highest = self.schedule.min_learning_rate, self.learning_rate
        name = self.schedule.name
        refuse_if(
            name not in ("constant", "step") and lowest > highest,
            f"schedule.min_learning_rate is {lowest}, above learning_rate ({highest}); {name} only "
            "lowers the rate: lower the first or raise the second",
        )
        refuse_if(
            name == "warmup_exponential" and not lowest,
            "schedule.min_learning_rate is 0, which an exponential never reaches: give a small rate",
        )
        refuse_if(
            self.nesterov and (self.name != "sgd" or not self.momentum),
            f"nesterov is true, with {self.name} and a momentum of {self.momentum}; it needs sgd "
            "and a momentum above 0: leave it out",
        )


@section
class CollapseConfig:
    """Define when embeddings count as collapsed, and what to do in that case."""

    # The spread is 1 for isotropic embeddings, 0 for equal ones, and 0.03 to 0.1 for an untrained encoder.
    min_feature_std: Annotated[float, Field(ge=0, description="smaller spreads count as collapse")] = 0.01
    # In a sweep (`sslsv tune`) the action is always "stop".
    action: Literal["warn", "stop", "ignore"] = "warn"


@section
class TrainConfig:
    """Set the length of training, the batch size, the precision, early stopping and logging."""

    epochs: Annotated[int, Field(ge=1, description="passes over the training utterances")] = 100
    batch_size: Annotated[int, Field(ge=2, description="utterances per step, over all workers")] = 256
    # The precision applies to the encoder and the projector; losses are always computed in fp32.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: Annotated[bool, Field(description="layout of convolutions; faster with bf16")] = False
    compile: Annotated[bool, Field(description="torch.compile: slow start, faster GPU steps")] = False
    # If this is false, the result depends on the number of workers.
    sync_batchnorm: Annotated[bool, Field(description="batch-norm statistics over all workers")] = True
    # Try this first if GPU memory is short: a third of the memory, 1.4 times the time, same results (H200).
    recompute: Annotated[bool, Field(description="recompute activations in the backward pass")] = False
    patience: Annotated[int | None, Field(ge=1, description="stop after N validations without gain")] = None
    log_every_steps: Annotated[int, Field(ge=1, description="steps between two log records")] = 50
    collapse: CollapseConfig = field(default_factory=CollapseConfig)

    def __post_init__(self) -> None:
        # torch.compile itself decides which activations to keep.
        both = self.compile and self.recompute
        refuse_if(both, "compile and recompute are both true; set one of them to false")


@section
class LabelFreeConfig:
    """Measure the encoder without labels at every validation, on views of training utterances."""

    # RankMe and LiDAR are comparable only for equal `utterances` and `views`. 4096 x 4 views take 1 GB.
    utterances: Annotated[int, Field(ge=0, le=4096, description="utterances measured; 0 = off")] = 256
    views: Annotated[int, Field(ge=2, description="views per utterance, each augmented differently")] = 4
    crop_seconds: Annotated[float, Field(ge=0.1, description="length of a view")] = 2.0

    def __post_init__(self) -> None:
        refuse_if(self.utterances == 1, "utterances is 1; it must be 0 (no label-free values), or 2 or more")


@section
class EvaluationConfig:
    """Name the trials that select the best checkpoint (validation) and those that are only reported."""

    every_epochs: Annotated[int, Field(ge=1, description="epochs between two validations")] = 1
    held_out_speakers: Annotated[int, Field(ge=0, description="training speakers kept for validation")] = 0
    # If true, each held-out recording is used twice, each time with another room, noise and level.
    held_out_is_shifted: Annotated[bool, Field(description="simulate rooms, noises, levels")] = False
    validation: Annotated[Location | None, Field(description="list with `1|0 enrolment test` lines")] = None
    label_free: LabelFreeConfig = field(default_factory=LabelFreeConfig)
    # null means eer if there are validation trials; without them, no best checkpoint is selected.
    criterion: Annotated[Criterion | None, Field(description="selects the best checkpoint")] = None
    test: Annotated[tuple[Location, ...], Field(description="lists of trials that are only reported")] = ()
    test_every_epochs: Annotated[int, Field(ge=0, description="epochs between tests; 0 = only at end")] = 0
    batch_seconds: Annotated[float, Field(gt=0, description="seconds of audio per forward pass")] = 120.0
    allow_validation_on_test: Annotated[
        bool, Field(description="allow a test list as the validation list; the report then says so")
    ] = False

    def __post_init__(self) -> None:
        refuse_if(self.held_out_speakers == 1, "held_out_speakers is 1; nontarget trials need 2 or more")
        refuse_if(
            self.validation is not None and self.held_out_speakers > 0,
            f"validation is {self.validation!r} and held_out_speakers {self.held_out_speakers}; keep one: "
            "held_out_speakers=0 or validation=null",
        )
        is_label_free = str(self.criterion).startswith("label_free/")
        has_values = self.label_free.utterances > 0 if is_label_free else self.has_validation_trials
        refuse_if(
            self.criterion is not None and not has_values,
            f"criterion is {self.criterion!r}, but nothing gives it values; set held_out_speakers or "
            "validation for 'eer' and 'min_dcf', label_free.utterances for the others",
        )
        # Metrics of a list are called `test/<file name>/...`.
        names = ["validation", *[os.path.basename(os.path.normpath(each)) for each in self.test]]
        refuse_if(
            len(set(names)) < len(names),
            f"test is {list(self.test)}; results are stored by file name, and one occurs twice "
            "('validation' is taken): rename a file, or list it once",
        )

    @property
    def has_validation_trials(self) -> bool:
        """Return whether there are validation trials, either listed or made from held-out speakers."""
        return self.validation is not None or self.held_out_speakers > 0

    @property
    def selection_criterion(self) -> Criterion | None:
        """Return the criterion that selects the best checkpoint; None if nothing is validated."""
        return self.criterion or ("eer" if self.has_validation_trials else None)


@section
class RunConfig:
    """Set the name and the storage of a run, its checkpoints, its loggers and its restarts."""

    # All machines of a cluster must have access to the storage. URIs begin with s3://, gs:// or others.
    storage: Annotated[Location, Field(description="folder or URI with one folder per run")] = "runs"
    # The run's folder in the storage gets this name. It must not contain slashes or consist of dots only.
    name: Annotated[
        str | None,
        Field(pattern=r"^[^/\\]*[^/\\. ][^/\\]*$", description="null = the file name without .yml"),
    ] = None
    checkpoint_every_minutes: Annotated[
        float, Field(gt=0, description="saved at the next log record, in addition to those at validations")
    ] = 10.0
    keep_checkpoints: Annotated[int, Field(ge=1, description="newest files to keep, besides the best")] = 2
    wandb: Annotated[
        Literal["auto", "online", "offline", "disabled"],
        Field(description="auto = as set by `wandb login|offline` or WANDB_MODE; never online without a key"),
    ] = "auto"
    wandb_project: str = "sslsv"
    tensorboard: bool = True
    progress: Annotated[bool, Field(description="progress bar in the terminal")] = True
    # Only crashes since the last new checkpoint count; -1 means no limit.
    max_failures: Annotated[int, Field(ge=-1, description="restarts after crashes")] = 3


@section
class ResourcesConfig:
    """Set how many processes, GPUs and CPUs a run uses, and how long it waits for them."""

    # Training processes, each with one GPU if the cluster has any. [1, 8] means as many as currently fit.
    workers: Count | tuple[Count, Count] = 1
    gpu: Annotated[bool | None, Field(description="one GPU per worker; null = if there are any")] = None
    threads_per_worker: Annotated[int | None, Field(ge=1, description="null = equal share of cores")] = None
    cpus_per_worker: Annotated[float, Field(gt=0, description="logical CPUs reserved per worker")] = 0.5
    # null means as many as the free CPUs allow. Each worker has at least one.
    data_tasks: Annotated[int | None, Field(ge=1, description="data processes of all workers")] = None
    cpus_per_data_task: Annotated[float, Field(gt=0, description="logical CPUs reserved per process")] = 0.5
    # Smaller blocks need less memory, but cause more overhead in Ray.
    utterances_per_block: Annotated[int, Field(ge=1, description="utterances per data task")] = 1024
    resize_minutes: Annotated[float, Field(gt=0, description="time between attempts to add workers")] = 1.0
    # The wait is longer while an autoscaler is starting machines.
    wait_minutes: Annotated[float, Field(gt=0, description="time to wait for lost machines")] = 10.0
    hang_minutes: Annotated[float, Field(gt=0, description="time without response before a restart")] = 10.0

    @property
    def worker_range(self) -> tuple[int, int]:
        """Return the smallest and the largest number of workers, equal if one number is set."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers


@section
class Config:
    """Hold all settings of a run; the same settings and the same data give the same run."""

    # All random draws depend on the seed: initial weights, sample order, crops, augmentation.
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1717
    data: DataConfig = field(default_factory=DataConfig)
    encoder: Annotated[Any, choice("encoders")] = field(default_factory=choice("encoders", "thin_resnet34"))
    model: Annotated[Any, choice("models")] = field(default_factory=choice("models", "simclr"))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    def __post_init__(self) -> None:
        train, evaluation, schedule = self.train, self.evaluation, self.optimizer.schedule
        workers = self.resources.workers
        refuse_if(
            not set(self.resources.worker_range) <= set(usable_counts(self.resources, train)),
            f"resources.workers is {workers}, which cannot share train.batch_size ({train.batch_size}) "
            "equally; give a divisor of it, or two, the smaller first",
        )
        refuse_if(
            train.precision == "fp16" and self.resources.gpu is False,  # null is decided when Ray has started
            "train.precision is 'fp16', which needs a GPU, and there is none (resources.gpu is false); use "
            "'bf16' or 'fp32'",
        )
        refuse_if(
            not isinstance(workers, int) and not train.sync_batchnorm,
            "resources.workers is a range and train.sync_batchnorm false, so batch statistics would change "
            "with the number of workers; set train.sync_batchnorm to true, or give one number",
        )
        warmup = schedule.warmup_epochs if schedule.name.startswith("warmup_") else 0.0
        ends = {"optimizer.schedule.warmup_epochs": warmup}
        # Parts of a method may begin late (positives, gate, correction) or rise over epochs (margins).
        for name, part in vars(self.model).items():
            start, rise = getattr(part, "start_epoch", 0), getattr(part, "schedule", part)
            refuse_if(
                start >= train.epochs and getattr(part, "name", None) != "none",
                f"model.{name}.start_epoch is {start}, after the last epoch (train.epochs = {train.epochs}); "
                f"lower the first, raise the second, or leave model.{name} out",
            )
            if hasattr(rise, "rise_epochs") and rise.name != "constant":
                path = f"model.{name}" if rise is part else f"model.{name}.schedule"
                ends[f"{path}.rise_epochs[1]"] = rise.rise_epochs[1]
        for name, end in ends.items():
            refuse_if(
                end > train.epochs,
                f"{name} is {end}, longer than the run (train.epochs = {train.epochs}); lower the first or "
                "raise the second",
            )
        if hasattr(self.model, "check_batch_size"):  # methods that split the global batch into groups have it
            self.model.check_batch_size(train.batch_size)
        refuse_if(
            train.patience is not None and evaluation.selection_criterion is None,
            f"train.patience is {train.patience} but nothing is validated; set train.patience=null, "
            "evaluation.held_out_speakers, evaluation.validation or a label-free evaluation.criterion",
        )
        lists = [evaluation.validation or "", *evaluation.test]
        validation, *tests = [os.path.abspath(os.path.join(self.data.root, each)) for each in lists]
        refuse_if(
            bool(evaluation.validation) and validation in tests and not evaluation.allow_validation_on_test,
            f"evaluation.validation and evaluation.test both name {evaluation.validation!r}, and choosing on "
            "test trials makes results look better than they are; use held_out_speakers, or set "
            "allow_validation_on_test=true to do it anyway",
        )
        positives = getattr(self.model, "positives", None)
        voices_change = len(self.data.speeds) > 1 and self.data.speed_probability > 0
        refuse_if(
            voices_change and (positives or self.model.groups_utterances),
            f"data.speeds is {list(self.data.speeds)}, so an utterance has another voice in each epoch, but "
            f"{'model.positives' if positives else self.model.name} clusters utterances; set it to [1.0]",
        )


def usable_counts(resources: ResourcesConfig, train: TrainConfig) -> list[int]:
    """Return the numbers of workers (ascending) that divide a batch equally."""
    fewest, most = resources.worker_range
    return [n for n in range(fewest, most + 1) if train.batch_size % n == 0]


def is_better(criterion: str, value: float, than: float) -> bool:
    """Return whether a value of the criterion is strictly better than another."""
    return value < than if criterion in get_args(LowerIsBetter) else value > than


def changes_of(old: Config, new: Config, *ignored: str) -> list[str]:
    """Return the differences that keep a run from resuming, except those that begin with one of `ignored`."""
    changes = [line for line in differences(old, new) if not line.startswith((*CHANGEABLE, *ignored))]
    before, now = old.resources.workers, new.resources.workers
    if before != now and not new.train.sync_batchnorm:
        changes.append(f"resources.workers: {before} -> {now}, and with it batch statistics")
    return changes


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return settings from a yaml file and `key.path=value` overrides; a null `run.name` is the file's stem.

    Raises ConfigError, which names the file, the key, the given value and what is allowed.
    """
    path = locate(path)
    config = apply_overrides(load(Config, path), overrides)
    return config if config.run.name is not None else apply_overrides(config, {"run.name": path.stem})


def to_yaml(config: Config) -> str:
    """Return all settings as yaml, from which `read_config` restores an equal config."""
    return dump_yaml(asdict(config))


def read_config(text: str) -> Config:
    """Return the settings from the yaml of `to_yaml`."""
    return build(Config, parse_yaml(text))
