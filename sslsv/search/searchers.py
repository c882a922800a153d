"""Choose the configuration of each trial (random, grid or TPE) by pure functions of seed and history.

A configuration holds the searched settings of a trial, key -> value. It is chosen once and then recorded.
"""

import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sslsv.config import Config
from sslsv.search.schedulers import History
from sslsv.search.space import Space, plain

Configuration = dict[str, Any]

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Searcher:
    """Choose configurations in a space; `base` holds the other settings."""

    def __init__(self, space: Space, base: Config) -> None:
        self.space, self.base, self.dimensions = space, asdict(base), space.dimensions
        self.grid: list[Configuration] = []
        if space.searcher == "grid":  # every combination of the choices, the last dimension changing fastest
            keys = [dimension.key for dimension in self.dimensions]
            combinations = product(*(dimension.choices_or_ends for dimension in self.dimensions))
            self.grid = [dict(zip(keys, combination, strict=True)) for combination in combinations]
        self.num_trials = space.trials or len(self.grid)

    def choose(self, index: int, earlier: Mapping[int, Configuration], history: History) -> Configuration:
        """Return the configuration of trial `index`; TPE learns from the `earlier` ones and the history."""
        if self.space.searcher == "grid":
            return self.grid[index]
        if index == 0 and self.space.tries_base_first:
            return self.of_base()
        seed = self.space.seed
        if self.space.searcher == "random":
            # One seed per key: adding a dimension to the space does not change the values of the others.
            return self._draw(lambda key: RandomSampler(seed=_mix(seed, index, zlib.crc32(key.encode()))), [])
        rung = rung_to_learn_from(history, max(self.space.startup_trials, 1))
        trials = self.as_trials({i: earlier[i] for i in earlier if i < index}, history, rung)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # constant_liar: running trials count as bad, so that no similar ones are tried meanwhile.
            startup = self.space.startup_trials
            tpe = TPESampler(seed=_mix(seed, index), n_startup_trials=startup, constant_liar=True)
        return self._draw(lambda key: tpe, trials)

    def of_base(self) -> Configuration:
        """Return the base's values of the searched settings; raises ValueError for one outside the space."""
        configuration = {}
        for dimension in self.dimensions:
            key = dimension.key
            value = configuration[key] = plain(value_at(self.base, key))
            try:
                dimension.encode(value)
            except ValueError as error:
                raise ValueError(
                    f"tries_base_first is true, but {key} is {value!r} in the base, outside the space"
                ) from error
        return configuration

    def corners(self) -> Iterator[tuple[str, Configuration]]:
        """Yield (key, configuration) for each end of every dimension, with all others at their first end."""
        first = {dimension.key: dimension.choices_or_ends[0] for dimension in self.dimensions}
        for dimension in self.dimensions:
            for end in dimension.choices_or_ends:
                yield dimension.key, {**first, dimension.key: end}

    def as_trials(
        self, configurations: Mapping[int, Configuration], history: History, rung: int
    ) -> list[FrozenTrial]:
        """Convert trials to Optuna's: complete with the cost at a rung, running, or pruned (can't win)."""
        trials = []
        for index, configuration in sorted(configurations.items()):
            outcomes = [outcome for outcome in history.outcomes if outcome.index == index]
            costs = [outcome.cost for outcome in outcomes if outcome.rung == rung]
            is_lost = any(not outcome.can_win for outcome in outcomes)
            state = TrialState.COMPLETE if costs else TrialState.RUNNING
            trials.append(
                create_trial(
                    state=TrialState.PRUNED if is_lost else state,
                    params={d.key: d.encode(configuration[d.key]) for d in self.dimensions},
                    distributions={d.key: d.distribution for d in self.dimensions},
                    value=costs[0] if costs and not is_lost else None,
                )
            )
        return trials

    def _draw(self, sampler_of: Callable[[str], BaseSampler], trials: list[FrozenTrial]) -> Configuration:
        study, new_trial = optuna.create_study(), create_trial(state=TrialState.RUNNING)
        study.add_trials(trials)
        return {
            d.key: d.decode(sampler_of(d.key).sample_independent(study, new_trial, d.key, d.distribution))
            for d in self.dimensions
        }


def rung_to_learn_from(history: History, enough: int) -> int:
    """Return the highest rung with `enough` outcomes, else the rung with most (as BOHB, arXiv 1807.01774)."""
    counts = Counter(outcome.rung for outcome in history.outcomes)
    return max(counts, key=lambda rung: (min(counts[rung], enough), rung), default=0)


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value at a key path of nested settings."""
    value: Any = settings
    for part in key.split("."):
        if isinstance(value, list | tuple):  # sections, such as augmentations, addressed by name
            value = {item["name"]: item for item in value}
        value = value[part]
    return value


def _mix(*numbers: int) -> int:
    return int(np.random.default_rng(numbers).integers(2**31))
