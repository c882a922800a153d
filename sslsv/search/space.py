"""The search space: a short Python file whose `SPACE` says what is searched, from which settings, and how."""

import importlib.util
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from sslsv.config import LowerIsBetter
from sslsv.search.dimensions import When, read_dimensions
from sslsv.search.schedulers import RunAll, Scheduler
from sslsv.search.space_checks import check_metrics, check_parameters, check_rungs, check_searcher
from sslsv.settings import locate, nearest, refuse_if

__all__ = ["Space", "When", "load_space"]


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched; tune_spaces/ has examples."""

    base: str  # yaml file of the settings that are not searched
    parameters: Mapping[str, Any]  # key path -> sampler of ray.tune, or When
    settings: Mapping[str, Any] = field(default_factory=dict)  # changes to the base, the same in all trials
    metric: str | Sequence[str] = "eer"  # of validation, or label-free; of several the first one decides
    trials: int | None = None  # how many to try; null only with searcher "grid", which tries all
    searcher: str = "random"  # random, grid or tpe
    tries_base_first: bool = False  # trial 0 is the base itself, so that nothing worse can win unnoticed
    startup_trials: int | None = None  # tpe only: random trials before it begins to learn; null = 10
    scheduler: Scheduler = RunAll()
    rung_epochs: Sequence[int] = ()  # where trials are compared; the end of training is always one
    rung_samples: Sequence[int] = ()  # the same in utterances heard, rounded up to epochs
    grace_epochs: int | None = None  # or only the first rung: the scheduler's reduction gives the others
    gpus_per_trial: float = 1.0  # trials with one worker may share a GPU: 0.5, 0.25 ...
    max_failures: int = 2  # restarts of a trial whose process dies
    seed: int = 1717  # of suggestions; that of training is a setting like others

    def __post_init__(self) -> None:
        """Refuse what does not go together; keys are checked with the base, in trial_settings.py."""
        check_metrics(self.metrics)
        check_searcher(self)
        check_parameters(read_dimensions(self.parameters), self.searcher)
        check_rungs(self)
        refuse_if(
            not 0 < self.gpus_per_trial <= 1,
            f"gpus_per_trial is {self.gpus_per_trial}; it must be above 0 and at most 1 (a trial takes "
            "several GPUs by resources.workers)",
        )
        refuse_if(self.max_failures < 0, f"max_failures is {self.max_failures}; it must be 0 or more")

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics, the deciding one first."""
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def is_lower_better(self) -> bool:
        """Direction of the deciding metric."""
        return self.metrics[0] in get_args(LowerIsBetter)


def load_space(path: str | Path) -> Space:
    """Run a space file and return its `SPACE`.

    Raises FileNotFoundError, and ValueError in one sentence for whatever goes wrong inside.
    """
    path = locate(path)
    if not path.is_file() or path.suffix != ".py":
        there = [str(other) for other in sorted(path.parent.glob("*.py"))]
        hint = nearest(str(path), there) if there else "; give a Python file such as tune_spaces/demo.py"
        raise FileNotFoundError(f"{path} is no space file{hint}")
    spec = importlib.util.spec_from_file_location(f"sslsv_space_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's code may raise anything
        raise ValueError(f"{path}{_line_of(error, path)}: {_said(error)}") from error
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Space):
        raise ValueError(
            f"{path} has no SPACE = Space(...), which says what is searched; see tune_spaces/demo.py"
        )
    return space


def _line_of(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _said(error: Exception) -> str:
    name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return name + " ".join(str(error).split())
