"""What a setting may be: Ray Tune's samplers, read once into a form that every searcher can use."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.search import sample

from sslsv.settings import leaves_of, refuse_if


@dataclass(frozen=True)
class Choice:
    """One of several values; `is_grid`: written as `tune.grid_search`."""

    values: tuple[Any, ...]
    is_grid: bool = False

    def has(self, value: Any) -> bool:
        """Whether a value may be drawn."""
        return plain(value) in self.values

    def allows(self, value: Any) -> bool:
        """Whether a value lies within."""
        return self.has(value)

    def draw(self, generator: np.random.Generator) -> Any:
        """One of the values, all equally likely."""
        return self.values[int(generator.integers(len(self.values)))]

    def ends(self) -> tuple[Any, ...]:
        """Values to try when the space is checked."""
        return self.values


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included; on a logarithmic scale, or in steps from `low`."""

    low: float
    high: float
    is_integer: bool = False
    is_logarithmic: bool = False
    step: float | None = None

    def has(self, value: Any) -> bool:
        """Whether a value may be drawn: a whole number, or one of the steps; others never are, exactly."""
        is_countable = self.is_integer or self.step is not None
        return is_countable and isinstance(value, int | float) and self.nearest(value) == value

    def allows(self, value: Any) -> bool:
        """Whether a value lies within, on one of the steps if there are any."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_countable = self.is_integer or self.step is not None
        return is_number and (self.has(value) if is_countable else self.low <= value <= self.high)

    def draw(self, generator: np.random.Generator) -> float:
        """A number, uniform on the interval's scale."""
        share = float(generator.random())
        if self.step is not None:
            steps = math.floor((self.high - self.low) / self.step + 1e-9)
            value = self.low + self.step * min(int(share * (steps + 1)), steps)
        elif self.is_logarithmic:
            # Half a unit to either side gives the first and the last integer the room of the others.
            margin = 0.5 if self.is_integer else 0.0
            low, high = math.log(self.low - margin), math.log(self.high + margin)
            value = math.exp(low + share * (high - low))
        elif self.is_integer:
            value = math.floor(self.low + share * (self.high - self.low + 1))
        else:
            value = self.low + share * (self.high - self.low)
        return self.nearest(value)

    def nearest(self, value: float) -> float:
        """The nearest number that the interval has."""
        if self.step is not None:
            value = self.low + self.step * round((value - self.low) / self.step)
            value = float(f"{value:.12g}")  # 0.3, not 0.30000000000000004
        value = min(max(value, self.low), self.high)
        return round(value) if self.is_integer else value

    def ends(self) -> tuple[float, ...]:
        """Values to try when the space is checked."""
        return (self.low, self.high)


Dimension = Choice | Interval


@dataclass(frozen=True)
class When:
    """A dimension that depends on another setting: `When("model.name", {"simclr": tune.uniform(...), ...})`.

    For values that are not listed, the setting is left as it is.
    """

    key: str
    cases: Mapping[Any, Any]

    def case_of(self, value: Any) -> Any:
        """What applies where the other setting has a value; None if nothing does."""
        wanted = plain(value)
        return next((found for case, found in self.cases.items() if plain(case) == wanted), None)


def leaves_within(key: str, dimension: Dimension | When) -> set[str]:
    """The key paths that a dimension sets: its own, or those in the mappings it chooses among."""
    cases = dimension.cases.values() if isinstance(dimension, When) else [dimension]
    return {leaf for case in cases for value in case.ends() for leaf, _ in leaves_of({key: value})}


def read_dimensions(written: Mapping[str, Any]) -> dict[str, Dimension | When]:
    """Key path -> dimension, or `When` with dimensions as cases; those without a condition come first."""
    found: dict[str, Dimension | When] = {}
    for key, value in sorted(written.items(), key=lambda item: isinstance(item[1], When)):
        if isinstance(value, When):
            cases = {case: read_dimension(key, sampler) for case, sampler in value.cases.items()}
            found[key] = When(value.key, cases)
        else:
            found[key] = read_dimension(key, value)
    return found


def read_dimension(key: str, written: Any) -> Dimension:
    """The dimension that a sampler of `ray.tune` describes.

    Raises ValueError for what no searcher here can use: normal distributions, functions, logarithmic steps.
    """
    if isinstance(written, dict) and list(written) == ["grid_search"]:
        return _choice(key, written["grid_search"], is_grid=True)
    if isinstance(written, sample.Categorical):
        return _choice(key, written.categories, is_grid=False)
    if not isinstance(written, sample.Float | sample.Integer):
        raise ValueError(
            f"{key} is {written!r} in the space, which is no range of values; use "
            "tune.uniform, tune.loguniform, tune.quniform, tune.randint, tune.lograndint, tune.qrandint, "
            "tune.choice or tune.grid_search"
        )
    sampler, step = written.get_sampler(), None  # type: ignore[no-untyped-call]
    if isinstance(sampler, sample.Quantized):
        sampler, step = sampler.get_sampler(), sampler.q  # type: ignore[no-untyped-call]
    is_integer = isinstance(written, sample.Integer)
    is_logarithmic = isinstance(sampler, sample.LogUniform)
    refuse_if(
        isinstance(sampler, sample.Normal),
        f"{key} has a normal distribution, which has no ends to search between; use tune.uniform or "
        "tune.loguniform",
    )
    refuse_if(
        is_logarithmic and step is not None,
        f"{key} is both logarithmic and in steps; use tune.loguniform, tune.quniform or tune.choice",
    )
    low, high = written.lower, written.upper
    if is_integer and step is None:
        high -= 1  # Ray's upper end of whole numbers is excluded, except in steps
    refuse_if(low > high, f"{key} goes from {low} to {high}; the first must not be above the second")
    return Interval(low, high, is_integer, is_logarithmic, step)


def _choice(key: str, values: Any, is_grid: bool) -> Choice:
    refuse_if(not values, f"{key} has no values to choose from; give one or more")
    try:
        return Choice(tuple(plain(value) for value in values), is_grid)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{key} has a value to choose from that is no plain value: {error}") from error


def plain(value: Any) -> Any:
    """A value as the sweep's files give it back: tuples are lists, NumPy's numbers are Python's."""
    return json.loads(json.dumps(value, default=lambda other: other.item()))
