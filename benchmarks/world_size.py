"""Does the number of processes change what is learnt?  python -m benchmarks.world_size

Trains every model for two steps in float64 with 1, 2 and 4 processes (gloo, DDP, synchronised batch norm) on
slices of one global batch, and in one process without any of that on the whole batch. Prints how far apart
they end: mean loss over ranks, DDP's averaged gradient, running statistics. Small networks on noise: about
exactness, not speed.
"""

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sslsv.encoders import ThinResNet34
from sslsv.models import BarlowTwins, Progress, SimCLR, VIbCReg, VICReg
from sslsv.ops import distributed
from sslsv.ops.batchnorm import synchronize_batchnorm

GLOBAL_BATCH, CROP_SECONDS, STEPS = 16, 0.3, 2
PROJECTOR_DIMS = (24, 24, 16)
# Without synchronised batch norm the answer must depend on the number of processes: shows that the check can
# fail.
CONTROL = "vicreg, batch norm per process"
RECOMPUTED = "vicreg, recomputed activations"  # its batch norms meet the other processes twice
CASES = ("simclr", "vicreg", "vibcreg", "barlow_twins", RECOMPUTED, CONTROL)


def build_model(case: str) -> nn.Module:
    """A small model with the same random weights in every process, in float64."""
    torch.manual_seed(1)
    shape: dict[str, Any] = {"crop_seconds": CROP_SECONDS, "projector_dims": PROJECTOR_DIMS}
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16, stem_time_stride=2))
    encoder.recomputes_activations = case == RECOMPUTED
    match case.split(",")[0]:
        case "simclr":
            return SimCLR(SimCLR.Config(temperature=0.1, **shape), encoder).double()
        case "vicreg":
            return VICReg(VICReg.Config(**shape), encoder).double()
        case "vibcreg":
            return VIbCReg(VIbCReg.Config(whitening_groups=4, **shape), encoder).double()
        case "barlow_twins":
            return BarlowTwins(BarlowTwins.Config(**shape), encoder).double()
    raise ValueError(f"There is no case {case!r}; choose from {', '.join(CASES)}.")


def train_two_steps(case: str) -> dict[str, Any]:
    """Last mean loss, last averaged gradient and all buffers, after training on this rank's slice."""
    model = build_model(case)
    network = model
    if distributed.is_distributed():
        if case != CONTROL:
            model = synchronize_batchnorm(model)
        network = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(2)
    rows = GLOBAL_BATCH // distributed.world_size()
    loss = torch.zeros(())
    for step in range(STEPS):
        samples = int(CROP_SECONDS * 16000)
        noise = torch.randn(GLOBAL_BATCH, 1, samples, generator=generator)
        noise = noise + 0.5 * torch.randn(GLOBAL_BATCH, 2, samples, generator=generator)
        views = (noise * 3000).to(torch.int16)[distributed.rank() * rows :][:rows]
        optimizer.zero_grad()
        output = network({"views": views, "sample": torch.arange(rows)}, Progress(step, STEPS, 0, 1))
        output.loss.backward()
        optimizer.step()
        loss = distributed.all_reduce_mean(output.loss.detach())
    return {
        "loss": {"loss": loss},
        "gradient": {n: p.grad for n, p in model.named_parameters()},
        "buffers": {n: b for n, b in model.named_buffers() if b.is_floating_point()},
    }


def relative_error(values: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest, over tensors, of |value - expected| / |expected|, Euclidean norms.

    A tensor that is 0 but for rounding (the gradient of a bias that a batch norm removes) is compared with
    1e-8 of the norm of all tensors together.
    """
    if values.keys() != expected.keys():
        raise ValueError(f"Different tensors: {sorted(values.keys() ^ expected.keys())}.")
    total = torch.stack([tensor.norm() for tensor in expected.values()]).norm()
    errors = [(values[n] - expected[n]).norm() / expected[n].norm().clamp_min(1e-8 * total) for n in expected]
    return float(torch.stack(errors).max())


def _process(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    results = {case: train_two_steps(case) for case in CASES}
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")
    distributed.barrier()
    dist.destroy_process_group()


@functools.cache
def _expected(case: str) -> dict[str, Any]:
    return train_two_steps(case)


def measure(world_size: int) -> dict[str, dict[str, float]]:
    """Relative errors of loss, gradient and buffers, by case, of `world_size` new processes against none."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (world_size, folder), nprocs=world_size)
        results = torch.load(Path(folder) / "results.pt", weights_only=True)
    errors = {}
    for case in CASES:
        expected = _expected(case)
        errors[case] = {kind: relative_error(results[case][kind], expected[kind]) for kind in expected}
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes; default 1 2 4"
    )
    arguments = parser.parse_args()
    if any(GLOBAL_BATCH % ranks for ranks in arguments.ranks):
        parser.error(f"--ranks {arguments.ranks}: each must divide the global batch of {GLOBAL_BATCH}.")
    torch.set_num_threads(1)
    print(f"{'model':32} {'ranks':>5} {'loss':>9} {'gradient':>9} {'buffers':>9}   (largest relative error)")
    for ranks in arguments.ranks:
        for case, errors in measure(ranks).items():
            print(
                f"{case:32} {ranks:5} " + " ".join(f"{value:9.1e}" for value in errors.values()), flush=True
            )


if __name__ == "__main__":
    main()
