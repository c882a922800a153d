"""Where a training step's time goes: `python -m sslsv.profile CONFIG [key=value ...]`.

Runs some real steps of a config, as `sslsv.train` would, in a folder that is deleted afterwards; prints the
parts of a step, what limits it, and which setting to change.

Exit codes: 0 profiled, 1 training failed, 2 the request can't be met, 130 interrupted.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sslsv.config import Config, load_config
from sslsv.runs.folder import RunFolder

ENDLESS = 1_000_000  # epochs: the stream must not end before the profile does


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.profile", description="Say where the time of a training step goes."
    )
    parser.add_argument("config", type=Path, help="a yaml file, such as configs/simclr.yml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--steps", type=int, default=20, help="steps that count (%(default)s)")
    given = parser.parse_intermixed_args(arguments)
    try:
        if given.steps < 1:
            raise ValueError(f"--steps is {given.steps}; give at least 1")
        config = load_config(given.config, given.overrides)
        profile = run(config, given.steps)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if "error" in profile:
        print(f"error: {profile['error']}", file=sys.stderr)
        return 1
    print("\n".join(lines(profile, config)))
    return 0


def run(config: Config, steps: int) -> dict[str, Any]:
    """The profile of some steps (see `step_profile.profile_steps`), or `{"error": sentence}`.

    Raises ValueError or OSError, with a sentence, for what can't be profiled.
    """
    if config.train.compile:
        raise ValueError(
            "train.compile is true: torch.compile merges the parts of a step, so they can't be told apart; "
            "profile with train.compile=false"
        )
    # Ray takes seconds to import: mistakes above are reported at once.
    from sslsv.cluster.connect import connection
    from sslsv.cluster.fit import fit
    from sslsv.evaluation.verification import open_trial_sets
    from sslsv.training.step_profile import profile_worker

    open_trial_sets(config)  # mistakes in the lists, before Ray starts
    with tempfile.TemporaryDirectory() as storage:
        config = replace(
            config,
            train=replace(config.train, epochs=ENDLESS),
            run=replace(
                config.run,
                storage=storage,
                name="profile",
                tensorboard=False,
                wandb="disabled",
                progress=False,
                max_failures=0,
            ),
        )
        folder = RunFolder(storage, "profile")
        with connection(config.resources) as share:
            result = fit(config, folder, share, worker=profile_worker, steps=steps)
            return result | {"data_tasks": share.data_tasks}


def lines(profile: dict[str, Any], config: Config) -> list[str]:
    """The report, as text."""
    from sslsv.training.profile_advice import advice

    seconds, data = profile["seconds"], profile["data_seconds"]
    whole, making = sum(seconds.values()), sum(data.values())
    batch_size, workers = config.train.batch_size, profile["workers"]
    device = "GPU" if profile["has_gpu"] else f"{profile['threads']} threads"
    found = [
        f"a step takes {1000 * whole:.1f} ms: {batch_size / whole:.1f} samples/s "
        f"({batch_size} samples, {workers} worker(s) on {device}, {config.train.precision})"
    ]
    found += [_line(name, value, whole) for name, value in seconds.items()]
    # Each worker's batch comes from one data process; so many of them share the work.
    found.append(
        f"a data process takes {1000 * making:.1f} ms for a worker's batch; {profile['data_tasks']} of them "
        "may run at once"
    )
    found += [_line(name, value, making) for name, value in data.items()]
    bottleneck, sentence = advice(profile, config)
    return [*found, f"bottleneck: {bottleneck}", sentence]


def _line(name: str, seconds: float, whole: float) -> str:
    return f"  {name:<18} {1000 * seconds:9.1f} ms {100 * seconds / max(whole, 1e-12):6.1f} %"


if __name__ == "__main__":
    sys.exit(main())
