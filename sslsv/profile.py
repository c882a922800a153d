"""Say where a training step's time goes: `python -m sslsv.profile CONFIG [key=value ...]`.

Takes real steps in a folder that is deleted afterwards, prints the parts of a step and the costliest
operators, and writes a trace.  Exit codes: those of `sslsv.train`.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslsv.config import load_config
from sslsv.evaluation.arguments import run_command

ENDLESS_EPOCHS = 1_000_000  # The stream must not end before the profile does.


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.profile", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("config", type=Path, help="a yaml file, such as configs/simclr.yml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--steps", type=int, default=5, help="steps that count (%(default)s)")
    parser.add_argument("--trace", type=Path, default=Path("profile.json.gz"), help="file (%(default)s)")
    return run_command(run, parser.parse_intermixed_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Profile as asked; raises ValueError or OSError, with a sentence, before anything is started."""
    if options.steps < 1:
        raise ValueError(f"--steps is {options.steps}; give at least 1")
    if not options.trace.parent.is_dir():
        raise ValueError(f"--trace is {options.trace}, in a folder that does not exist")
    config = load_config(options.config, options.overrides)
    # Ray and torch take seconds to import.
    from sslsv.cluster.connect import connection
    from sslsv.cluster.fit import fit
    from sslsv.evaluation.trials import open_trial_sets
    from sslsv.runs.folder import RunFolder

    open_trial_sets(config)  # Mistakes in the lists are told before Ray starts.
    with tempfile.TemporaryDirectory() as storage, connection(config.resources) as share:
        settings = replace(config.run, storage=storage, name="profile", max_failures=0)
        settings = replace(settings, tensorboard=False, wandb="disabled", progress=False)
        config = replace(config, run=settings, train=replace(config.train, epochs=ENDLESS_EPOCHS))
        folder = RunFolder(storage, "profile")
        profile = fit(config, folder, share, worker=profile_worker, steps=options.steps)
    if "error" in profile:
        print(f"error: {profile['error']}", file=sys.stderr)
        return 1
    options.trace.write_bytes(profile["trace"])
    print(f"{profile['report']}\ntrace: {options.trace}; open it at https://ui.perfetto.dev")
    return 0


def profile_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Profile the training of a job, as the entry of a Ray Train worker."""
    from sslsv.cluster.worker import open_training
    from sslsv.training.profile import profile_steps
    from sslsv.training.validation import TrainingError

    training = open_training(job)
    try:
        return profile_steps(training, job["steps"])
    except TrainingError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    sys.exit(main())
