"""Search hyperparameters: `python -m sslsv.tune SPACE [key=value ...]`.

Reads the space, checks it with the settings around it, works out how many trials run at once, and runs them
under Ray Tune.  What it leaves is described in search/sweep_folder.py.

Exit codes: 0 searched (or planned), 1 no trial can win or none can be confirmed, or the sweep was halted,
2 the request can't be met, 130 interrupted.
"""

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sslsv.config import Config, to_dict
from sslsv.data.stream import Plan
from sslsv.evaluation.verification import open_trial_sets
from sslsv.reports.sweep import write_sweep_report
from sslsv.runs.folder import RunFolder
from sslsv.runs.log import wandb_environment, wandb_mode
from sslsv.runs.storage import absolute, below
from sslsv.search.confirmation import (
    DEFAULT_SEEDS,
    Confirmation,
    check_confirmation,
    confirmation_config,
    write_comparisons,
)
from sslsv.search.criteria import describe_rankings, rank_criteria
from sslsv.search.history import standing
from sslsv.search.places import Places, find_places
from sslsv.search.request import check_folder, describe_request, prepared_folder
from sslsv.search.results import state_of, write_results
from sslsv.search.space import Space, load_space
from sslsv.search.suggestions import Suggester
from sslsv.search.sweep import ExecutionError, Sweep
from sslsv.search.sweep_folder import SweepFolder
from sslsv.search.table import describe, live_table
from sslsv.search.trial_settings import base_config, check_trials, fix_parameters, rungs_of, trial_config
from sslsv.train import check_data


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        return run(options)
    except ValueError as error:  # ours among them: their messages are for the user
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # storage that can't be written or is not there, a cluster that does not answer
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    except ExecutionError as error:
        print(f"error: {error}; the same command with --resume goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command with --resume goes on", file=sys.stderr)
        return 130


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.tune", description="Search hyperparameters of self-supervised models."
    )
    parser.add_argument("space", type=Path, help="a Python file, such as tune_spaces/vicreg.py")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings of all trials, such as train.epochs=20"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on with the unfinished sweep of this name")
    how.add_argument(
        "--fresh", action="store_true", help="start anew; a sweep that is there is renamed, not lost"
    )
    how.add_argument("--plan", action="store_true", help="say what would run, and how long it would take")
    parser.add_argument("--trials", type=int, help="how many settings to try, instead of the space's number")
    parser.add_argument(
        "--confirm", type=int, metavar="K", help="then train the K best and the base anew and test them"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="trainings of each that is confirmed (3)")
    parser.add_argument("--concurrent", type=int, help="trials at once; else as many as fit")
    parser.add_argument("--storage", default="tune", help="folder or URI of all sweeps")
    parser.add_argument("--name", help="of the sweep's folder; else that of the space file")
    return parser.parse_intermixed_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Search as the command line says; returns the exit code.

    Raises ValueError or OSError, with a sentence, before anything is started.
    """
    space = load_space(options.space)
    if options.trials is not None:
        space = replace(space, trials=options.trials)
    base = base_config(space, options.overrides)
    space = fix_parameters(space, options.overrides)
    base = replace(base, data=replace(base.data, root=absolute(base.data.root)))  # trials run elsewhere
    suggester = Suggester(space, to_dict(base))
    rungs = rungs_of(space, base, _samples_per_epoch(base) if space.rung_samples else 1)
    check_trials(space, base, suggester, rungs)
    _, example = next(suggester.corners())
    check_data(trial_config(base, space, example))
    check_confirmation(base, options.confirm, options.seeds)
    if options.confirm is not None:
        check_data(confirmation_config(base, space, example))
    folder = RunFolder(options.storage, options.name or options.space.stem)
    request = describe_request(space, base, options, rungs)
    # What is confirmed is most often a sweep that has ended.
    is_resumed = options.resume or (
        options.confirm is not None and not options.fresh and folder.has("sweep.json")
    )
    if not options.plan:
        check_folder(folder, request, is_fresh=options.fresh, is_resumed=is_resumed)
    trials = suggester.num_trials

    from sslsv.cluster.capacity import total_of
    from sslsv.cluster.connect import connection, look

    with connection(base.resources) as share:
        cluster = look()
        nodes = list(cluster.machines.values())
        free = {kind: total_of(cluster.free.values(), kind) for kind in ("CPU", "GPU")}
        places = find_places(
            base.resources, share.has_gpu, space.gpus_per_trial, free, nodes, trials, options.concurrent
        )
        shared = places.apply(base)
        print(
            f"{trials} trials of {space.base} by {space.searcher}, chosen by {' then '.join(space.metrics)}"
        )
        print(places.describe(base.resources))
        if options.plan:
            config = trial_config(shared, space, example)
            print_forecast(space, config, rungs, places, trials)
            if options.confirm is not None:
                seeds = options.seeds or DEFAULT_SEEDS
                print(
                    f"then, to confirm, {options.confirm + 1} x {seeds} trainings of {rungs[-1]} epochs: "
                    f"{(options.confirm + 1) * seeds * rungs[-1]} epochs"
                )
            return 0
        with prepared_folder(folder, request, is_fresh=options.fresh, is_resumed=is_resumed):
            files = SweepFolder(folder, rungs, space.metrics[0], space.is_lower_better)
            sweep = Sweep(space, base, rungs, files, shared.resources)
            code = search(sweep, places)
            if code == 0 and options.confirm is not None:
                code = confirm(sweep, places, options.confirm, options.seeds or DEFAULT_SEEDS)
            return code


def train_legs(sweep: Sweep, places: Places, group: str) -> None:
    """Run what is left of a sweep in the connected cluster; `group` is its name in wandb.

    Raises ExecutionError.
    """
    from sslsv.search.executor import run_sweep
    from sslsv.search.trial import Place

    place = Place(
        has_gpu=places.has_gpu,
        threads=places.threads,
        wandb_mode=wandb_mode(sweep.base.run.wandb),
        environment=wandb_environment() | {"WANDB_RUN_GROUP": group},
    )
    if not sweep.is_over:
        with live_table(sweep) as changed:
            run_sweep(sweep, places, place, changed)


def search(sweep: Sweep, places: Places) -> int:
    """Run what is left of a sweep, say what it came to, return the exit code."""
    start = time.monotonic()
    try:
        train_legs(sweep, places, sweep.folder.folder.name)
    except BaseException:  # Ctrl-C, too: what there is so far can be looked at
        with contextlib.suppress(OSError):
            write_results(sweep)
            write_sweep_report(sweep)
        raise
    best = write_results(sweep)
    write_sweep_report(sweep)
    location = sweep.folder.folder.location
    states = Counter(state_of(sweep, outcome) for outcome in standing(sweep.folder.history))
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    print(
        f"{counts} in {(time.monotonic() - start) / 60:.1f} minutes; all in {below(location, 'results.csv')}"
    )
    if best is None:
        print(
            f"error: no trial can win; {below(location, 'results.csv')} says why each ended", file=sys.stderr
        )
        return 1
    value = f"{sweep.folder.metric} {sweep.folder.value(best):.4g}"
    print(f"best: trial {best.index}, {value}, {describe(sweep, best.index)}")
    rankings = rank_criteria({epoch: list(at.values()) for epoch, at in sweep.folder.at_rungs().items()})
    if rankings:
        print("how criteria without labels would have chosen:", *describe_rankings(rankings), sep="\n  ")
    copied = "" if sweep.folder.folder.is_local else "a copy of "
    print(f"train it anew: python -m sslsv.train {copied}{below(location, 'best.yml')}")
    return 0


def confirm(sweep: Sweep, places: Places, num_best: int, num_seeds: int) -> int:
    """Train the best trials and the base anew, as far as that is not done; say and write how they compare.

    Returns the exit code: 1 where nothing can be compared.
    """
    confirmation = Confirmation(sweep, num_best, num_seeds)
    if (possible := len(confirmation.contestants) - 1) < num_best:
        print(f"{possible} of the {num_best} trials asked for can be confirmed: no other one can win")
    train_legs(confirmation, places, f"{sweep.folder.folder.name}-confirm")
    found = confirmation.comparisons()
    write_comparisons(sweep.folder.folder, found)
    write_sweep_report(sweep)
    if found:
        print("confirmed on test trials:", *[comparison.sentence() for comparison in found], sep="\n  ")
    for sentence in confirmation.incomparable(found):
        print(sentence)
    if not found:
        print("error: nothing is confirmed: too few trainings came to the end", file=sys.stderr)
        return 1
    return 0


def print_forecast(space: Space, config: Config, rungs: Sequence[int], places: Places, trials: int) -> None:
    """What the trials would do if all lived, and how long that would take here."""
    from sslsv.search.forecast import forecast, seconds_per_epoch

    expected = forecast(space.scheduler, trials, rungs, places.at_once, space.seed)
    ladder = ", ".join(
        f"{count} to epoch {epoch}" for count, epoch in zip(expected.legs_to, rungs, strict=True)
    )
    print(f"about {ladder}: {expected.epochs} epochs instead of {trials * rungs[-1]}")
    seconds = seconds_per_epoch(config, places.has_gpu, places.threads)
    hours = seconds * expected.epochs_in_a_row / 3600
    text = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
    print(f"an epoch takes about {seconds:.1f} s here (a few steps timed): about {text}, without validation")


def _samples_per_epoch(base: Config) -> int:
    manifest, _, _ = open_trial_sets(base)
    plan = Plan.from_config(manifest.speakers, base)
    return plan.steps_per_epoch * plan.batch_size


if __name__ == "__main__":
    sys.exit(main())
