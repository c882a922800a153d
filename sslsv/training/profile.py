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
MAX_ROWS = 25  # of the table


def profile_steps(training: Training, steps: int) -> dict[str, Any]:
    """Profile `steps` steps after some to warm up; every worker must call it.

    Returns `report`, PyTorch's table of the costliest parts of a step (which `training.step` marks) and
    operators, and `trace`, a gzipped file in Chrome's format.
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
            with record_function("waiting for data"):
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
        trace = path.read_bytes()
    device = "GPU" if has_gpu else f"{torch.get_num_threads()} threads"
    size, precision = training.config.train.batch_size, training.config.train.precision
    report = (
        f"a step takes {1000 * seconds:.1f} ms: {size / seconds:.1f} samples/s ({size} samples, "
        f"{distributed.world_size()} worker(s) on {device}, {precision})\n"
    )
    report += profiler.key_averages().table("cpu_time_total", MAX_ROWS, max_name_column_width=48)
    return {"report": report, "trace": trace}
