"""Say where a training step's time goes: `sslsv profile CONFIG [key=value ...]`.

Takes real steps in a folder that is deleted afterwards, prints the parts of a step and the costliest
operators, and writes a trace.  Exit codes: those of `sslsv train`.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslsv.config import Config, load_config
from sslsv.settings import named, typed

ENDLESS_EPOCHS = 1_000_000  # The stream must not end before the profile does.


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog=typed("profile"), description=(__doc__ or "").partition(":")[0])
    parser.add_argument("config", nargs="?", type=Path, help="a yaml file, such as configs/simclr.yml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--steps", type=int, default=5, help="steps that count (%(default)s)")
    parser.add_argument("--trace", type=Path, default=Path("profile.json.gz"), help="file (%(default)s)")
    given = parser.parse_intermixed_args(arguments)
    try:
        if given.steps < 1:
            raise ValueError(f"--steps is {given.steps}; give at least 1")
        if not given.trace.parent.is_dir():
            raise ValueError(f"--trace is {given.trace}, in a folder that does not exist")
        config = load_config(named(given.config, "config", "configs/demo.yml"), given.overrides)
        profile = run(config, given.steps)
        if "error" in profile:
            print(f"error: {profile['error']}", file=sys.stderr)
            return 1
        given.trace.write_bytes(profile["trace"])
    except (ValueError, OSError) as error:
        print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(f"{profile['report']}\ntrace: {given.trace}; open it at https://ui.perfetto.dev")
    return 0


def run(config: Config, steps: int) -> dict[str, Any]:
    """Return what `training.profile.profile_steps` does, or `{"error": sentence}`."""
    # Ray and torch take seconds to import.
    from sslsv.cluster.connect import connection
    from sslsv.cluster.fit import fit
    from sslsv.evaluation.trials import open_trial_sets
    from sslsv.runs.display import live_line
    from sslsv.runs.folder import RunFolder
    from sslsv.training.profile import profile_steps

    open_trial_sets(config)  # Mistakes in the lists are told before Ray starts.
    with (
        live_line("starting Ray") as line,
        tempfile.TemporaryDirectory() as storage,
        connection(config.resources) as resources,
    ):
        settings = replace(config.run, storage=storage, name="profile", max_failures=0)
        settings = replace(settings, tensorboard=False, wandb="disabled", progress=False)
        train = replace(config.train, epochs=ENDLESS_EPOCHS)
        config = replace(config, run=settings, train=train, resources=resources)
        return fit(config, RunFolder(storage, "profile"), line, profile_steps, steps=steps)


if __name__ == "__main__":
    sys.exit(main())
