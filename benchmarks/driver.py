"""Measure time and memory of the driver for a list of VoxCeleb2's size, and writing a checkpoint."""

import json
import os
import pickle
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.command import in_own_process, memory_bytes
from benchmarks.row import Row, Settings, in_turns, time_row
from sslsv.config import Config, load_config
from sslsv.data.lists import Manifest, hold_out_speakers, make_trials, read_train_lists
from sslsv.data.stream import Plan, rows_of_rank
from sslsv.data.views import ViewMaker
from sslsv.models.base import CorpusSize
from sslsv.runs.checkpoint import write_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.training.state import TrainingState, build_state, checkpoint_of

SPEAKERS = 5_994


def rows(settings: Settings) -> Iterator[Row]:
    """Read the list in its own process, so that its peak memory is that of the list."""
    count = 20_000 if settings.is_quick else 1_092_009
    with tempfile.TemporaryDirectory() as folder:
        write_list(Path(folder), count)
        costs = in_own_process("driver", folder)
        name = f"{count:,} utterances"
        yield Row(f"{name}: memory of the driver", "", costs["peak_mb"], 0, "MB", most=1000)
        yield Row(f"{name}: planning an epoch", "", costs["plan_seconds"], 0, "s", most=2)
        yield Row(f"{name}: reading and checking the list", "", costs["read_seconds"], 0, "s")
        costs = in_own_process("known_check", folder)
        yield Row(f"{name}: memory of `check`, all measured before", "", costs["peak_mb"], 0, "MB", most=1000)
        yield Row(f"{name}: `check`, all measured before", "", costs["seconds"], 0, "s")
        yield _checkpoint(settings, Path(folder))


def write_list(root: Path, count: int) -> None:
    """Write a list of synthetic paths; only the first file exists."""
    with (root / "list").open("w") as lines:
        for row in range(count):
            speaker, video = row % SPEAKERS, row // SPEAKERS // 7
            path = f"voxceleb2/id{speaker:05d}/video{video:06d}/{row // SPEAKERS % 7:05d}.wav"
            lines.write(f"id{speaker:05d} {path}\n")
    first = root / "voxceleb2/id00000/video000000/00000.wav"
    first.parent.mkdir(parents=True)
    first.touch()


def state_after_a_step(config: Config) -> TrainingState:
    """Return a state with the optimizer's moments, so that its checkpoint has the final size."""
    state = build_state(config, CorpusSize(), torch.device("cpu"))
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    return state


def _checkpoint(settings: Settings, root: Path) -> Row:
    """Compare writing a checkpoint (checksum, sync) with `torch.save` and a sync."""
    config = load_config("configs/simclr.yml")
    state = state_after_a_step(config)
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


def span_of_a_worker(kept: Manifest, held_out: Manifest, batch_size: int, workers: int) -> dict[str, float]:
    """Measure the table that one of `workers` workers passes to Ray Data, and what else each worker holds."""
    from sslsv.training.loop import steps_at_once

    config = load_config("configs/simclr.yml", [f"train.batch_size={batch_size}", "data.augment=[]"])
    plan = Plan(len(kept), config.train.batch_size, config.seed)
    epochs = steps_at_once(batch_size, plan.steps_per_epoch) // plan.steps_per_epoch
    tracemalloc.start()  # traces NumPy's arrays too
    started = time.perf_counter()
    rows_of_rank(plan.rows(0, epochs * plan.steps_per_epoch), batch_size, 0, workers)
    seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    maker = ViewMaker(kept, (("views", 2, 2.0, False),), config.data, config.seed)
    return {
        "utterances": len(kept),
        "span_epochs": epochs,
        "span_seconds": seconds,
        "span_peak_bytes": peak,
        "maker_bytes": len(pickle.dumps(maker, protocol=5)),
        "validation_recordings": len(make_trials(held_out, config.seed).paths),
    }


def main() -> None:
    """Read a list as training does, plan an epoch, pickle the list; print time and memory as JSON.

    With a global batch size and a number of workers, also measure one worker (`span_of_a_worker`).
    """
    config = load_config(Path("configs/simclr.yml"))
    started = time.perf_counter()
    manifest = read_train_lists(sys.argv[1], ["list"])
    read_end = time.perf_counter()
    kept, held_out = hold_out_speakers(manifest, 40, 1)
    split_end = time.perf_counter()
    plan = Plan(len(kept), config.train.batch_size, config.seed)
    plan.rows(plan.steps_per_epoch - 1, plan.steps_per_epoch)
    plan_end = time.perf_counter()
    pickle.dumps(kept, protocol=5)
    costs = {"peak_mb": memory_bytes() / 2**20}
    costs |= {"plan_seconds": plan_end - split_end, "read_seconds": read_end - started}
    if len(sys.argv) > 2:
        costs |= span_of_a_worker(kept, held_out, int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(costs))


if __name__ == "__main__":
    main()
