"""Train a model: `python -m sslsv.train CONFIG [key=value ...]`.

Reads the settings, checks that the machine or cluster can do what they ask, finds out what to do with a run
folder that is already there, starts Ray Train and shows how far it is.

Exit codes: 0 trained, 1 training failed, 2 the request can't be met, 130 interrupted.
"""

import argparse
import contextlib
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslsv import registry
from sslsv.config import Config, load_config, read_config, shows_shares, to_yaml
from sslsv.settings import ConfigError, differences

# Run folders, PyTorch and Ray take seconds to import: functions do it, once the settings are checked.
if TYPE_CHECKING:
    from sslsv.runs.folder import RunFolder

# Settings that may change between a run and its continuation: where it runs, not what it computes.
FREE_SECTIONS = ("run", "resources")


class RequestError(ValueError):
    """What was asked for can't be done; the message says what was given, what is wrong and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        config = load_config(options.config, options.overrides)
        summary = run(config, is_fresh=options.fresh)
    except ValueError as error:  # ours among them: their messages are for the user
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # storage that can't be written or is not there, a cluster that does not answer
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    if "error" in summary:
        print(f"error: {summary['error']}", file=sys.stderr)
        return 1
    print_summary(config, summary)
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the arguments of the command line: `config`, `overrides`, `fresh`."""
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.train",
        description="Train a self-supervised speaker verification model.",
        epilog=f"Models: {', '.join(registry.names('models'))}.",
    )
    parser.add_argument("config", type=Path, help="a yaml file, such as configs/simclr.yml")
    changes_help = "settings to change, such as train.epochs=20"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=changes_help)
    fresh_help = "start anew; a run folder that is there is renamed, not lost"
    parser.add_argument("--fresh", action="store_true", help=fresh_help)
    return parser.parse_intermixed_args(arguments)  # overrides may come before and after --fresh


def run(config: Config, *, is_fresh: bool = False) -> dict[str, Any]:
    """Train under Ray Train and return the summary (what `summary.json` holds), or `{"error": sentence}`.

    Raises RequestError, ValueError or OSError, with a sentence, before anything is started.
    """
    from sslsv.runs.folder import RunFolder, only_command_on

    check_data(config)
    folder = RunFolder(config.run.storage, str(config.run.name))
    with only_command_on(folder):
        if not is_fresh:
            check_folder(folder, config)
        return train(config, folder, is_fresh)


def train(config: Config, folder: "RunFolder", is_fresh: bool) -> dict[str, Any]:
    """Train in a folder that is this command's alone; see `run`."""
    # Ray takes seconds to import: mistakes so far are reported at once.
    from sslsv.cluster.connect import connection
    from sslsv.cluster.fit import fit
    from sslsv.reports.training import write_report

    with connection(config.resources, waits_for_growth=True) as share:
        prepare_folder(folder, config, is_fresh)
        try:
            return fit(config, folder, share, identity=folder.read_json("run.json"))
        finally:
            with contextlib.suppress(OSError):  # a full disk has its own sentence
                write_report(folder)


def check_data(config: Config) -> None:
    """Read every list once, here, so that mistakes in them are reported before Ray starts."""
    from sslsv.data.augmentations.base import Augmenter
    from sslsv.data.bank import Bank
    from sslsv.data.recordings import open_recordings
    from sslsv.data.stream import Plan
    from sslsv.evaluation.trials import open_trial_sets

    manifest, _, _ = open_trial_sets(config)
    data = config.data
    Augmenter(data.augment, Bank(open_recordings(data.root), data.bank_cache_mb))
    Plan.of(manifest.speakers, data, config.train.batch_size, config.seed)


def check_folder(folder: "RunFolder", config: Config) -> None:
    """Raise RequestError if the run's folder holds a finished run, or one of other settings."""
    if not folder.has("config.yml"):
        return
    way_out = "use another run.name, or --fresh to start anew (the old run is kept under another name)"
    try:
        earlier = read_config(folder.read("config.yml").decode())
    except ConfigError as error:
        raise RequestError(
            f"{folder.location} holds a run whose config.yml this version can't read ({error}); {way_out}."
        ) from error
    changed = [line for line in differences(earlier, config) if line.split(".")[0] not in FREE_SECTIONS]
    if changed:
        raise RequestError(
            f"{folder.location} holds a run with other settings; {way_out}. "
            "Different (there -> now):\n  " + "\n  ".join(changed)
        )
    before, now = earlier.resources.workers, config.resources.workers
    if shows_shares(config.train) and before != now:
        raise RequestError(
            f"{folder.location} holds a run of {before} resources.workers, now there are {now}, and with "
            "train.sync_batchnorm false batch statistics depend on their number: go on with "
            f"resources.workers={before}, or {way_out}."
        )
    if folder.has("summary.json"):
        raise RequestError(f"{folder.location} holds a finished run of the same settings; {way_out}.")


def prepare_folder(folder: "RunFolder", config: Config, is_fresh: bool) -> None:
    """Make the run's folder, or say that the unfinished run in it is continued; see `check_folder`.

    With `is_fresh`, whatever is there is renamed; so are weights without settings, of which nobody knows what
    they were trained with: the new run would go on from them.
    """
    from sslsv.runs.checkpoint import FOLDER, NAME, newest_sound_checkpoint
    from sslsv.runs.environment import describe_environment

    is_continued = folder.has("config.yml") and not is_fresh
    if is_continued:
        check_folder(folder, config)
        folder.delete_parts()
        folder.delete_parts(FOLDER)
        match = NAME.fullmatch(newest_sound_checkpoint(folder) or "")
        where = f"step {int(match.group(1))}" if match else "the beginning (it has no sound checkpoint)"
        print(f"going on with the unfinished run in {folder.location} from {where}", file=sys.stderr)
    elif holds_a_run(folder):
        print(f"the run that was there is now {folder.set_aside()}", file=sys.stderr)
    if not is_continued:  # before config.yml, which makes it a run: one without an identity can't go on
        identity = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "wandb_id": uuid.uuid4().hex[:12]}
        folder.write_json("run.json", identity | describe_environment())
    folder.write("config.yml", to_yaml(config).encode())


def holds_a_run(folder: "RunFolder") -> bool:
    """Return whether a folder has anything of a run that the workers of another would take for theirs."""
    from sslsv.runs.checkpoint import FOLDER

    return folder.has("config.yml") or folder.has("summary.json") or bool(folder.names(FOLDER))


def print_summary(config: Config, summary: dict[str, Any]) -> None:
    """Print the few lines that a user wants to see at the end."""
    from sslsv.runs.folder import RunFolder, below

    folder = RunFolder(config.run.storage, str(config.run.name))
    if summary.get("stop_reason"):
        print(summary["stop_reason"])
    if summary["best"]:
        best = summary["best"]
        name, unit = ("EER", " %") if best["criterion"] == "eer" else (best["criterion"], "")
        print(f"best validation {name} {best['value']:.2f}{unit} at step {best['step']}")
    for key, value in summary["last"].items():
        if key.startswith("test/"):
            print(f"{key} {value:.4f}")
    for found in summary["skipped"].values():
        for sentence in found.values():
            print(f"skipped: {sentence}")
    print(f"{summary['samples_per_second']:.1f} samples/s, {summary['seconds'] / 60:.1f} minutes")
    print(f"run folder: {folder.location}")
    print(f"report: {below(folder.location, 'report.html')}")


if __name__ == "__main__":
    sys.exit(main())
