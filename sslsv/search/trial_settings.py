"""Derive the settings of each trial from a space, and the epochs at which trials are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sslsv.config import Config, load_config
from sslsv.data.section import channel_of
from sslsv.search.searchers import Searcher
from sslsv.search.space import Space
from sslsv.settings import ConfigError, apply_overrides, leaves_of, refuse_if, short_text


def with_overrides(space: Space, overrides: Sequence[str]) -> Space:
    """Return the space with overrides of the command line; raises ValueError for searched settings."""
    leaves = dict(leaves_of(overrides))
    alternatives = [dict(leaves_of(settings)) for settings in space.alternatives.values()]
    for key in leaves:
        # A setting of only some alternatives may be given for the rest, such as the run they start from.
        refuse_if(
            bool(alternatives) and all(key in settings for settings in alternatives),
            f"{key} is given, but each alternative of the space sets it; change it there",
        )
        refuse_if(
            key in ("run.name", "run.storage"),
            f"{key} is given, but a sweep names its trials; use --name and --storage",
        )
        for dimension in space.dimensions:
            is_searched = any(f"{key}.".startswith(f"{parent}.") for parent in dimension.keys)
            refuse_if(is_searched, f"{key} is given, but the space searches {dimension.key}; change it there")
    return replace(space, settings={**dict(leaves_of(space.settings)), **leaves})


def base_config(space: Space) -> Config:
    """Return the settings that are not searched: the base with the changes of the space."""
    fixed = fixed_settings(space)
    for key, value in leaves_of(space.settings):
        needed = fixed.get(key, value)
        refuse_if(
            value != needed,
            f"{key} is {short_text(value)}, but a sweep sets it to {short_text(needed)}; leave it out",
        )
    base = apply_overrides(load_config(space.base), space.settings)
    refuse_if(
        base.evaluation.allow_validation_on_test,
        "evaluation.allow_validation_on_test is true, so a sweep would select its best by the test trials; "
        "set it to false, and select by evaluation.held_out_speakers or a label-free metric",
    )
    workers = base.resources.workers
    refuse_if(not isinstance(workers, int), f"resources.workers is {workers}, but a sweep needs one number")
    return base


def fixed_settings(space: Space) -> dict[str, Any]:
    """Return the settings that all trials share; only a confirmation sets `evaluation.test`."""
    return {
        "evaluation.test_every_epochs": 0,  # test trials are never used to select
        "evaluation.criterion": space.metric,
        "train.patience": None,  # the scheduler decides when a trial ends
        "train.collapse.action": "stop",
        "run.progress": False,
        "run.max_failures": space.max_failures,  # used with several workers; Ray Tune restarts single ones
    }


def trial_config(base: Config, space: Space, configuration: Mapping[str, Any]) -> Config:
    """Return the settings of a trial, which ends when it has collapsed.

    A space can't search `evaluation.test`, so only the configurations of a confirmation have test trials.
    """
    untested = apply_overrides(base, {"evaluation.test": []})
    return apply_configuration(untested, space, configuration, fixed_settings(space))


def apply_configuration(
    base: Config, space: Space, configuration: Mapping[str, Any], own: Mapping[str, Any]
) -> Config:
    """Return the base with the settings of a configuration and further `own` settings."""
    searched = space.settings_of(configuration)
    changes = {**searched, **own}
    # Another method starts from its own defaults, so apply the shared settings that it has again.
    new_sections = tuple(key.removesuffix("name") for key, _ in leaves_of(searched) if key.endswith(".name"))
    available = dict(leaves_of(asdict(apply_overrides(base, changes))))
    shared = {
        key: value
        for key, value in leaves_of(space.settings)
        if key.startswith(new_sections) and not key.endswith(".name") and key in available
    }
    return apply_overrides(base, {**shared, **changes})


def check_trials(space: Space, base: Config, searcher: Searcher) -> None:
    """Raise ValueError if a key or an end of a dimension is not valid in a trial."""
    apply_overrides(base, {"evaluation.criterion": space.metric})  # refuses a metric that is not computed
    conditions = _validation_conditions(base, space.metric)
    for key, configuration in searcher.corners():
        try:
            config = trial_config(base, space, configuration)
        except ConfigError as error:
            raise ConfigError(f"{key}={configuration[key]!r}, which the space allows: {error}") from error
        refuse_if(
            _validation_conditions(config, space.metric) != conditions,
            f"{key} can't be searched: {space.metric} is measured with the rooms and noises of training, "
            "or on its utterances, and these must be the same in all trials; set it for all trials, or "
            "select by 'eer' with evaluation.held_out_is_shifted=false",
        )
    if space.tries_base_first:
        searcher.of_base()  # refuses a base outside the space


def _validation_conditions(config: Config, metric: str) -> tuple[Any, ...]:
    # Returns what validation depends on besides its trials; it must be equal in all trials.
    data, evaluation = config.data, config.evaluation
    if metric.startswith("label_free/"):
        return channel_of(data.augment), data.fraction, data.fraction_of
    is_shifted = evaluation.held_out_speakers and evaluation.held_out_is_shifted
    return (channel_of(data.augment),) if is_shifted else ()


def rungs_of(space: Space, base: Config) -> tuple[int, ...]:
    """Return the epochs at which trials are compared, ascending; the last one is the end of training.

    Raises ValueError for rungs without a validation or after the end.
    """
    total, every = base.train.epochs, base.evaluation.every_epochs
    for epoch in space.rung_epochs:
        refuse_if(
            epoch >= total or epoch % every != 0,
            f"a rung is after epoch {epoch}, but trials are compared below train.epochs = {total}, at "
            f"multiples of evaluation.every_epochs = {every}; change one of them",
        )
    return (*space.rung_epochs, total)
