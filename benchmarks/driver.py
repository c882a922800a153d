"""What the driver and the disk are asked for: a list of VoxCeleb2's size, and a checkpoint."""

import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.row import Row, Settings, in_turns, time_row
from sslsv.checkpoint import write_checkpoint
from sslsv.config import load_config
from sslsv.data.manifest import hold_out_speakers, read_train_lists
from sslsv.data.stream import Plan
from sslsv.run_folder import RunFolder
from sslsv.training_state import build_state, checkpoint_of

SPEAKERS = 5_994


def rows(settings: Settings) -> Iterator[Row]:
    """The list in a process of its own, whose peak of memory it is."""
    count = 20_000 if settings.is_quick else 1_092_009
    with tempfile.TemporaryDirectory() as folder:
        write_list(Path(folder), count)
        command = [sys.executable, "-m", "benchmarks.driver", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        name = f"{count:,} utterances"
        yield Row(f"{name}: memory of the driver", "", found["peak_mb"], 0, "MB", most=1000)
        yield Row(f"{name}: planning an epoch", "", found["plan_seconds"], 0, "s", most=2)
        yield Row(f"{name}: reading and checking the list", "", found["read_seconds"], 0, "s")
        yield _checkpoint(settings, Path(folder))


def write_list(root: Path, count: int) -> None:
    """Made-up paths, of which the first is there."""
    with (root / "list").open("w") as lines:
        for row in range(count):
            speaker, video = row % SPEAKERS, row // SPEAKERS // 7
            path = f"voxceleb2/id{speaker:05d}/video{video:06d}/{row // SPEAKERS % 7:05d}.wav"
            lines.write(f"id{speaker:05d} {path}\n")
    first = root / "voxceleb2/id00000/video000000/00000.wav"
    first.parent.mkdir(parents=True)
    first.touch()


def _checkpoint(settings: Settings, root: Path) -> Row:
    """A checkpoint, checked and synced, against `torch.save` to a file that is synced."""
    config = load_config("configs/simclr.yml")
    state = build_state(config, torch.device("cpu"))
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    folder = RunFolder(str(root), "run")

    def ours() -> None:
        state.step += 1
        write_checkpoint(folder, checkpoint_of(state, config))

    def naive() -> None:
        with (root / "naive.pt").open("wb") as file:
            torch.save({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())

    times = in_turns(ours, naive, settings.pairs)
    return time_row("checkpoint write", "torch.save, unchecked", times, target=None, unit="ms")


def _peak_mb() -> float:
    """Largest memory of this process so far; Linux gives a new process its parent's in `ru_maxrss`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes


def main() -> None:
    """Read a list as training does, plan an epoch, pickle what data processes get; print what it took."""
    config = load_config(Path("configs/simclr.yml"))
    started = time.perf_counter()
    manifest = read_train_lists(sys.argv[1], ["list"])
    read = time.perf_counter()
    kept, _ = hold_out_speakers(manifest, 40, 1)
    held_out = time.perf_counter()
    plan = Plan.from_config(kept.speakers, config)
    plan.rows(plan.steps_per_epoch - 1, plan.steps_per_epoch)
    planned = time.perf_counter()
    pickle.dumps(kept, protocol=5)
    peak = _peak_mb()
    print(json.dumps({"peak_mb": peak, "plan_seconds": planned - held_out, "read_seconds": read - started}))


if __name__ == "__main__":
    main()
