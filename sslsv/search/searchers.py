"""Choose the configuration of each trial: random, grid or TPE, pure functions of seed and history.

A configuration is what a trial tries: key -> value.  Once chosen it is written down and never chosen again.
"""

import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sslsv.search.schedulers import History
from sslsv.search.space import Dimension, Space, plain
from sslsv.settings import refuse_if

Configuration = dict[str, Any]

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Searcher:
    """Choose configurations in a space; `base` holds the other settings, as nested plain values."""

    def __init__(self, space: Space, base: Mapping[str, Any]) -> None:
        self.space, self.base, self.dimensions = space, base, space.dimensions
        self.grid = list(self._combinations({}, self.dimensions)) if space.searcher == "grid" else []

    @property
    def num_trials(self) -> int:
        """Count the trials of the sweep."""
        return self.space.trials or len(self.grid)

    def choose(self, index: int, earlier: Mapping[int, Configuration], history: History) -> Configuration:
        """Return the configuration of trial `index`; TPE learns from the `earlier` ones and the history."""
        if self.space.searcher == "grid":
            return self.grid[index]
        if index == 0 and self.space.tries_base_first:
            return self.of_base()
        seed = self.space.seed
        if self.space.searcher == "random":
            # A seed for each key: another dimension in the space leaves the values of this one as they are.
            return self._draw(lambda key: RandomSampler(seed=_mix(seed, index, zlib.crc32(key.encode()))), [])
        rung = rung_to_learn_from(history, max(self.space.startup_trials, 1))
        told = self.as_trials({i: earlier[i] for i in earlier if i < index}, history, rung)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # constant_liar: running trials count as bad, so that others like them are not tried meanwhile.
            startup = self.space.startup_trials
            tpe = TPESampler(seed=_mix(seed, index), n_startup_trials=startup, constant_liar=True)
        return self._draw(lambda key: tpe, told)

    def of_base(self) -> Configuration:
        """Return the base's values of the settings that are searched; raises ValueError for those outside."""

        def own(dimension: Dimension) -> Any:
            value = plain(value_at(self.base, dimension.key))
            refuse_if(
                not dimension.holds(value),
                f"tries_base_first is true, but {dimension.key} is {value!r} in the base, outside the space",
            )
            return value

        return self.fill(own)

    def fill(self, draw: Callable[[Dimension], Any]) -> Configuration:
        """Return a configuration with `draw(dimension)` for every dimension that applies, in order."""
        found: Configuration = {}
        for dimension in self.dimensions:
            if self.applies(dimension, found):
                found[dimension.key] = draw(dimension)
        return found

    def applies(self, dimension: Dimension, configuration: Configuration) -> bool:
        """Tell whether a dimension's condition is met, by a configuration or else by the base."""
        if dimension.condition is None:
            return True
        key, wanted = dimension.condition
        found = configuration[key] if key in configuration else plain(value_at(self.base, key))
        return bool(found == wanted)

    def corners(self) -> Iterator[tuple[Dimension, Configuration]]:
        """Yield every dimension at each of its ends once, the other dimensions at their first end."""
        for dimension in self.dimensions:
            other, case = dimension.condition or ("", None)
            pins = {d.key: case for d in self.dimensions if d.key == other and d.holds(case)}
            for end in dimension.ends:
                fixed = {**pins, dimension.key: end}
                found = self.fill(lambda d, fixed=fixed: fixed.get(d.key, d.ends[0]))  # type: ignore[misc]
                if found.get(dimension.key) == end:
                    yield dimension, found

    def as_trials(
        self, configurations: Mapping[int, Configuration], history: History, rung: int
    ) -> list[FrozenTrial]:
        """Return trials as Optuna's: with their cost at a rung, still running, or pruned (worthless)."""
        found = []
        for index, configuration in sorted(configurations.items()):
            known = [d for d in self.dimensions if d.key in configuration and self.applies(d, configuration)]
            outcomes = [outcome for outcome in history.outcomes if outcome.index == index]
            costs = [outcome.cost for outcome in outcomes if outcome.rung == rung and outcome.can_win]
            state = TrialState.COMPLETE if costs else TrialState.RUNNING
            if any(not outcome.can_win for outcome in outcomes):
                state, costs = TrialState.PRUNED, []
            found.append(
                create_trial(
                    state=state,
                    params={d.name: d.encode(configuration[d.key]) for d in known},
                    distributions={d.name: d.distribution for d in known},
                    value=costs[0] if costs else None,
                )
            )
        return found

    def _draw(self, sampler_of: Callable[[str], BaseSampler], told: list[FrozenTrial]) -> Configuration:
        study, new = optuna.create_study(), create_trial(state=TrialState.RUNNING)
        study.add_trials(told)

        def draw(dimension: Dimension) -> Any:
            sampler, distribution = sampler_of(dimension.key), dimension.distribution
            return dimension.decode(sampler.sample_independent(study, new, dimension.name, distribution))

        return self.fill(draw)

    def _combinations(self, found: Configuration, left: list[Dimension]) -> Iterator[Configuration]:
        """Yield every combination of the choices that are left, the last one changing fastest."""
        if not left:
            yield found
        elif not self.applies(left[0], found):
            yield from self._combinations(found, left[1:])
        else:
            for value in left[0].ends:
                yield from self._combinations({**found, left[0].key: value}, left[1:])


def rung_to_learn_from(history: History, enough: int) -> int:
    """Return the highest rung with enough outcomes, else that with most, as BOHB does (arXiv 1807.01774)."""
    counts = Counter(outcome.rung for outcome in history.outcomes)
    return max(counts, key=lambda rung: (min(counts[rung], enough), rung), default=0)


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    """Return the value at a key path of nested settings; raises ValueError if there is none."""
    here: Any = settings
    for part in key.split("."):
        if isinstance(here, list | tuple):  # sections, such as augmentations, each known by its name
            here = {item["name"]: item for item in here if isinstance(item, Mapping)}
        if not isinstance(here, Mapping) or part not in here:
            raise ValueError(f"{key}, on which a parameter depends, is no setting of the base")
        here = here[part]
    return here


def _mix(*numbers: int) -> int:
    return int(np.random.default_rng(numbers).integers(2**31))
