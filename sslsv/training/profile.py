"""Profile real training steps of one worker with PyTorch's profiler."""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from sslsv.ops import distributed
from sslsv.training.loop import Training

WARM_UP_STEPS = 5  # not counted, because files and caches are still cold
WAITING = "waiting for data"
# `training.step` marks the other parts.
PARTS = (WAITING, "move batch", "forward", "backward", "forward and backward in chunks", "optimizer")
MAX_OPERATORS = 20  # rows of the table


def profile_steps(training: Training, steps: int) -> dict[str, Any]:
    """Profile `steps` steps after some to warm up; every worker must call it.

    Returns `report`, the parts of a step and the costliest operators as text, and `trace`, a gzipped file in
    Chrome's format.
    """
    has_gpu = training.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * has_gpu]
    cycle = schedule(wait=WARM_UP_STEPS - 2, warmup=2, active=steps, repeat=1)
    starts, end = [], 0.0
    with (
        contextlib.closing(training.batches()) as batches,
        # Kernels that another thread starts in the backward pass would belong to no part.
        torch.autograd.set_multithreading_enabled(False),
        profile(activities=activities, schedule=cycle) as profiler,
    ):
        for _ in range(WARM_UP_STEPS + steps):
            starts.append(time.perf_counter())
            with record_function(WAITING):
                batch = training.next_batch(batches)
            training.meter.add(training.take_step(batch))
            if has_gpu:
                torch.cuda.synchronize()
            end = time.perf_counter()  # Taken here, because the last `profiler.step` reads the whole trace.
            profiler.step()
    seconds = (end - starts[WARM_UP_STEPS]) / steps
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json.gz")
        profiler.export_chrome_trace(str(path))
        return {"report": _report(profiler, training, seconds, steps), "trace": path.read_bytes()}


def _report(profiler: profile, training: Training, seconds: float, steps: int) -> str:
    averages, has_gpu = profiler.key_averages(), training.device.type == "cuda"
    device = "GPU" if has_gpu else f"{torch.get_num_threads()} threads"
    size, precision = training.config.train.batch_size, training.config.train.precision
    lines = [
        f"a step takes {1000 * seconds:.1f} ms: {size / seconds:.1f} samples/s ({size} samples, "
        f"{distributed.world_size()} worker(s) on {device}, {precision})",
        f"{'part of a step':<32}{'ms':>10}{'share':>10}" + f"{'GPU ms':>10}" * has_gpu,
    ]
    rows = {row.key: row for row in averages if row.device_type == torch.autograd.DeviceType.CPU}  # type: ignore[attr-defined]
    for row in [rows[name] for name in PARTS if name in rows]:
        cpu_ms, gpu_ms = row.cpu_time_total / 1000 / steps, row.device_time_total / 1000 / steps
        share = cpu_ms / 1000 / seconds
        lines.append(f"{row.key:<32}{cpu_ms:10.1f}{share:10.1%}" + f"{gpu_ms:10.1f}" * has_gpu)
    order = f"self_{'device' if has_gpu else 'cpu'}_time_total"
    return "\n".join([*lines, averages.table(order, row_limit=MAX_OPERATORS, max_name_column_width=48)])
