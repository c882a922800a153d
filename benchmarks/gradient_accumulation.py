"""Do chunks add up to the large batch?  python -m benchmarks.gradient_accumulation

In float64, on noise, with small networks. `undivided`: an encoder without batch norm, its batch cut into
chunks, against one pass over the whole batch. `workers`: batch norm and dropout, against as many workers
(gloo, DDP, unsynchronised) as there are chunks, each with one. Prints how far loss, averaged gradient and
running statistics are apart, for one and two processes.
"""

import argparse
import contextlib
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.world_size import relative_error
from sslsv import registry
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Progress
from sslsv.models.two_view import TwoViewModel
from sslsv.ops import distributed
from sslsv.training.cached_gradients import ChunkReplay, backward_in_chunks
from sslsv.training.step import seed_draws

BATCH, SAMPLES = 16, 1600
KINDS = ("undivided", "workers")
METHODS = [n for n in registry.names("models") if registry.find("models", n).has_cacheable_projections]


class PlainEncoder(nn.Module):
    """No statistics of the batch: rows know nothing of each other."""

    embedding_dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, self.embedding_dim))

    def forward(self, waveforms: Tensor) -> Tensor:
        frames = (waveforms.double() / 3000).unflatten(1, (-1, 40))
        return self.layers(frames).square().mean(1)


class DrawingEncoder(ThinResNet34):
    """The real one, small, with batch norm, and with draws of its own."""

    def __init__(self) -> None:
        super().__init__(ThinResNet34.Config(width=2, embedding_dim=12, stem_time_stride=2))

    def forward(self, waveforms: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(waveforms), 0.3, self.training)


def build_model(name: str, kind: str) -> TwoViewModel:
    """The same weights in every process, in float64."""
    torch.manual_seed(1)
    settings: dict[str, Any] = {"projector_dims": (10, 8) if kind == "workers" else (8,)}
    settings |= {"whitening_groups": 2} if name == "vibcreg" else {}
    settings |= {"temperature": 0.1} if name == "simclr" else {}
    settings |= {"group_size": BATCH} if name == "wmse" else {}
    encoder = DrawingEncoder() if kind == "workers" else PlainEncoder()
    return registry.find("models", name)(registry.find("models", name).Config(**settings), encoder).double()


def views() -> Tensor:
    """The global batch, (BATCH, 2, SAMPLES)."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(BATCH, 1, SAMPLES, generator=generator)
    noise = noise + 0.5 * torch.randn(BATCH, 2, SAMPLES, generator=generator)
    return (noise * 3000).to(torch.int16)


def step(name: str, kind: str, num_chunks: int) -> dict[str, Any]:
    """Mean loss, averaged gradient and running statistics of one step of this process's share."""
    model = build_model(name, kind)
    share = BATCH // distributed.world_size()
    mine = views()[distributed.rank() * share :][:share]
    network = ChunkReplay(model) if num_chunks > 1 else model
    if distributed.is_distributed():
        network = DistributedDataParallel(network, find_unused_parameters=True)
    first = distributed.rank() * num_chunks
    if num_chunks > 1:
        output = backward_in_chunks(
            network,
            {"views": mine},
            Progress(0, 1, 0, 1),
            share // num_chunks,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            autocast=contextlib.nullcontext,
            seed_chunk=lambda chunk: seed_draws(3, 0, first + chunk),
        )
    else:
        seed_draws(3, 0, first)
        output = network({"views": mine}, Progress(0, 1, 0, 1))
        output.loss.backward()
    return {
        "loss": {"loss": distributed.all_reduce_mean(output.loss.detach())},
        "gradient": {n: p.grad.clone() for n, p in model.named_parameters()},
        "buffers": {n: b for n, b in model.named_buffers() if b.is_floating_point()},
    }


def _process(rank: int, world_size: int, folder: str, num_chunks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    results = {(name, kind): step(name, kind, num_chunks) for name in METHODS for kind in KINDS}
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")
    distributed.barrier()
    dist.destroy_process_group()


@functools.cache
def run(world_size: int, num_chunks: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Results of rank 0, by model and kind; `world_size` 1 runs in this process."""
    if world_size == 1:
        return {(name, kind): step(name, kind, num_chunks) for name in METHODS for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (world_size, folder, num_chunks), nprocs=world_size)
        results: dict[tuple[str, str], dict[str, Any]] = torch.load(Path(folder) / "results.pt")
    return results


def measure(world_size: int, num_chunks: int) -> dict[tuple[str, str], dict[str, float]]:
    """Relative errors by model and kind, of `num_chunks` chunks in each of `world_size` processes."""
    errors = {}
    for (name, kind), result in run(world_size, num_chunks).items():
        expected = run(world_size * num_chunks if kind == "workers" else 1, 1)[name, kind]
        errors[name, kind] = {
            part: relative_error(result[part], expected[part]) for part in result if result[part]
        }
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':14} {'equal to':10} processes chunks   largest relative error")
    for world_size, num_chunks in ((1, 2), (1, 4), (2, 2)):
        for (name, kind), errors in measure(world_size, num_chunks).items():
            shown = "  ".join(f"{part} {error:.1e}" for part, error in errors.items())
            print(f"{name:14} {kind:10} {world_size:9} {num_chunks:6}   {shown}", flush=True)


if __name__ == "__main__":
    main()
