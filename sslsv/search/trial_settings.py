"""Derive the settings of each trial from a space, and the epochs at which trials are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sslsv.config import Config, load_config, to_dict
from sslsv.data.section import channel_of
from sslsv.search.searchers import Searcher, value_at
from sslsv.search.space import Space, plain
from sslsv.settings import ConfigError, apply_overrides, leaves_of, refuse_if, shown


def fix_parameters(space: Space, overrides: Sequence[str]) -> Space:
    """Return the space with the settings of the command line, which are then no longer searched."""
    leaves = dict(leaves_of(overrides))
    for key in leaves.keys() & {"run.name", "run.storage"}:
        raise ValueError(f"{key} is given, but a sweep names its trials; use --name and --storage")
    left = {}
    for dimension in space.dimensions:
        key, (other, case) = dimension.key, dimension.condition or (None, None)
        if any(key == leaf or key.startswith(f"{leaf}.") for leaf in leaves):
            continue
        for lost in leaves.keys() & dimension.keys:
            raise ValueError(
                f"{lost} is given, but the space searches {key} as a whole, which would set it again; change "
                "it in the space"
            )
        if other not in leaves or plain(leaves[other]) == case:  # else its case never comes
            left[key] = space.parameters[key]
    refuse_if(not left, "no parameter of the space is left to search beside what the command line gives")
    return replace(space, parameters=left, settings={**dict(leaves_of(space.settings)), **leaves})


def base_config(space: Space, overrides: Sequence[str]) -> Config:
    """Return the settings around those that are searched: the base with its changes."""
    fixed = fixed_settings(space)
    for key, value in [*leaves_of(space.settings), *leaves_of(overrides)]:
        if key in fixed and value != fixed[key]:
            needed = shown(fixed[key])
            raise ConfigError(
                f"{key} is set to {shown(value)}, but a sweep sets it to {needed}; leave it out"
            )
    base = apply_overrides(apply_overrides(load_config(space.base), space.settings), overrides)
    refuse_if(
        base.evaluation.allow_validation_on_test,
        "evaluation.allow_validation_on_test is true, so the test trials would choose among all trials of a "
        "sweep; set it to false, and choose by evaluation.held_out_speakers or a label-free metric",
    )
    workers = base.resources.workers
    refuse_if(not isinstance(workers, int), f"resources.workers is {workers}, but a sweep needs one number")
    return base


def fixed_settings(space: Space) -> dict[str, Any]:
    """Return the settings that every trial has; `evaluation.test` is left to the confirmation."""
    return {
        "evaluation.test_every_epochs": 0,  # test trials never choose
        "evaluation.criterion": space.metric,
        "train.patience": None,  # the scheduler says when a trial ends
        "train.collapse.action": "stop",
        "run.progress": False,
        "run.max_failures": space.max_failures,  # Ray Train restarts several workers, Ray Tune a single one
    }


def trial_config(base: Config, space: Space, configuration: Mapping[str, Any]) -> Config:
    """Return the settings of a trial: it never looks at test trials and ends when it has collapsed."""
    own = {**configuration, **fixed_settings(space), "evaluation.test": []}
    # Another method begins with its own defaults; what all trials share it gets again, as far as it has that.
    began_anew = tuple(
        key.removesuffix("name") for key, _ in leaves_of(configuration) if key.endswith(".name")
    )
    known = dict(leaves_of(to_dict(apply_overrides(base, own))))
    shared = {
        key: value
        for key, value in leaves_of(space.settings)
        if key.startswith(began_anew) and not key.endswith(".name") and key in known
    }
    return apply_overrides(base, {**shared, **own})


def check_trials(space: Space, base: Config, searcher: Searcher, rungs: Sequence[int]) -> None:
    """Raise ValueError, in a sentence, where a key or an end of a dimension is not possible in a trial."""
    apply_overrides(base, {"evaluation.criterion": space.metric})  # refuses a metric that is not computed
    for other, case in [dimension.condition for dimension in space.dimensions if dimension.condition]:
        value_at(searcher.base, other)  # refuses a setting that is not there
        apply_overrides(base, {other: case})  # refuses a value that it can't have
    if space.tries_base_first:
        searcher.of_base()  # refuses a base outside of the space
    heard = channel_of(base.data.augment)
    never = {dimension.name for dimension in space.dimensions}
    for dimension, configuration in searcher.corners():
        key = dimension.key
        never.discard(dimension.name)
        try:
            config = trial_config(base, space, configuration)
        except ConfigError as error:
            raise ConfigError(f"{key}={configuration[key]!r}, which the space allows: {error}") from error
        refuse_if(
            space.metric.startswith("label_free/") and channel_of(config.data.augment) != heard,
            f"{key} can't be searched: the probe of a label-free metric takes its rooms and noises from "
            "data.augment, and all trials must be measured alike; set it for all trials, or choose by 'eer'",
        )
        schedule = config.optimizer.schedule
        refuse_if(
            schedule.name == "warmup_cosine" and len(rungs) > 1 and rungs[0] <= schedule.warmup_epochs,
            f"the first rung is after {rungs[0]} epochs, within the warm-up of {schedule.warmup_epochs} "
            "(optimizer.schedule.warmup_epochs), where nothing can be compared; move one of them",
        )
    for name in sorted(never):
        raise ValueError(
            f"{name} is never searched, because no trial meets its condition; mend its When(...)"
        )


def rungs_of(space: Space, base: Config) -> tuple[int, ...]:
    """Return the epochs at which trials are compared, rising; the last one is the end of training.

    Raises ValueError for rungs at which nothing is validated or that are past the end.
    """
    total, every = base.train.epochs, base.evaluation.every_epochs
    for epoch in space.rung_epochs:
        refuse_if(
            epoch >= total,
            f"a rung is after epoch {epoch}, but training ends after train.epochs = {total}; lower the rung",
        )
        refuse_if(
            epoch % every != 0,
            f"a rung is after epoch {epoch}, where nothing is validated; use multiples of "
            f"evaluation.every_epochs = {every}, or change that",
        )
    return (*space.rung_epochs, total)
