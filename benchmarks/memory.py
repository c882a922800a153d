"""How much memory does a step take?  python -m benchmarks.memory configs/simclr.yml [--batch-sizes 32 64]

One step of the config's model (a second one for the allocator to settle) on random waveforms, each way to
save memory in a process of its own. On a GPU: the allocator's peak. On a CPU: growth of the resident set from
built model to peak.
"""

import argparse
import dataclasses
import multiprocessing
import resource
from pathlib import Path

import torch

from sslsv.config import Config, load_config
from sslsv.models.base import CorpusSize
from sslsv.training.state import build_state, wrap_model
from sslsv.training.step import take_step

SAMPLE_RATE = 16000  # Hz


def variants(config: Config, batch_size: int) -> dict[str, Config]:
    """The same step in several ways."""
    base = dataclasses.replace(config.train, batch_size=batch_size)
    return {
        name: dataclasses.replace(config, train=dataclasses.replace(base, recompute=recomputes))
        for name, recomputes in {"plain": False, "recompute": True}.items()
    }


def peak_bytes(config: Config) -> int:
    """Peak memory of two steps beyond what weights and libraries hold before the first."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = build_state(config, CorpusSize(), device)
    network = wrap_model(state.model, config, device)
    group = state.model.views[0]
    rows, samples = config.train.batch_size, int(group.seconds * SAMPLE_RATE)
    views = torch.randint(-9000, 9000, (rows, group.count, samples), dtype=torch.int16)
    batch = {"views": views, "sample": torch.arange(rows)}
    before = _peak(device)
    for _ in range(2):
        take_step(state, network, batch, config=config, steps_per_epoch=1000, device=device, corpus=None)
    return _peak(device) - before


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="default: the config's")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    context = multiprocessing.get_context("spawn")
    print(f"{'batch':>6} {'way':24} {'MiB':>8}")
    for batch_size in arguments.batch_sizes or [config.train.batch_size]:
        for name, variant in variants(config, batch_size).items():
            with context.Pool(1) as pool:
                peak = pool.apply(peak_bytes, (variant,))
            print(f"{batch_size:6} {name:24} {peak / 2**20:8.0f}", flush=True)


if __name__ == "__main__":
    main()
