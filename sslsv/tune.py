"""Search hyperparameters: `sslsv tune SPACE [key=value ...]`.

Checks the space and the settings of its trials, determines how many trials run at once, and runs them with
Ray Tune. The files of a sweep are described in search/sweep.py.

Exit codes: 0 done, 1 no trial can win, nothing can be confirmed, or the sweep was halted, 2 the request can't
be met, 130 interrupted.
"""

import argparse
import contextlib
import shlex
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from sslsv.evaluation.arguments import run_command
from sslsv.settings import Failed, apply_overrides, command_name, require_file

if TYPE_CHECKING:  # needs Ray, torch and Optuna, which functions import after parsing the arguments
    from sslsv.search.executor import Slots
    from sslsv.search.sweep import Sweep

NUM_PAGES = 3  # best trials that get a report; `sslsv report` writes the reports of others


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog=command_name("tune"), description="Search hyperparameters.")
    add = parser.add_argument
    add("space", nargs="?", type=Path, help="a Python file, such as tune_spaces/vicreg.py")
    add("overrides", nargs="*", metavar="key=value", help="settings of all trials, such as train.epochs=20")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="continue the existing sweep of this name")
    how.add_argument("--fresh", action="store_true", help="start a new sweep; an existing one is renamed")
    how.add_argument("--plan", action="store_true", help="print what would run, without starting it")
    add("--trials", type=int, help="number of configurations to try (default: the space's number)")
    add("--confirm", type=int, metavar="K", help="then retrain the K best and the base, and test them")
    add("--seeds", type=int, default=3, metavar="N", help="with --confirm: seeds for each (%(default)s)")
    add("--concurrent", type=int, help="trials at once (default: as many as fit)")
    add("--storage", default="tune", help="folder or URI for all sweeps")
    add("--name", help="name of the sweep's folder (default: name of the space file)")
    options = parser.parse_intermixed_args(arguments)
    options.command = f"{command_name('tune')} {shlex.join(sys.argv[1:] if arguments is None else arguments)}"
    return run_command(run, options, "the same command with --resume goes on")


def run(options: argparse.Namespace) -> int:
    """Run the search; raises ValueError or OSError before anything is started, `Failed` afterwards."""
    options.space = require_file(options.space, "space", "tune_spaces/demo.py")
    from sslsv.evaluation.trials import digest_of_lists
    from sslsv.reports.page import metric_title
    from sslsv.runs.display import LiveLine
    from sslsv.runs.folder import RunFolder, absolute, only_command_on
    from sslsv.search.confirmation import check_confirmation
    from sslsv.search.schedulers import Asha
    from sslsv.search.searchers import Searcher
    from sslsv.search.space import load_space, sentence_of
    from sslsv.search.sweep import Sweep, check_folder, describe_request, prepare_folder
    from sslsv.search.trial_settings import base_config, check_trials, rungs_of, trial_config, with_overrides
    from sslsv.train import check_data, find_leaks

    space = with_overrides(load_space(options.space), options.overrides)
    folder = RunFolder(options.storage, options.name or options.space.stem)
    # With --confirm, an existing sweep is resumed: it usually has ended already.
    is_resumed = options.resume or (options.confirm and not options.fresh and folder.has("sweep.json"))
    mode = "fresh" if options.fresh else "resume" if is_resumed else "new"
    if options.trials is None and space.trials and mode == "resume" and folder.has("sweep.json"):
        options.trials = folder.read_json("sweep.json")["trials"]  # keeps an earlier --trials
    if options.trials is not None:
        try:
            space = replace(space, trials=options.trials)
        except ValidationError as error:
            raise ValueError(sentence_of(error)) from error
    base = base_config(space)
    base = replace(base, data=replace(base.data, root=absolute(base.data.root)))  # trials have their own cwd
    searcher, rungs = Searcher(space, base), rungs_of(space, base)
    check_trials(space, base, searcher)
    if options.confirm is not None:
        check_confirmation(base, options.confirm, options.seeds)
    test_lists = {"evaluation.test": list(base.evaluation.test) if options.confirm is not None else []}
    corners = [trial_config(base, space, {**corner, **test_lists}) for _, corner in searcher.corners()]
    # Check only the corner with the fewest batches among corners with the same initial weights.
    by_batches = sorted(corners, key=lambda each: -each.data.fraction / each.train.batch_size)
    distinct = {each.encoder.source(): each for each in by_batches}.values()
    for config in distinct:
        check_data(config)
    for sentence in dict.fromkeys(each for config in distinct for each in find_leaks(config, folder)):
        print(f"warning: {sentence}", file=sys.stderr)
    request = describe_request(space, base, str(options.space), rungs)
    request |= {"command": options.command, "lists": digest_of_lists(base)}
    trials = searcher.num_trials
    with contextlib.ExitStack() as stack:
        if not options.plan:
            check_folder(folder, request, mode)
            stack.enter_context(only_command_on(folder))
        with LiveLine("starting Ray"):
            from sslsv.cluster.connect import cluster_state, connection, total_of
            from sslsv.cluster.fit import WORKER_ENVIRONMENT
            from sslsv.search.executor import find_slots

            connected = connection(base.resources, WORKER_ENVIRONMENT, is_dry_run=options.plan)
            resources = stack.enter_context(connected)
            state = cluster_state()
        free = {kind: total_of(state.free.values(), kind) for kind in ("CPU", "GPU")}
        gpus = space.gpus_per_trial if resources.gpu else 0.0
        slots = find_slots(base.resources, gpus, free, [*state.machines.values()], trials, options.concurrent)
        apply_overrides(base, {"resources.gpu": slots.resources.gpu})  # refuses fp16 without a GPU
        print(f"{trials} trials of {space.base} by {space.searcher}, chosen by {metric_title(space.metric)}")
        print(slots.describe())
        if options.plan:
            counts = [max(trials // space.decider.reduction**rung, 1) for rung in range(len(rungs))]
            ladder = ", ".join(f"{n} to epoch {epoch}" for n, epoch in zip(counts, rungs, strict=True))
            epochs = sum(n * (end - start) for n, start, end in zip(counts, (0, *rungs), rungs, strict=False))
            bound = "at least" if isinstance(space.scheduler, Asha) else "about"  # Asha promotes some early
            print(f"{bound} {ladder}: {epochs} epochs instead of {trials * rungs[-1]}")
            if options.confirm:
                trainings = (options.confirm + 1) * options.seeds
                print(f"then, to confirm, {trainings} trainings of {rungs[-1]} epochs")
            return 0
        prepare_folder(folder, request, mode)
        sweep = Sweep(space, base, rungs, folder, slots.resources)
        search(sweep, slots)
        if options.confirm:
            confirm(sweep, slots, options.confirm, options.seeds)
        return 0


def search(sweep: "Sweep", slots: "Slots") -> None:
    """Run the rest of a sweep and print its results; raises `Failed` if no trial can win."""
    from sslsv.reports.sweep import write_sweep_report
    from sslsv.reports.training import write_report
    from sslsv.runs.display import LiveLine
    from sslsv.runs.folder import below, here
    from sslsv.search.executor import run_sweep
    from sslsv.search.schedulers import ranking

    try:
        with LiveLine(f"training, {slots.at_once} trial(s) at once"):
            run_sweep(sweep, slots, sweep.folder.name)
    except BaseException:  # on Ctrl-C too, so that the report shows the results so far
        with contextlib.suppress(OSError):
            write_sweep_report(sweep.folder)
        raise
    best, location = sweep.write_results(), here(sweep.folder.location)
    with LiveLine("writing the reports"):
        for outcome in ranking(sweep.history)[:NUM_PAGES]:
            write_report(sweep.trial_folder(outcome.index))
        write_sweep_report(sweep.folder)
    states = Counter(map(sweep.state_of, ranking(sweep.history)))
    table = below(location, "results.csv")
    print(f"{', '.join(f'{count} {state}' for state, count in states.items())}; all in {table}")
    print(f"report: {below(location, 'report.html')}")
    if best is None:
        raise Failed(f"no trial can win; {table} says why each ended")
    print(f"best: {sweep.describe(best)}")
    copied = "" if sweep.folder.is_local else "a copy of "
    print(f"next: {command_name('train')} {copied}{shlex.quote(below(location, 'best.yml'))}")


def confirm(sweep: "Sweep", slots: "Slots", num_best: int, num_seeds: int) -> None:
    """Retrain the best trials and the base where needed and compare them; raises `Failed` if none can be."""
    from sslsv.reports.sweep import write_sweep_report
    from sslsv.runs.display import LiveLine
    from sslsv.runs.folder import below, here
    from sslsv.search.confirmation import Confirmation, describe
    from sslsv.search.executor import run_sweep

    confirmation = Confirmation(sweep, num_best, num_seeds)
    if (possible := len(confirmation.contestants) - 1) < num_best:
        print(f"{possible} instead of {num_best} trials are confirmed: the rest can't win or is the base")
    with LiveLine(f"training to confirm, {slots.at_once} at once"):
        run_sweep(confirmation, slots, f"{sweep.folder.name}-confirm")
    comparisons, incomparable = confirmation.comparisons()
    sweep.folder.write_json("confirmation.json", {"comparisons": comparisons})
    write_sweep_report(sweep.folder)
    print(f"report: {below(here(sweep.folder.location), 'report.html')}")
    print("on test trials:", *map(describe, comparisons), *incomparable, sep="\n  ")
    if not comparisons:
        raise Failed("nothing is confirmed: too few trainings finished")


if __name__ == "__main__":
    sys.exit(main())
