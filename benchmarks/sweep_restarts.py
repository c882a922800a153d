"""Compare a killed and resumed sweep with an undisturbed one.  python -m benchmarks.sweep_restarts SPACE

Runs the sweep undisturbed, then again while it and all its processes are killed (SIGKILL) at random moments
and resumed. Prints the seed of the moments, each moment, and the result of every trial in both sweeps: the
epoch at which it was stopped, and its metric there. Exit code 1 if the results differ.

An asynchronous scheduler depends on the order in which trials arrive, so use `--concurrent 1` with it.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.command import parser_of


class Sweep:
    """Run `python -m sslsv.tune` as a subprocess; a mark in the environment identifies all its processes."""

    def __init__(self, storage: Path, name: str, arguments: list[str]) -> None:
        self.folder = storage / name
        self.mark = f"SSLSV_SWEEP_MARK={uuid.uuid4().hex}"
        key, value = self.mark.split("=")
        self.log = (storage / f"{name}.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sslsv.tune", *arguments, "--storage", str(storage), "--name", name],
            env={**os.environ, key: value, "RAY_ADDRESS": "local"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> float:
        """Wait until the sweep ends; return the seconds until its first decision was written.

        Raises SystemExit if the sweep fails. An interruption kills all processes of the sweep.
        """
        start, beginning = time.monotonic(), 0.0
        try:
            while (code := self.process.poll()) is None:
                if not (self.folder / "decisions.jsonl").is_file():
                    beginning = time.monotonic() - start
                time.sleep(0.05)
        except BaseException:
            self.kill()
            raise
        if code != 0:
            raise SystemExit(f"the sweep ended with exit code {code}; see {self.log.name}")
        return beginning

    def kill(self) -> None:
        """Send SIGKILL to the driver and every process of its Ray."""
        for pid in [self.process.pid, *self._pids()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _pids(self) -> list[int]:
        pids = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                if self.mark.encode() in environment.split(b"\0"):
                    pids.append(int(pid))
        return pids

    def outcomes(self) -> dict[int, tuple[int, str, Any]]:
        """Return for each trial the epoch at which it ended, its state and its metric there."""
        ends: dict[int, tuple[int, str, Any]] = {}
        for line in read_lines(self.folder / "outcomes.jsonl"):
            if line["index"] not in ends or line["epoch"] > ends[line["index"]][0]:
                ends[line["index"]] = (line["epoch"], line["state"], line["value"])
        return ends


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def run_killed(storage: Path, arguments: list[str], moments: list[float]) -> Sweep:
    """Kill the sweep `moments` seconds after its (re)starts; SystemExit if it ends before a kill."""
    for number, moment in enumerate(moments):
        sweep = Sweep(storage, "killed", [*arguments, *(["--resume"] if number else [])])
        deadline = time.monotonic() + moment
        while time.monotonic() < deadline and sweep.process.poll() is None:
            time.sleep(0.05)
        code = sweep.process.poll()
        if code is not None:
            raise SystemExit(
                f"the sweep ended (code {code}) before kill {number + 1}; choose another --seed, or see "
                f"{sweep.log.name}"
            )
        sweep.kill()
        legs = len(read_lines(sweep.folder / "outcomes.jsonl"))
        print(f"kill {number + 1}: {moment:.1f} s after its start, {legs} legs done", flush=True)
    sweep = Sweep(storage, "killed", [*arguments, "--resume"])
    sweep.wait()
    return sweep


def draw_moments(seed: int, kills: int, beginning: float, seconds: float) -> list[float]:
    """Draw `kills` moments, in seconds after each (re)start, so that they fall within the legs.

    After each start, `beginning` seconds pass before the first leg. The times after it add up to less than
    those of an undisturbed sweep of `seconds`, so the sweep does not end before the last kill.
    """
    rng = random.Random(seed)
    return [beginning + rng.uniform(0.1, 0.9) * (seconds - beginning) / kills for _ in range(kills)]


def main() -> int:
    parser = parser_of("sweep_restarts", __doc__)
    parser.add_argument("space")
    parser.add_argument("overrides", nargs="*", help="settings of all trials")
    parser.add_argument("--kills", type=int, default=3, help="number of kills (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: a random one")
    parser.add_argument("--trials", type=int, help="number of trials")
    parser.add_argument("--concurrent", type=int, help="trials at once")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(2**32)
    arguments = [args.space, *args.overrides]
    for name in ("trials", "concurrent"):
        if getattr(args, name) is not None:
            arguments += [f"--{name}", str(getattr(args, name))]
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        start = time.monotonic()
        plain = Sweep(storage, "whole", arguments)
        beginning = plain.wait()
        seconds = time.monotonic() - start
        print(f"undisturbed: {seconds:.0f} s, {len(plain.outcomes())} trials; seed of the moments: {seed}")
        killed = run_killed(storage, arguments, draw_moments(seed, args.kills, beginning, seconds))
        expected, resumed = plain.outcomes(), killed.outcomes()
        print("trial  undisturbed                    killed and resumed")
        for index in sorted(expected.keys() | resumed.keys()):
            texts = [_shown(ends.get(index)) for ends in (expected, resumed)]
            print(f"{index:5d}  {texts[0]:<30} {texts[1]:<30} {'' if texts[0] == texts[1] else 'DIFFERENT'}")
    num_equal = sum(expected[index] == resumed.get(index) for index in expected)
    print(f"{num_equal} of {len(expected)} trials ended at the same epoch with the same value")
    return 0 if expected == resumed else 1


def _shown(end: tuple[int, str, Any] | None) -> str:
    return "never started" if end is None else f"epoch {end[0]}, {end[1]}, {end[2]}"


if __name__ == "__main__":
    sys.exit(main())
