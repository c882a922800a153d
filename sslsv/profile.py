"""Measure where the time of a training step goes: `sslsv profile CONFIG [key=value ...]`.

Takes real training steps in a temporary folder in run.storage, which is kept only if they fail. Prints the
time of each part of a step and of the most expensive operators, and writes a trace of PyTorch's profiler.
"""

import argparse
import contextlib
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslsv.config import Config, load_config
from sslsv.evaluation.arguments import run_command
from sslsv.settings import Failed, apply_overrides, command_name, require_file

if TYPE_CHECKING:
    from sslsv.training.loop import Training

ENDLESS_EPOCHS = 1_000_000  # so many that the data stream outlasts the profile
WARM_UP_STEPS = 5  # not counted, because files and caches are still cold
# `training.step` records all of these parts except the first.
PARTS = ["waiting for data", "move batch", "forward", "backward", "optimizer"]
MAX_OPERATORS = 20  # rows of the table


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog=command_name("profile"), description="Time the parts of a step.")
    parser.add_argument("config", nargs="?", type=Path, help="a yaml file, such as configs/simclr.yml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--steps", type=int, default=5, help="steps to measure (%(default)s)")
    parser.add_argument("--trace", type=Path, default=Path("profile.json.gz"), help="output (%(default)s)")
    return run_command(profile, parser.parse_intermixed_args(arguments))


def profile(options: argparse.Namespace) -> int:
    """Profile the run, print the report and write the trace; raises ValueError or OSError."""
    if options.steps < 1:
        raise ValueError(f"--steps is {options.steps}; give at least 1")
    if options.trace.is_dir() or not options.trace.parent.is_dir():
        raise ValueError(f"--trace is {options.trace}, which is a folder, or in one that does not exist")
    config = load_config(require_file(options.config, "config", "configs/demo.yml"), options.overrides)
    result = run(config, options.steps)
    if "error" in result:
        raise Failed(result["error"])
    print(result["report"])
    options.trace.write_bytes(result["trace"])
    print(f"trace: {options.trace}; open it at https://ui.perfetto.dev")
    return 0


def run(config: Config, steps: int) -> dict[str, Any]:
    """Return the result of `profile_steps`, or `{"error": message}`."""
    # Ray and torch take seconds to import.
    from sslsv.cluster.connect import connection
    from sslsv.cluster.fit import fit
    from sslsv.evaluation.trials import open_trial_sets
    from sslsv.runs.display import LiveLine
    from sslsv.runs.folder import RunFolder

    open_trial_sets(config)  # This reports mistakes in the lists before Ray starts.
    name = f"profile-{uuid.uuid4().hex[:8]}"
    quiet = {"name": name, "max_failures": 0, "tensorboard": False, "wandb": "disabled", "progress": False}
    config = apply_overrides(config, {"run": quiet, "train.epochs": ENDLESS_EPOCHS})
    folder, result = RunFolder(config.run.storage, name), dict[str, Any]()
    with LiveLine("starting Ray") as line, connection(config.resources) as resources:
        config = apply_overrides(config, {"resources.gpu": resources.gpu})  # refuses fp16 without a GPU
        try:
            result = fit(config, folder, line, profile_steps, steps=steps)
        finally:
            if "error" not in result:
                with contextlib.suppress(OSError):  # workers may still be writing after Ctrl-C
                    folder.delete_folder("")
    return result


def profile_steps(training: "Training", steps: int) -> dict[str, Any]:
    """Profile `steps` steps after `WARM_UP_STEPS` others; every worker must call this function.

    Returns `report` (the times of the parts of a step, and PyTorch's table of the most expensive operators)
    and `trace` (the gzipped content of a file in Chrome's trace format).
    """
    import torch
    from torch.profiler import profile, record_function, schedule

    has_gpu = training.device.type == "cuda"
    cycle = schedule(wait=WARM_UP_STEPS - 2, warmup=2, active=steps, repeat=1)
    starts, end = [], 0.0
    with (
        contextlib.closing(training.batches()) as batches,
        # Kernels that another thread starts in the backward pass would not be assigned to a part.
        torch.autograd.set_multithreading_enabled(False),
        profile(schedule=cycle) as profiler,
    ):
        for _ in range(WARM_UP_STEPS + steps):
            starts.append(time.perf_counter())
            with record_function(PARTS[0]):
                batch = training.next_batch(batches)
            training.meter.add(training.take_step(batch))
            if has_gpu:
                torch.cuda.synchronize()
            end = time.perf_counter()  # Before the last `profiler.step`, which reads the entire trace.
            profiler.step()
    seconds, averages = (end - starts[WARM_UP_STEPS]) / steps, profiler.key_averages()
    rate = training.config.train.batch_size / seconds
    lines = [f"a step takes {1000 * seconds:.1f} ms: {rate:.1f} samples/s on {training.device.type.upper()}"]
    on_cpu = [row for row in averages if row.device_type == torch.autograd.DeviceType.CPU]  # type: ignore[attr-defined]
    times = {row.key: row.cpu_time_total / 1e6 / steps for row in on_cpu}
    lines += [f"{n:<32}{1000 * times[n]:10.1f} ms{times[n] / seconds:10.1%}" for n in PARTS if n in times]
    sort_key = f"self_{'device' if has_gpu else 'cpu'}_time_total"
    lines.append(averages.table(sort_key, row_limit=MAX_OPERATORS, max_name_column_width=48))
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json.gz")
        profiler.export_chrome_trace(str(trace))
        return {"report": "\n".join(lines), "trace": trace.read_bytes()}


if __name__ == "__main__":
    sys.exit(main())
