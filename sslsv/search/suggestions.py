"""What a trial tries: random, grid and TPE suggestions, each a pure function of the sweep's seed and history.

Once made, a suggestion is written down and never made again (sweep_folder.py).
"""

import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from sslsv.search.dimensions import Choice, Dimension, When, plain, read_dimensions
from sslsv.search.history import History
from sslsv.search.population import can_change
from sslsv.search.space import Space

Settings = dict[str, Any]  # key path -> value
_TPE_STARTUP = 10  # Optuna's default


class Suggester:
    """Suggests settings for the trials of a space; `base` are the other settings, as nested plain values."""

    def __init__(self, space: Space, base: Mapping[str, Any]) -> None:
        self.space, self.base = space, base
        self.dimensions = read_dimensions(space.parameters)
        self.grid = list(self._combinations({}, list(self.dimensions))) if space.searcher == "grid" else []

    @property
    def num_trials(self) -> int:
        """How many trials the sweep has."""
        return self.space.trials or len(self.grid)

    def suggest(self, index: int, earlier: Mapping[int, Settings], history: History) -> Settings:
        """Settings of trial `index`; `earlier` are those of the trials before it, which TPE learns from."""
        if self.space.searcher == "grid":
            return self.grid[index]
        if index == 0 and self.space.tries_base_first:
            return self.of_base()
        if self.space.searcher == "tpe":
            return self._ask_tpe(index, earlier, history)
        return self.fill(lambda key, dimension: dimension.draw(self._generator(index, key)))

    def of_base(self) -> Settings:
        """The base's own values of the settings that are searched."""
        return self.fill(lambda key, _: plain(value_at(self.base, key)))

    def fill(self, draw: Callable[[str, Dimension], Any]) -> Settings:
        """Settings with a value drawn for every dimension that applies, in order."""
        settings: Settings = {}
        for key in self.dimensions:
            dimension = self.applying(key, settings)
            if dimension is not None:
                settings[key] = draw(key, dimension)
        return settings

    def applying(self, key: str, settings: Settings) -> Dimension | None:
        """The dimension of a key, given the settings so far; None if its condition leaves it out."""
        dimension = self.dimensions[key]
        if not isinstance(dimension, When):
            return dimension
        value = settings[dimension.key] if dimension.key in settings else value_at(self.base, dimension.key)
        found: Dimension | None = dimension.case_of(value)
        return found

    def change(self, settings: Settings, factors: tuple[float, ...], seed: list[int]) -> Settings:
        """Settings with every schedule-like value times a factor drawn for it, within its dimension."""
        generator = np.random.default_rng(seed)
        changed = dict(settings)
        for key in sorted(settings):
            dimension = self.applying(key, settings)
            if can_change(dimension, key):
                factor = factors[int(generator.integers(len(factors)))]
                changed[key] = dimension.nearest(settings[key] * factor)
        return changed

    def corners(self) -> Iterator[tuple[str, Settings]]:
        """Every key at each of its ends once, as (key, settings), the other keys at their first."""
        for key, dimension in self.dimensions.items():
            pinned: list[tuple[Settings, Dimension]]
            if isinstance(dimension, When):
                is_searched = dimension.key in self.dimensions
                pinned = [({dimension.key: v} if is_searched else {}, d) for v, d in dimension.cases.items()]
            else:
                pinned = [({}, dimension)]
            for pins, case in pinned:
                for end in case.ends():
                    fixed = {**pins, key: end}
                    settings = self.fill(lambda k, d, fixed=fixed: fixed.get(k, d.ends()[0]))  # type: ignore[misc]
                    if settings.get(key) == end:
                        yield key, settings

    def _combinations(self, settings: Settings, keys: list[str]) -> Iterator[Settings]:
        """Every combination of the choices of the keys, the last one changing fastest."""
        if not keys:
            yield dict(settings)
            return
        dimension = self.applying(keys[0], settings)
        if dimension is None:
            yield from self._combinations(settings, keys[1:])
            return
        assert isinstance(dimension, Choice)  # see check_parameters
        for value in dimension.values:
            yield from self._combinations({**settings, keys[0]: value}, keys[1:])

    def _generator(self, index: int, key: str) -> np.random.Generator:
        # By key: another dimension in the space leaves the values of this one as they are.
        return np.random.default_rng([self.space.seed, index, zlib.crc32(key.encode())])

    def _ask_tpe(self, index: int, earlier: Mapping[int, Settings], history: History) -> Settings:
        import optuna  # takes a second, and only this searcher needs it

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        startup = self.space.startup_trials
        startup = _TPE_STARTUP if startup is None else startup
        rung = rung_to_learn_from(history, max(startup, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=int(np.random.default_rng([self.space.seed, index]).integers(2**31)),
                n_startup_trials=startup,
                constant_liar=True,  # running trials count as bad, so that their like is not asked for
            )
            study = optuna.create_study(sampler=sampler)
            study.add_trials(self.told({i: earlier[i] for i in earlier if i < index}, history, rung))
            settings: Settings = {}
            asked = study.ask()
            for key in self.dimensions:
                dimension = self.applying(key, settings)
                if dimension is not None:
                    settings[key] = _ask(asked, self._name(key, settings), dimension)
        return settings

    def told(self, suggestions: Mapping[int, Settings], history: History, rung: int) -> list[Any]:
        """The trials as Optuna knows them, with their costs at a rung."""
        return [self._told(suggestions[index], index, history, rung) for index in sorted(suggestions)]

    def _told(self, settings: Settings, index: int, history: History, rung: int) -> Any:
        """A trial as Optuna knows it: with its cost at a rung, still running, or worthless."""
        from optuna.trial import TrialState, create_trial

        distributions, values = {}, {}
        for key, value in settings.items():
            dimension = self.applying(key, settings)
            if dimension is not None:
                name = self._name(key, settings)
                distributions[name] = _distribution(dimension)
                values[name] = dimension.values.index(value) if isinstance(dimension, Choice) else value
        outcomes = [outcome for outcome in history.outcomes if outcome.index == index]
        costs = [outcome.cost for outcome in outcomes if outcome.rung == rung and outcome.can_win]
        state = TrialState.COMPLETE if costs else TrialState.RUNNING
        if any(not outcome.can_win for outcome in outcomes):
            state = TrialState.PRUNED  # without a value: to Optuna worse than all that have one
        return create_trial(
            state=state,
            params=values,
            distributions=distributions,
            value=costs[0] if state == TrialState.COMPLETE else None,
        )

    def _name(self, key: str, settings: Settings) -> str:
        """What Optuna calls a key: a case of a condition is a parameter of its own."""
        dimension = self.dimensions[key]
        if not isinstance(dimension, When) or dimension.key not in settings:
            return key
        return f"{key} ({dimension.key}={settings[dimension.key]})"


def rung_to_learn_from(history: History, enough: int) -> int:
    """The highest rung with enough outcomes, else that with most of them, as in BOHB (arXiv 1807.01774)."""
    counts = Counter(outcome.rung for outcome in history.outcomes)
    return max(counts, key=lambda rung: (min(counts[rung], enough), rung), default=0)


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    """The value at a key path of nested settings.

    Raises ValueError if there is none.
    """
    here: Any = settings
    for part in key.split("."):
        if isinstance(here, list | tuple):  # an item of a list of sections goes by its name
            here = {item["name"]: item for item in here if isinstance(item, Mapping)}
        if not isinstance(here, Mapping) or part not in here:
            raise ValueError(
                f"{key}, on which a parameter depends, is no setting of the base; mend its When(...)"
            )
        here = here[part]
    return here


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):  # by number: Optuna's own choices can't be lists
        return CategoricalDistribution(tuple(range(len(dimension.values))))
    low, high, is_logarithmic = dimension.low, dimension.high, dimension.is_logarithmic
    if dimension.is_integer:
        return IntDistribution(int(low), int(high), log=is_logarithmic, step=int(dimension.step or 1))
    return FloatDistribution(low, high, log=is_logarithmic, step=dimension.step)


def _ask(asked: Any, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return dimension.values[asked.suggest_categorical(name, range(len(dimension.values)))]
    low, high, is_logarithmic = dimension.low, dimension.high, dimension.is_logarithmic
    if dimension.is_integer:
        return asked.suggest_int(name, int(low), int(high), log=is_logarithmic, step=int(dimension.step or 1))
    return asked.suggest_float(name, low, high, log=is_logarithmic, step=dimension.step)
