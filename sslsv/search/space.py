"""Define a search in a short Python file, whose `SPACE` names the base config and the searched settings."""

import json
import runpy
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial
from pydantic import ConfigDict, Field, InstanceOf, ValidationError

from sslsv.config import CRITERIA
from sslsv.registry import nearest
from sslsv.search.schedulers import Asha, Halving
from sslsv.settings import leaves_of, locate, refuse_if

# Settings and sections that all trials must share to be comparable. Seed and lists also determine the
# held-out speakers, and the folders determine the noises and impulse responses of validation.
UNSEARCHABLE = (
    *("seed", "data.root", "data.train_lists", "data.held_out_lists"),
    *("data.augment.noise.folder", "data.augment.reverb.folder"),
    *("train.epochs", "train.patience", "train.collapse", "evaluation", "run", "resources"),
)
ALTERNATIVE = "alternative"  # key of the dimension whose values are names of alternatives

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Dimension:
    """Hold the values that a setting may have."""

    key: str
    # Choices are JSON text, because Optuna needs hashable values and choices may be lists or sections.
    distribution: Distribution

    @property
    def choices_or_ends(self) -> list[Any]:
        """Return every choice (a grid combines them), or both ends of a range, to check the space with."""
        if isinstance(self.distribution, CategoricalDistribution):
            return [json.loads(str(choice)) for choice in self.distribution.choices]
        return [self.distribution.low, self.distribution.high]

    @property
    def keys(self) -> set[str]:
        """Return the keys that the dimension sets: its own key, and keys of sections among its choices."""
        leaves = (leaf for value in self.choices_or_ends for leaf, _ in leaves_of({self.key: value}))
        return {self.key, *leaves}

    def encode(self, value: Any) -> Any:
        """Return a value in Optuna's form; raises ValueError if the dimension does not contain it."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices[self.choices_or_ends.index(plain(value))]
        # Optuna checks the value, and raises ValueError if it is outside the range.
        create_trial(value=0.0, params={"value": value}, distributions={"value": self.distribution})
        return value

    def decode(self, drawn: Any) -> Any:
        """Return a value drawn by Optuna as a plain value."""
        if isinstance(self.distribution, CategoricalDistribution):
            return json.loads(drawn)
        is_stepped = isinstance(drawn, float) and self.distribution.step
        return float(f"{drawn:.12g}") if is_stepped else drawn  # 0.3, not 0.30000000000000004


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Space:
    """Define what is searched and how; tune_spaces/ has examples."""

    base: str  # yaml file of the settings that are not searched
    parameters: dict[str, Any] = Field(default_factory=dict)  # key -> domain of ray.tune
    # Name -> settings that belong together. Each trial uses one alternative; the results show its name.
    alternatives: dict[str, dict[str, Any]] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)  # changes to the base, the same in all trials
    metric: str = "eer"  # validation or label-free metric to select by; results show all measured ones
    trials: Annotated[int, Field(ge=1)] | None = None  # None only with searcher "grid", which tries all
    searcher: Literal["random", "grid", "tpe"] = "random"
    tries_base_first: bool = False  # trial 0 has the settings of the base (not with grid), for comparison
    startup_trials: Annotated[int, Field(ge=0)] = 10  # random trials before tpe begins to learn
    scheduler: InstanceOf[Halving] | None = None  # None: all trials are trained to the end
    rung_epochs: tuple[int, ...] = ()  # where trials are compared, besides the end of training
    gpus_per_trial: Annotated[float, Field(gt=0, le=1)] = 1.0  # trials with one worker may share a GPU
    max_failures: Annotated[int, Field(ge=0)] = 2  # restarts of a trial whose process dies
    seed: Annotated[int, Field(ge=0)] = 1717  # for drawing configurations; training has its own seed

    def __post_init__(self) -> None:
        metric, is_grid = self.metric, self.searcher == "grid"
        refuse_if(
            not self.parameters and not self.alternatives,
            "nothing is searched: give parameters, or alternatives",
        )
        refuse_if(
            metric not in CRITERIA,
            f"metric is {metric!r}, which can't select trials{nearest(metric, CRITERIA)}",
        )
        refuse_if(
            is_grid != (self.trials is None),
            f"trials is {self.trials}; give a number, but leave it out with 'grid', which tries all",
        )
        refuse_if(
            self.searcher == "tpe" and type(self.scheduler) is Halving,
            "searcher 'tpe' learns from earlier trials, but Halving starts all at once; use Asha",
        )
        is_rising = all(low < high for low, high in pairwise((0, *self.rung_epochs)))
        refuse_if(
            bool(self.rung_epochs) == (self.scheduler is None) or not is_rising,
            f"rung_epochs is {self.rung_epochs} and the scheduler {self.scheduler}; give both or none, with "
            "ascending epochs at which trials are compared, such as (5, 15)",
        )
        refuse_if(
            self.tries_base_first and bool(self.alternatives),
            "tries_base_first is true, but the base is none of the alternatives; set it to false",
        )
        used_keys = {leaf for settings in self.alternatives.values() for leaf, _ in leaves_of(settings)}
        for dimension in self.dimensions:
            twice = ", ".join(sorted(used_keys & dimension.keys))
            refuse_if(bool(twice), f"{twice} is searched twice, or also set by an alternative; leave one out")
            used_keys |= dimension.keys
            for leaf in used_keys:
                is_fixed = any(f"{leaf}.".startswith(f"{name}.") for name in UNSEARCHABLE)
                refuse_if(is_fixed, f"{leaf} can't be searched, because all trials share it; set it for all")
            is_range = not isinstance(dimension.distribution, CategoricalDistribution)
            refuse_if(
                is_grid and is_range, f"{dimension.key} is a range; 'grid' needs tune.grid_search([...])"
            )

    @property
    def decider(self) -> Halving:
        """Return the scheduler; without one, `Asha`, which without rungs trains all trials to the end."""
        return self.scheduler or Asha()

    @cached_property
    def dimensions(self) -> list[Dimension]:
        """Return all dimensions in the order of the file; the alternatives, if there are any, come first."""
        alternatives = {ALTERNATIVE: {"grid_search": list(self.alternatives)}} if self.alternatives else {}
        domains = {**alternatives, **self.parameters}
        return [Dimension(key, to_distribution(key, domain)) for key, domain in domains.items()]

    def settings_of(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a configuration, with an alternative's name replaced by its settings."""
        alternative = self.alternatives.get(configuration.get(ALTERNATIVE, ""), {})
        return {**alternative, **{key: value for key, value in configuration.items() if key != ALTERNATIVE}}


def to_distribution(key: str, domain: Any) -> Distribution:
    """Translate a domain of `ray.tune` into the equivalent distribution of Optuna.

    Raises ValueError for unsupported domains: normal distributions, functions, logarithmic steps. Domains are
    recognised by the names of their classes, so that only the space file imports Ray.
    """
    kind = type(domain).__name__
    is_grid = isinstance(domain, dict) and list(domain) == ["grid_search"]
    try:
        if is_grid or kind == "Categorical":
            values = domain["grid_search"] if is_grid else domain.categories
            return CategoricalDistribution(tuple(json.dumps(plain(value)) for value in values))
        if kind in ("Float", "Integer"):
            sampler = domain.get_sampler()
            step = getattr(sampler, "q", None)
            scale = type(sampler if step is None else sampler.get_sampler()).__name__
            is_log = scale == "_LogUniform"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna warns if steps do not end at the upper end
                if kind == "Integer":  # Ray excludes the upper end of integers, except in steps
                    high = domain.upper - (step is None)
                    return IntDistribution(domain.lower, high, log=is_log, step=step or 1)
                if scale != "_Normal":
                    return FloatDistribution(domain.lower, domain.upper, log=is_log, step=step)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{key} can't be searched as the space defines it: {error}") from error
    raise ValueError(
        f"{key} is {domain!r} in the space, which is not a range of values; use tune.uniform, "
        "tune.loguniform, tune.quniform, tune.randint, tune.lograndint, tune.qrandint, tune.choice or "
        "tune.grid_search"
    )


def plain(value: Any) -> Any:
    """Return a value as read back from the sweep's files: tuples as lists, NumPy numbers as Python's."""
    return json.loads(json.dumps(value, default=lambda number: number.item()))


def load_space(path: str | Path) -> Space:
    """Run a space file and return its `SPACE`.

    Raises FileNotFoundError, or ValueError with the line number for any error in the file.
    """
    path = locate(path)
    if not path.is_file() or path.suffix != ".py":
        raise FileNotFoundError(f"{path} is not a space file; give a Python file such as tune_spaces/demo.py")
    try:
        space = runpy.run_path(str(path.absolute())).get("SPACE")
    except Exception as error:  # a user's code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
        prefix = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path}, line {line}: {prefix}{' '.join(sentence_of(error).split())}") from error
    if not isinstance(space, Space):
        raise ValueError(
            f"{path} has no SPACE = Space(...), which says what is searched; see tune_spaces/demo.py"
        )
    return space


def sentence_of(error: Exception) -> str:
    """Return an error as a sentence; of several mistakes in a Space, the first (unknown names come first)."""
    if not isinstance(error, ValidationError):
        return str(error).strip() or type(error).__name__
    first = min(error.errors(), key=lambda mistake: mistake["type"] != "unexpected_keyword_argument")
    if first["type"] == "unexpected_keyword_argument":
        name = str(first["loc"][0])
        return f"{name} is not a field of Space{nearest(name, list(Space.__dataclass_fields__))}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    value = "missing" if first["type"] == "missing" else repr(first["input"])
    return f"{first['loc'][0]} is {value}; {message}" if first["loc"] else message
