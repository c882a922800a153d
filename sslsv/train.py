"""Train a model: `sslsv train CONFIG [key=value ...]`.

Reads the settings, checks the lists and an existing run folder, trains with Ray and shows the progress. If
the run is interrupted, the same command continues it.
"""

import argparse
import contextlib
import os
import shlex
import sys
import threading
import time
import uuid
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslsv import registry
from sslsv.config import Config, changes_of, load_config, read_config, to_yaml
from sslsv.evaluation.arguments import run_command
from sslsv.settings import ConfigError, Failed, apply_overrides, command_name, require_file

NUM_TRIED = 64  # recordings of each list, evenly spaced, that are read before training starts

# Run folders, PyTorch and Ray take seconds to import, so functions import them after checking the settings.
if TYPE_CHECKING:
    from sslsv.data.lists import Manifest
    from sslsv.data.recordings import Recordings
    from sslsv.runs.folder import RunFolder


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    models = f"Models: {', '.join(registry.names('models'))}."
    parser = argparse.ArgumentParser(prog=command_name("train"), description="Train a model.", epilog=models)
    add = parser.add_argument
    add("config", nargs="?", type=Path, help="a yaml file, such as configs/simclr.yml")
    add("overrides", nargs="*", metavar="key=value", help="settings to change, such as train.epochs=20")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--fresh", action="store_true", help="start from step 0; an existing run is renamed")
    how.add_argument("--extend", action="store_true", help="continue a run, even if finished, to more epochs")
    options = parser.parse_intermixed_args(arguments)  # overrides may come before and after --fresh
    words = sys.argv[1:] if arguments is None else arguments
    options.command = f"{command_name('train')} {shlex.join(words)}"
    same = "the same command without --fresh" if options.fresh else "the same command"
    return run_command(train, options, f"{same} goes on from the last checkpoint")


def train(options: argparse.Namespace) -> int:
    """Train as requested on the command line and print the result; returns the exit code."""
    config = load_config(require_file(options.config, "config", "configs/demo.yml"), options.overrides)
    summary = run(config, is_fresh=options.fresh, extends=options.extend, command=options.command)
    if "error" in summary:
        raise Failed(summary["error"])
    from sslsv.reports.training import summary_lines
    from sslsv.runs.folder import RunFolder, below, here

    folder = RunFolder(config.run.storage, str(config.run.name))
    location = here(folder.location)
    for sentence in [reason for reasons in summary["skipped"].values() for reason in reasons.values()]:
        print(f"skipped: {sentence}")
    print("\n".join(summary_lines(folder)))
    print(f"run folder: {location}\nreport: {below(location, 'report.html')}")
    print(f"next: {command_name('evaluate')} {shlex.quote(location)}")
    return 0


def run(
    config: Config, *, is_fresh: bool = False, extends: bool = False, command: str = ""
) -> dict[str, Any]:
    """Train with Ray Train and return the summary (the content of `summary.json`), or `{"error": message}`.

    The report shows `command`. Raises ValueError or OSError before anything is started.
    """
    from sslsv.runs.display import LiveLine

    with LiveLine("reading the lists", config.run.progress) as line:
        from sslsv.runs.folder import RunFolder, only_command_on

        folder = RunFolder(config.run.storage, str(config.run.name))
        manifest = check_data(config, is_resumed=not is_fresh and has_begun(folder))
        with only_command_on(folder):
            if not is_fresh:
                check_folder(folder, config, manifest, extends)
            line.stage("starting Ray")
            from sslsv.cluster.connect import check_address, connection

            check_address(os.environ.get("RAY_ADDRESS", ""))
            # Import what is needed next while Ray waits for its processes to start.
            threading.Thread(target=import_module, args=("ray.train.torch",)).start()
            with connection(config.resources) as resources:
                from sslsv.cluster.fit import fit
                from sslsv.runs.environment import computes_bf16

                # Refuses fp16 without a GPU, before the folder changes.
                resolved = apply_overrides(config, {"resources.gpu": resources.gpu})
                prepare_folder(folder, config, manifest, is_fresh, command)
                if config.train.precision == "bf16" and not resources.gpu and not computes_bf16():
                    line.say(
                        "note: the CPU of this machine has no instructions for bf16 and only imitates them: "
                        "train.precision=fp32 may train twice as fast"
                    )
                try:
                    return fit(resolved, folder, line)
                finally:
                    line.stage("writing the report")
                    from sslsv.reports.training import write_report

                    with contextlib.suppress(OSError):  # training reports a full disk itself
                        write_report(folder)


def check_data(config: Config, is_resumed: bool = False) -> "Manifest":
    """Read every list, some recordings and the initial weights, to report mistakes before Ray starts.

    Returns the training utterances. The initial weights are not read if `is_resumed`.
    """
    from sslsv.data.augmentations.base import Augmenter
    from sslsv.data.bank import Bank
    from sslsv.data.recordings import open_recordings
    from sslsv.data.stream import Plan
    from sslsv.evaluation.trials import open_trial_sets

    manifest, validation, tests = open_trial_sets(config)
    trial_sets = [each for each in (validation, *tests) if each]
    if config.encoder.source() is not None and not is_resumed:
        from sslsv.training.initial import load_source  # imports PyTorch

        load_source(config)
    data, recordings = config.data, open_recordings(config.data.root)
    bank = Bank(recordings, data.bank_cache_mb)
    Augmenter(data.augment, bank)
    Plan(len(manifest), config.train.batch_size, config.seed)
    for note in chain(manifest.notes, *(each.trials.notes for each in trial_sets), bank.notes):
        print(f"note: {note}", file=sys.stderr)
    check_recordings(recordings, "the train lists", manifest.paths, data.max_bad_share)
    for trial_set in trial_sets:
        check_recordings(recordings, trial_set.name, trial_set.trials.paths, 1.0)
    return manifest


def check_recordings(recordings: "Recordings", name: str, paths: list[str], max_bad_share: float) -> None:
    """Read a sample of a list, warn about bad and slow recordings; raises ValueError if too many are bad."""
    from sslsv.data.audio import SAMPLE_RATE, AudioError

    sample = paths[:: -(-len(paths) // NUM_TRIED)]
    bad, slow = list[str](), list[str]()
    for path in sample:
        try:
            with recordings.open(path) as recording:
                recording.read_int16(0, min(recording.num_samples, SAMPLE_RATE))
                slow += [path] if recording.is_slow else []
        except AudioError as error:
            bad.append(str(error))
    tried = f"of {len(sample)} recordings of {name} that were tried"
    sentence = f"{len(bad)} {tried} can't be read, the first: {' '.join(bad[:1])}"
    # A share 10 points above the limit is not sampling noise; training itself detects smaller excesses.
    if len(bad) == len(sample) or (len(bad) > 1 and len(bad) > (max_bad_share + 0.1) * len(sample)):
        raise ValueError(
            f"{sentence} Correct data.root or the list, or repair the files: "
            f"`{command_name('prepare_data')} check LIST` names them all"
        )
    if bad:
        print(f"warning: {sentence}", file=sys.stderr)
    if slow:
        hint = f"`{command_name('prepare_data')} convert FOLDER --out COPY` helps"
        sentence = f"{len(slow)} {tried} ({slow[0]} ...) take ten times as long as FLAC: {hint}"
        print(f"note: {sentence}", file=sys.stderr)


def check_folder(folder: "RunFolder", config: Config, manifest: "Manifest", extends: bool = False) -> None:
    """Raise ValueError if the folder has a sweep, loop, finished run, or a run with other settings or lists.

    Lists and recordings may move as long as the contents of the lists are unchanged. With `extends`, a larger
    train.epochs is allowed. A run that was stopped before its first checkpoint is not checked.
    """
    from sslsv.evaluation.overlap import TrainedOn
    from sslsv.evaluation.trials import digest_of_lists

    if (kind := folder.kind()) not in ("", "run"):
        raise ValueError(f"{folder.location} holds a {kind}; use another run.name, or --fresh to rename it")
    if not has_begun(folder):
        if extends:
            raise ValueError(f"{folder.location} holds no run that --extend could continue; leave it out")
        return
    summary, problem = folder.read_json("summary.json") if folder.has("summary.json") else None, ""
    try:
        old = read_config(folder.read("config.yml").decode())
    except ConfigError as error:
        problem = f"holds a run whose config.yml this version can't read ({error})"
    else:
        trained_on = TrainedOn.read(folder, config.data.root)
        lists = folder.read_json("run.json").get("lists") if folder.has("run.json") else None
        movable = ("data.root:", "data.train_lists:") if trained_on is not None else ()
        changes = changes_of(old, config, *movable)
        is_longer = len(changes) == 1 and config.train.epochs > old.train.epochs
        if changes and not (is_longer and extends):
            problem = f"holds a run with other settings ({'; '.join(changes)})"
        elif trained_on is not None and not trained_on.is_of(manifest):
            counts = f"{len(trained_on.paths):,} utterances then, {len(manifest):,} now"
            problem = f"holds a run whose train lists had other utterances, order or speakers: {counts}"
        elif lists not in (None, digest_of_lists(config)):
            problem = "holds a run with other validation or train lists"
        elif summary and is_longer and summary.get("stop_reason"):
            problem = f"holds a run that ended early, so --extend can't go on: {summary['stop_reason']}"
        elif summary is not None and not is_longer:
            problem = "holds a finished run of the same settings"
    if problem:
        raise ValueError(
            f"{folder.location} {problem}; use another run.name (encoder.init={folder.location} starts it "
            "from this encoder), --extend to continue this run if only train.epochs is larger, or "
            "--fresh to start anew (the old run is kept under another name)"
        )


def has_begun(folder: "RunFolder") -> bool:
    """Return whether the folder holds a run with a checkpoint or a summary."""
    return folder.has("config.yml") and (folder.has("summary.json") or bool(folder.names("checkpoints")))


def prepare_folder(
    folder: "RunFolder", config: Config, manifest: "Manifest", is_fresh: bool, command: str = ""
) -> None:
    """Create the run's folder, or print at which step the unfinished or extended run in it resumes.

    With `is_fresh`, an existing folder is renamed. A folder with checkpoints but no config.yml is always
    renamed, because the new run would otherwise resume from these checkpoints.
    """
    from sslsv.evaluation.overlap import TrainedOn
    from sslsv.evaluation.trials import digest_of_lists
    from sslsv.runs.checkpoint import list_checkpoints, newest_undamaged_checkpoint
    from sslsv.runs.environment import describe_environment

    settings = to_yaml(config).encode()
    if has_begun(folder) and not is_fresh:
        newest = newest_undamaged_checkpoint(folder)
        steps = [step for step, name in list_checkpoints(folder) if name == newest]
        where = f"step {steps[0]}" if steps else "the beginning (it has no sound checkpoint)"
        old = read_config(folder.read("config.yml").decode())
        kind = "finished" if folder.has("summary.json") else "unfinished"
        print(f"going on with the {kind} run in {folder.location} from {where}", file=sys.stderr)
        if old.data.root != config.data.root:
            print(f"its data has moved from {old.data.root} to {config.data.root}", file=sys.stderr)
        if old.train.epochs != config.train.epochs:
            longer = f"train.epochs is now {config.train.epochs} instead of {old.train.epochs}"
            print(f"{longer}: the learning rate follows the longer schedule and may jump up", file=sys.stderr)
        if folder.has("summary.json"):
            folder.delete("summary.json")  # before config.yml changes, so that this command can be repeated
        warnings = folder.read_json("run.json").get("warnings", []) if folder.has("run.json") else []
    else:
        if folder.has("summary.json") or folder.names("checkpoints") or (is_fresh and folder.kind()):
            print(f"the old folder is now named {folder.set_aside()}", file=sys.stderr)
        is_same = folder.has("config.yml") and folder.read("config.yml") == settings  # stopped before a save
        TrainedOn.of(config.data.root, manifest).write(folder)
        warnings = find_leaks(config, folder)
        # run.json is written before config.yml, because config.yml marks the folder as a run.
        wandb_id = folder.read_json("run.json")["wandb_id"] if is_same else uuid.uuid4().hex[:12]
        identity = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "wandb_id": wandb_id}
        about = {"command": command, "warnings": warnings, "lists": digest_of_lists(config)}
        folder.write_json("run.json", identity | describe_environment() | about)
    for sentence in warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    folder.write("config.yml", settings)


def find_leaks(config: Config, folder: "RunFolder") -> list[str]:
    """Return a warning for each kind of validation or test data that the run in a folder trains on."""
    from sslsv.evaluation import overlap
    from sslsv.evaluation.trials import listed_trials, open_training_side

    root, sentences = config.data.root, list[str]()
    names = dict.fromkeys(filter(None, [config.evaluation.validation, *config.evaluation.test]))
    trial_sets = [listed_trials(root, name) for name in names]
    if config.encoder.init and not config.evaluation.validation:  # its run may have held out other speakers
        trial_sets += filter(None, [open_training_side(config)[1]])
    sources, _ = overlap.trained_on(config, folder) if trial_sets else ([], [])
    for trial_set in trial_sets:
        shared = overlap.find_overlap(trial_set.trials, root, sources)
        sentences += overlap.describe(trial_set.name, shared)[0]
    return sentences


if __name__ == "__main__":
    sys.exit(main())
