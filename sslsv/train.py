"""Train a model: `python -m sslsv.train CONFIG [key=value ...]`.

Reads the settings, checks the lists and what an earlier command left in the run folder, trains under Ray and
shows how far it is.

Exit codes: 0 trained, 1 training failed, 2 the request can't be met, 130 interrupted.
"""

import argparse
import contextlib
import os
import sys
import threading
import time
import uuid
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslsv import registry
from sslsv.config import Config, load_config, read_config, shows_shares, to_yaml
from sslsv.settings import ConfigError, differences

# Run folders, PyTorch and Ray take seconds to import: functions do it, once settings and lists are checked.
if TYPE_CHECKING:
    from sslsv.runs.folder import RunFolder


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = parse_arguments(arguments)
    try:
        config = load_config(options.config, options.overrides)
        summary = run(config, is_fresh=options.fresh)
    except (ValueError, OSError) as error:  # among them storage that is not there, a cluster without answer
        print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
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
    models = f"Models: {', '.join(registry.names('models'))}."
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.train", description="Train a model.", epilog=models
    )
    add = parser.add_argument
    add("config", type=Path, help="a yaml file, such as configs/simclr.yml")
    add("overrides", nargs="*", metavar="key=value", help="settings to change, such as train.epochs=20")
    add("--fresh", action="store_true", help="start anew; a run folder that is there is renamed, not lost")
    return parser.parse_intermixed_args(arguments)  # overrides may come before and after --fresh


def run(config: Config, *, is_fresh: bool = False) -> dict[str, Any]:
    """Train under Ray Train and return the summary (what `summary.json` holds), or `{"error": sentence}`.

    Raises ValueError or OSError, with a sentence, before anything is started.
    """
    from sslsv.runs.folder import RunFolder, only_command_on

    check_data(config)
    folder = RunFolder(config.run.storage, str(config.run.name))
    with only_command_on(folder):
        if not is_fresh:
            check_folder(folder, config)
        from sslsv.cluster.connect import check_address, connection

        check_address(os.environ.get("RAY_ADDRESS", ""))
        # Ray's start is mostly a wait for its processes: meanwhile this one reads what comes after it.
        threading.Thread(target=import_module, args=("sslsv.cluster.fit",)).start()
        with connection(config.resources) as resources:
            from sslsv.cluster.fit import fit

            prepare_folder(folder, config, is_fresh)
            try:
                return fit(replace(config, resources=resources), folder)
            finally:
                from sslsv.reports.training import write_report

                with contextlib.suppress(OSError):  # a full disk has its own sentence
                    write_report(folder)


def check_data(config: Config) -> None:
    """Read every list, and the weights to start from, so that mistakes are reported before Ray starts."""
    from sslsv.data.augmentations.base import Augmenter
    from sslsv.data.bank import Bank
    from sslsv.data.recordings import open_recordings
    from sslsv.data.stream import Plan
    from sslsv.evaluation.trials import open_trial_sets

    manifest, _, _ = open_trial_sets(config)
    if any(getattr(config.encoder, key, None) for key in ("init", "weights", "trunk_frozen", "front_frozen")):
        from sslsv.training.initial import load_source  # with PyTorch

        load_source(config)
    data = config.data
    Augmenter(data.augment, Bank(open_recordings(data.root), data.bank_cache_mb))
    Plan(manifest.speakers, config.train.batch_size, config.seed, data.positives)


def check_folder(folder: "RunFolder", config: Config) -> None:
    """Raise ValueError if the run's folder holds a finished run, or one of other settings."""
    if not folder.has("config.yml"):
        return
    problem = "holds a finished run of the same settings" if folder.has("summary.json") else ""
    try:
        changed = differences(read_config(folder.read("config.yml").decode()), config)
    except ConfigError as error:
        problem = f"holds a run whose config.yml this version can't read ({error})"
    else:
        # Where a run computes is free, but for the number of workers without train.sync_batchnorm.
        changed = [
            line
            for line in changed
            if not line.startswith(("run.", "resources."))
            or (shows_shares(config.train) and line.startswith("resources.workers:"))
        ]
        if changed:
            problem = f"holds a run with other settings ({'; '.join(changed)})"
    if problem:
        raise ValueError(
            f"{folder.location} {problem}; use another run.name, or --fresh to start anew (the old run is "
            "kept under another name)"
        )


def prepare_folder(folder: "RunFolder", config: Config, is_fresh: bool) -> None:
    """Make the run's folder, or say from where the unfinished run in it goes on.

    With `is_fresh`, whatever is there is renamed.  So are checkpoints without a config.yml, from which the
    new run would go on otherwise.
    """
    from sslsv.runs.checkpoint import FOLDER, list_checkpoints, newest_sound_checkpoint
    from sslsv.runs.environment import describe_environment

    if folder.has("config.yml") and not is_fresh:
        newest = newest_sound_checkpoint(folder)
        steps = [step for step, name in list_checkpoints(folder) if name == newest]
        where = f"step {steps[0]}" if steps else "the beginning (it has no sound checkpoint)"
        print(f"going on with the unfinished run in {folder.location} from {where}", file=sys.stderr)
    else:
        if folder.has("config.yml") or folder.has("summary.json") or folder.names(FOLDER):
            print(f"the run that was there is now {folder.set_aside()}", file=sys.stderr)
        # The identity comes before config.yml, which makes the folder a run.
        identity = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "wandb_id": uuid.uuid4().hex[:12]}
        folder.write_json("run.json", identity | describe_environment())
    folder.write("config.yml", to_yaml(config).encode())


def print_summary(config: Config, summary: dict[str, Any]) -> None:
    """Print the few lines that a user wants to see at the end."""
    from sslsv.runs.folder import RunFolder, below

    location = RunFolder(config.run.storage, str(config.run.name)).location
    if summary["stop_reason"]:
        print(summary["stop_reason"])
    if best := summary["best"]:
        name, unit = ("EER", " %") if best["criterion"] == "eer" else (best["criterion"], "")
        print(f"best validation {name} {best['value']:.2f}{unit} at step {best['step']}")
    for key, value in summary["last"].items():
        if key.startswith("test/"):
            print(f"{key} {value:.4f}")
    for sentence in [each for found in summary["skipped"].values() for each in found.values()]:
        print(f"skipped: {sentence}")
    print(f"{summary['samples_per_second']:.1f} samples/s, {summary['seconds'] / 60:.1f} minutes")
    print(f"run folder: {location}\nreport: {below(location, 'report.html')}")


if __name__ == "__main__":
    sys.exit(main())
