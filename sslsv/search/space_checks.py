"""What a space must not be, apart from the settings that it names."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from sslsv.config import Criterion
from sslsv.search.dimensions import Choice, Dimension, When, leaves_within
from sslsv.search.population import SCHEDULE_LIKE, Population
from sslsv.search.schedulers import Asha, Hyperband, RunAll, Scheduler, TopK
from sslsv.settings import nearest, refuse_if

if TYPE_CHECKING:
    from sslsv.search.space import Space

SEARCHERS = ("random", "grid", "tpe")

# What all trials must share, or they could not be compared; and what belongs to the sweep, not to a trial.
FIXED = {
    "seed": "it also draws the held-out speakers and their trials",
    "data.root": "all trials must hear the same recordings",
    "data.train_lists": "the held-out speakers are drawn from them",
    "data.augment.noise.folder": "the noises of validation come from there",
    "data.augment.reverb.folder": "the rooms of validation come from there",
    "train.epochs": "it is the length of every trial's schedule, of which the rungs are parts",
    "train.patience": "the scheduler says when a trial ends",
    "train.collapse": "a collapsed trial is stopped",
    "evaluation": "all trials must be measured alike",
    "run": "the sweep names and keeps its trials",
    "resources": "all trials take the same places",
}


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse metrics that may not choose."""
    refuse_if(not metrics, "metric is empty; name one, such as 'eer'")
    for metric in metrics:
        refuse_if(
            metric.startswith("test/"),
            f"metric is {metric!r}, a result on test trials, which never choose anything; use 'eer' (of "
            "validation) or a label-free criterion",
        )
        criteria = list(get_args(Criterion))
        refuse_if(
            metric not in criteria, f"metric is {metric!r}, which can't choose{nearest(metric, criteria)}"
        )


def check_searcher(space: "Space") -> None:
    """Refuse a searcher that is not known, or that can't do what is asked."""
    searcher, scheduler = space.searcher, space.scheduler
    refuse_if(
        not isinstance(scheduler, Scheduler),
        f"scheduler is {scheduler!r}; give a scheduler with its parentheses, such as Asha()",
    )
    refuse_if(
        searcher not in SEARCHERS,
        f"searcher is {searcher!r}, which is not known{nearest(str(searcher), list(SEARCHERS))}",
    )
    refuse_if(
        space.startup_trials is not None and searcher != "tpe",
        f"startup_trials is {space.startup_trials}, but the searcher is {searcher!r}, which does not learn; "
        "leave it out, or use searcher 'tpe'",
    )
    refuse_if(
        space.tries_base_first and searcher == "grid",
        "tries_base_first is true, but searcher 'grid' has an order of its own; leave it out",
    )
    refuse_if(
        searcher == "tpe" and not isinstance(scheduler, RunAll | Asha | Hyperband),
        f"searcher 'tpe' learns from earlier trials, but the scheduler {type(scheduler).__name__} starts all "
        "at once; use Asha, Hyperband or RunAll, or searcher 'random'",
    )
    refuse_if(
        isinstance(scheduler, Population)
        and not any(key.startswith(SCHEDULE_LIKE) for key in space.parameters),
        "the scheduler Population changes what may change half-way, and the space has nothing of that kind; "
        "search optimizer.learning_rate, weights of the loss or data.augment, or choose another scheduler",
    )
    refuse_if(
        searcher == "grid" and space.trials is not None,
        f"trials is {space.trials}, but searcher 'grid' tries every combination once; leave it out",
    )
    refuse_if(
        searcher != "grid" and (space.trials is None or space.trials < 1),
        f"trials is {space.trials}; say how many to try, 1 or more",
    )


def check_parameters(dimensions: Mapping[str, Dimension | When], searcher: str) -> None:
    """Refuse settings that can't be searched, and dimensions that the searcher can't use."""
    refuse_if(not dimensions, "parameters is empty; name at least one setting to search")
    for key, dimension in dimensions.items():
        for leaf in {key, *leaves_within(key, dimension)}:
            for fixed, why in FIXED.items():
                refuse_if(
                    leaf == fixed or leaf.startswith(f"{fixed}."),
                    f"{leaf} can't be searched: {why}; set it for all trials",
                )
        if isinstance(dimension, When):
            refuse_if(
                isinstance(dimensions.get(dimension.key), When),
                f"{key} depends on {dimension.key}, which depends on another one; let it depend on that",
            )
            for case in dimension.cases.values():
                _check_dimension(key, case, searcher)
        else:
            _check_dimension(key, dimension, searcher)


def _check_dimension(key: str, dimension: Dimension, searcher: str) -> None:
    is_grid = searcher == "grid"
    refuse_if(
        is_grid and not isinstance(dimension, Choice),
        f"{key} is an interval, and searcher 'grid' can't try every value of it; use tune.grid_search([...])",
    )
    refuse_if(
        not is_grid and isinstance(dimension, Choice) and dimension.is_grid,
        f"{key} is given by tune.grid_search, but the searcher is {searcher!r}; use tune.choice([...]), or "
        "searcher 'grid'",
    )


def check_rungs(space: "Space") -> None:
    """Refuse rungs that are given twice, not at all, or without use."""
    names = ("rung_epochs", "rung_samples", "grace_epochs")
    given = [name for name in names if getattr(space, name) not in (None, (), [])]
    scheduler = type(space.scheduler).__name__
    refuse_if(len(given) > 1, f"{' and '.join(given)} both say where the rungs are; keep one")
    if isinstance(space.scheduler, RunAll):
        refuse_if(
            bool(given),
            f"{''.join(given)} is given, but the scheduler RunAll compares no trials before their end; "
            "choose another scheduler, such as Asha(), or leave it out",
        )
        return
    refuse_if(
        not given,
        f"the scheduler {scheduler} has to know where trials are compared; give rung_epochs=(...), "
        "rung_samples=(...) or grace_epochs=...",
    )
    for name in given[:1]:
        rungs = getattr(space, name)
        refuse_if(
            isinstance(rungs, int) != (name == "grace_epochs"),
            f"{name} is {rungs!r}; give "
            + ("one number" if name == "grace_epochs" else f"a tuple, such as ({rungs},)"),
        )
        rungs = [rungs] if isinstance(rungs, int) else list(rungs)
        refuse_if(
            rungs[0] < 1 or any(high <= low for low, high in zip(rungs, rungs[1:], strict=False)),
            f"{name} is {rungs}; give numbers from 1 on, each above the one before",
        )
        refuse_if(
            isinstance(space.scheduler, TopK) and len(rungs) > 1,
            f"{name} is {rungs}, but the scheduler TopK compares trials once; give one rung",
        )
