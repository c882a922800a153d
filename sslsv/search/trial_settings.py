"""From a space to the settings of its trials, and to the epochs at which they are compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sslsv.config import Config, ConfigError, apply_overrides, load_config, to_dict
from sslsv.data.augment import AugmentConfig
from sslsv.evaluation import probe
from sslsv.overrides import leaves_of
from sslsv.search.dimensions import When, leaves_within, read_dimensions
from sslsv.search.schedulers import RunAll
from sslsv.search.space import Space
from sslsv.search.suggestions import Suggester, value_at
from sslsv.settings import refuse_if, shown


def fix_parameters(space: Space, overrides: Sequence[str]) -> Space:
    """The space with the settings of the command line, which are no longer searched where they were."""
    leaves = dict(leaves_of(overrides))
    for key in leaves:
        refuse_if(
            key in ("run.name", "run.storage"),
            f"{key} is given, but a sweep names and keeps its trials itself; use --name and --storage",
        )
    left = {
        key: dimension
        for key, dimension in read_dimensions(space.parameters).items()
        if not any(key == leaf or key.startswith(f"{leaf}.") for leaf in leaves)
    }
    for key, dimension in left.items():
        for lost in leaves.keys() & leaves_within(key, dimension):
            raise ValueError(
                f"{lost} is given, but the space searches {key} as a whole, which would set it again; give "
                f"{key} on the command line, or change it in the space"
            )
    # What depends on a setting that is given, and has no case for it, is not searched either.
    applying = {
        key: space.parameters[key]
        for key, dimension in left.items()
        if not isinstance(dimension, When)
        or dimension.key not in leaves
        or dimension.case_of(leaves[dimension.key]) is not None
    }
    refuse_if(not applying, "no parameter of the space is left to search beside what the command line gives")
    return replace(space, parameters=applying, settings={**dict(leaves_of(space.settings)), **leaves})


def base_config(space: Space, overrides: Sequence[str]) -> Config:
    """The settings around those that are searched: the base, the space's changes, the command line's."""
    fixed = fixed_settings(space)
    for key, value in [*leaves_of(space.settings), *leaves_of(overrides)]:
        if key in fixed and value != fixed[key][0]:
            needed, why = fixed[key]
            raise ConfigError(
                f"{key} is set to {shown(value)}, but it is {shown(needed)} in every trial: {why}; leave it "
                "out"
            )
    base = apply_overrides(apply_overrides(load_config(space.base), space.settings), overrides)
    refuse_if(
        base.evaluation.allow_validation_on_test,
        "evaluation.allow_validation_on_test is true, so the test trials would choose among all trials of "
        "the sweep; choose by evaluation.held_out_speakers, other trials or a label-free metric, and set it "
        "to false",
    )
    refuse_if(
        not isinstance(base.resources.workers, int),
        f"resources.workers is {base.resources.workers}, but the trials of a sweep all have the same places; "
        "give one number",
    )
    return base


def trial_config(base: Config, space: Space, settings: Mapping[str, Any]) -> Config:
    """Settings of a trial: no look at test trials, an end when collapsed, a best checkpoint by the metric."""
    fixed = {key: value for key, (value, _) in fixed_settings(space).items()}
    own = {**settings, **fixed, "evaluation.test": []}
    # Another method begins with its own defaults; what all trials share it gets again, as far as it has that.
    began_anew = tuple(key.removesuffix("name") for key, _ in leaves_of(settings) if key.endswith(".name"))
    known = dict(leaves_of(to_dict(apply_overrides(base, own))))
    shared = {
        key: value
        for key, value in leaves_of(space.settings)
        if key.startswith(began_anew) and not key.endswith(".name") and key in known
    }
    return apply_overrides(base, {**shared, **own})


def fixed_settings(space: Space) -> dict[str, tuple[Any, str]]:
    """Key -> what it is in every trial, and why; `evaluation.test` is left to the confirmation."""
    return {
        "evaluation.test_every_epochs": (0, "a trial never looks at test trials"),
        "evaluation.criterion": (space.metrics[0], "the metric of the space chooses"),
        "train.patience": (None, "the scheduler says when a trial ends"),
        "train.collapse.action": ("stop", "a collapsed trial is stopped"),
        "run.progress": (False, "the sweep has a table of its own"),
        # Several workers restart by Ray Train, one by Ray Tune.
        "run.max_failures": (space.max_failures, "the space has max_failures"),
    }


def check_trials(space: Space, base: Config, suggester: Suggester, rungs: Sequence[int]) -> None:
    """Raise ValueError, in a sentence, where a key or an end of a dimension is not possible in a trial."""
    for metric in space.metrics:
        apply_overrides(base, {"evaluation.criterion": metric})  # refuses what would not be computed
    _check_conditions(suggester, base)
    if space.tries_base_first:
        _check_base(suggester)
    is_label_free = any(metric.startswith("label_free/") for metric in space.metrics)
    heard: AugmentConfig | None = None
    for key, settings in suggester.corners():
        try:
            config = trial_config(base, space, settings)
        except ConfigError as error:
            raise ConfigError(f"{key}={settings[key]!r}, which the space allows: {error}") from error
        channels = replace(probe.channels(config.data.augment), bank_cache_mb=0)
        heard = heard or channels
        refuse_if(
            is_label_free and channels != heard,
            f"{key} can't be searched: the probe of a label-free metric takes its rooms and noises from "
            "data.augment, and all trials must be measured alike; set it for all trials, or choose by 'eer'",
        )
        schedule = config.optimizer.schedule
        if schedule.name == "warmup_cosine" and len(rungs) > 1:
            refuse_if(
                rungs[0] <= schedule.warmup_epochs,
                f"the first rung is after {rungs[0]} epochs, but the warm-up takes {schedule.warmup_epochs} "
                "(optimizer.schedule.warmup_epochs), and nothing can be compared before its end; let the "
                "first rung be later, or the warm-up shorter",
            )


def _check_base(suggester: Suggester) -> None:
    """Refuse a base that the first trial can't have."""
    settings = suggester.of_base()
    for key, value in settings.items():
        dimension = suggester.applying(key, settings)
        assert dimension is not None
        refuse_if(
            not dimension.allows(value),
            f"tries_base_first is true, but {key} is {value!r} in the base, which the space does not allow; "
            "widen the space there, or leave tries_base_first out",
        )


def _check_conditions(suggester: Suggester, base: Config) -> None:
    """Refuse what a `When` says about values that the other setting can't have."""
    for key, dimension in suggester.dimensions.items():
        if not isinstance(dimension, When):
            continue
        other = suggester.dimensions.get(dimension.key)
        if other is None:
            value = value_at(to_dict(base), dimension.key)
            refuse_if(
                dimension.case_of(value) is None,
                f"{key} is never searched: {dimension.key} is {value!r} in all trials, and its When(...) has "
                f"no such case; add the case, search {dimension.key}, or leave {key} out",
            )
            for case in dimension.cases:
                apply_overrides(base, {dimension.key: case})  # refuses a value that it can't have
            continue
        assert not isinstance(other, When)  # see check_parameters
        refuse_if(not dimension.cases, f"{key} is never searched: its When(...) has no case; leave it out")
        for case in dimension.cases:
            refuse_if(
                not other.has(case),
                f"{key} has a case for {dimension.key}={case!r}, which the space never tries; mend the case, "
                f"or let {dimension.key} take that value",
            )


def rungs_of(space: Space, base: Config, samples_per_epoch: int) -> tuple[int, ...]:
    """Epochs at which trials are compared, rising; the last one is the end of training.

    Raises ValueError for rungs at which nothing is validated or that are past the end.
    """
    total, every = base.train.epochs, base.evaluation.every_epochs
    if isinstance(space.scheduler, RunAll):
        return (total,)
    if space.rung_samples:
        wanted = [_round_up(samples / samples_per_epoch, every) for samples in space.rung_samples]
    elif space.grace_epochs is not None:
        wanted = space.scheduler.rungs_from(_round_up(space.grace_epochs, every), total)
    else:
        wanted = list(space.rung_epochs)
    for epoch in wanted:
        refuse_if(
            epoch > total,
            f"a rung is after epoch {epoch}, but training ends after train.epochs = {total}; lower the rungs",
        )
        refuse_if(
            epoch % every != 0 and epoch != total,
            f"a rung is after epoch {epoch}, where nothing is validated (evaluation.every_epochs={every}); "
            f"use multiples of {every}, or set evaluation.every_epochs",
        )
    rungs = sorted({*wanted, total})
    refuse_if(
        len(rungs) == 1,
        f"the only rung is the end of training (train.epochs = {total}), so no trial can be stopped early; "
        "lower the rungs, or use the scheduler RunAll",
    )
    return tuple(rungs)


def _round_up(epochs: float, every: int) -> int:
    return max(math.ceil(epochs / every - 1e-9), 1) * every
