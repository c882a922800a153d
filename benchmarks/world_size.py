"""Check that the number of processes does not change a training.  python -m benchmarks.world_size

Trains every method of `sslsv/models/`, and variants of many, for five steps in float64: with 1, 2 and 4
processes (gloo, DDP, synchronised batch norm) on slices of one global batch, and in one plain process on the
entire batch. Prints the largest relative errors of the mean loss over ranks, of DDP's averaged gradient, and
of the final state (weights, running statistics, queues, teachers, memories). Small networks on noise suffice
for this. --float32 uses another encoder and smooth activations: a ReLU whose input changes sign would turn a
rounding error of 1e-7 into one of 1e-3 in the gradient.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.command import parser_of
from sslsv import registry
from sslsv.config import OptimizerConfig
from sslsv.encoders.base import Encoder
from sslsv.encoders.cepstral_statistics import CepstralStatistics
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import CorpusSize, Model, Progress
from sslsv.ops import distributed
from sslsv.ops.batchnorm import synchronize_batchnorm
from sslsv.settings import build
from sslsv.training.optim import build_optimizer
from sslsv.training.state import average_gradients

GLOBAL_BATCH, CROP_SECONDS, STEPS, STEPS_PER_EPOCH = 16, 0.3, 5, 2
SIZE = CorpusSize(num_utterances=40, num_speakers=5)
# Without synchronised batch norm the result must depend on the number of processes. This case shows that the
# check can fail.
CONTROL = "vicreg, batch norm per process"
RECOMPUTED = "vicreg, recomputed activations"  # its batch norms communicate twice per step
# Settings of variants that differ from the method's defaults.
WITH_SSPS = {"positives": {"name": "ssps", "start_epoch": 1, "num_clusters": 6, "queue_length": 24}}
VARIANTS: dict[str, dict[str, Any]] = {
    "simclr, many views": {"form": "multi_view", "margin": {"name": "magface", "norm_range": None}},
    "simclr, asymmetric": {"form": "asymmetric", "margin": {"name": "curricularface"}},
    "simclr, ssps": WITH_SSPS,
    "moco, ssps": WITH_SSPS,
    "swav, ssps": WITH_SSPS,
    "dino, ssps": WITH_SSPS,
    "simclr, ssps nearest": {"positives": WITH_SSPS["positives"] | {"sampling": "nearest"}},
    "swav, multi-crop": {"num_short": 2},
    "dino, rdino": {"regularizer_weight": 0.2},
    "dino, balanced": {"balance_iterations": 3},
    "supervised, gated": {
        "gate": {"name": "fixed", "start_epoch": 0, "threshold": 6.0},
        "correction": {"start_epoch": 1, "threshold": 0.8},
    },
    "supervised, gated by a mixture": {"gate": {"name": "mixture", "start_epoch": 1}},
    "simclr, regularized": {
        "regularizers": [
            {"name": name, "weight": 0.1} for name in ("koleo", "variance", "covariance", "sigreg")
        ]
    },
}
CASES = (*registry.names("models"), *VARIANTS, RECOMPUTED, CONTROL)
# Cases that would take too long in the test suite.
RISING = {"name": "linear", "rise_epochs": [0.0, 2.0]}
MARGINS: dict[str, dict[str, Any]] = {
    "am": {"value": 0.2},
    "aam": {"value": 0.2, "schedule": RISING},
    "sphereface": {"value": 2.0},
    "curricularface": {"value": 0.2},
    "magface": {"value": 0.2, "norm_range": None},
    "adaface": {"value": 0.2},
}
FURTHER: dict[str, dict[str, Any]] = {
    **{
        f"{name}, {margin}": {"margin": {"name": margin} | settings}
        for name in ("simclr", "moco")
        for margin, settings in MARGINS.items()
    },
    **{f"{name}, ssps": WITH_SSPS for name in ("vicreg", "vibcreg", "barlow_twins")},
    "swav, multi-crop ssps": WITH_SSPS | {"num_short": 2},
    "dino, rdino ssps": WITH_SSPS | {"regularizer_weight": 0.2},
    "dino, balanced ssps": WITH_SSPS | {"balance_iterations": 3},
    "supervised, sphereface2": {"loss": "sphereface2", "num_subcenters": 2, "margin_schedule": RISING},
    "supervised, hard negatives": {"num_subcenters": 2, "num_hard_negatives": 2},
    "supervised, mixture corrected": {
        "gate": {"name": "mixture", "start_epoch": 1},
        "correction": {"start_epoch": 1, "threshold": 0.8},
    },
    "sdpn, correlation": {"koleo_weight": 0.0, "correlation_weight": 0.3},
    "cpc, other view": {"target": "other_view"},
    "lim, bce": {"objective": "bce"},
    "lim, mine": {"objective": "mine"},
    "wmse, partitions": {"num_partitions": 3, "shrinkage": 0.1},
    "combiner, all": {
        f"{place}_terms": [{"name": name} for name in ("nt_xent", "info_nce", "vicreg", "barlow_twins")]
        for place in ("embedding", "projection")
    },
}
ALL_CASES = (*CASES, *FURTHER)


def small_settings(case: str) -> Any:
    """Return small settings of a method or of one of its variants, fast enough for a test.

    Layers get (24, 24, 16) units, counts above 32 become 8, crops 0.3 s (those above 2 s: 0.4 s). Settings in
    epochs become at most 1. A last layer that is narrow by default gets fewer units, and `group_size` becomes
    the global batch.
    """
    config = build(registry.find("models", case.split(",")[0]).Config, (VARIANTS | FURTHER).get(case, {}))
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name.endswith("_dims"):
            changes[field.name] = (24, 24, min(16, value[-1] // 8) if value else 16)
        elif field.name.endswith("_seconds"):
            changes[field.name] = CROP_SECONDS if value <= 2 else CROP_SECONDS + 0.1
        elif field.name.endswith(("_epoch", "_epochs")):
            changes[field.name] = min(value, 1)
        elif field.name == "group_size":
            changes[field.name] = GLOBAL_BATCH
        elif isinstance(value, int) and not isinstance(value, bool) and value > 32:
            changes[field.name] = 8
    return dataclasses.replace(config, **changes)


def build_model(case: str, dtype: torch.dtype = torch.float64) -> Model:
    """Build a small model with the same weights in every process; in float32 with smooth activations."""
    torch.manual_seed(1)
    encoder: Encoder
    if dtype == torch.float64:
        encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16))
    else:
        encoder = CepstralStatistics(CepstralStatistics.Config(hidden_dim=24, embedding_dim=16))
    encoder.recomputes_activations = case == RECOMPUTED
    model: Model = registry.find("models", case.split(",")[0])(small_settings(case), encoder, SIZE)
    if dtype == torch.float32:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, name, nn.Softplus())
    return model.to(dtype)


class NoiseCorpus:
    """Stand in for the training corpus with one fixed noise crop per utterance."""

    size = SIZE

    def embed(self, model: Model, *, seconds: float = 4.0, clean: bool = True) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        crops = torch.randn(SIZE.num_utterances, int(CROP_SECONDS * 16000), generator=generator)
        was_training = model.training
        with torch.no_grad():
            embeddings = model.eval().embed(crops)
        model.train(was_training)
        return embeddings


def noise_batch(
    model: Model, generator: torch.Generator, rows: int = GLOBAL_BATCH, size: CorpusSize = SIZE
) -> dict[str, Tensor]:
    """Make a global batch of noise; views of a sample share a noise and add a weaker one of their own."""
    longest = max(int(group.seconds * 16000) for group in model.views)
    shared = torch.randn(rows, 1, longest, generator=generator)
    batch: dict[str, Tensor] = {}
    for group in model.views:
        count, samples = group.count, int(group.seconds * 16000)
        own = torch.randn(rows, count, samples, generator=generator)
        batch[group.name] = ((shared[..., :samples] + 0.5 * own) * 3000).to(torch.int16)
    batch["sample"] = torch.arange(rows)
    batch["utterance"] = torch.randperm(size.num_utterances, generator=generator)[:rows]
    if model.needs_labels:
        batch["speaker"] = batch["utterance"] % size.num_speakers
    return batch


def train_steps(case: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Train on this rank's slices; return losses and averaged gradients of all steps, and the final state."""
    model = build_model(case, dtype)
    network: nn.Module = model
    if distributed.is_distributed():
        if case != CONTROL:
            synchronize_batchnorm(model)
        network = average_gradients(model, torch.device("cpu"))
    # Gradients of untrained networks have norms up to 1000. With larger steps, each step would multiply the
    # rounding errors of the previous one by ten.
    optimizer = build_optimizer(model.parameter_groups(), OptimizerConfig(name="sgd", learning_rate=1e-5))
    generator = torch.Generator().manual_seed(2)
    rows = GLOBAL_BATCH // distributed.world_size()
    losses: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    for step in range(STEPS):
        progress = Progress(step, STEPS + 1, step // STEPS_PER_EPOCH, 3, seed=4)
        if step % STEPS_PER_EPOCH == 0:
            model.start_epoch(progress, NoiseCorpus())
        share = slice(distributed.rank() * rows, (distributed.rank() + 1) * rows)
        batch = {name: column[share] for name, column in noise_batch(model, generator).items()}
        optimizer.zero_grad()
        output = network(batch, progress)
        output.loss.backward()
        losses[f"step {step}"] = distributed.all_reduce_mean(output.loss.detach())
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradients[f"step {step}: {name}"] = parameter.grad.clone()
        model.before_step(progress)
        optimizer.step()
        model.after_step(progress)
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    return {"loss": losses, "gradient": gradients, "state": state}


def relative_error(values: dict[str, Any], expected: dict[str, Any], floor: float = 1e-8) -> float:
    """Return the largest |value - expected| / |expected| over tensors, with Euclidean norms.

    The denominator is at least `floor` times the norm of all tensors together. This is for tensors that are 0
    except for rounding, such as the gradient of a bias before a batch norm.
    """
    if values.keys() != expected.keys():
        raise ValueError(f"Different tensors: {sorted(values.keys() ^ expected.keys())}.")
    expected = {n: tensor.detach() for n, tensor in expected.items()}
    values = {n: tensor.detach() for n, tensor in values.items()}
    total = torch.stack([tensor.norm() for tensor in expected.values()]).norm()
    errors = [
        (values[n] - expected[n]).norm() / expected[n].norm().clamp_min(floor * total) for n in expected
    ]
    return float(torch.stack(errors).max())


def _process(rank: int, world_size: int, folder: str, cases: tuple[str, ...], dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    results = {case: train_steps(case, dtype) for case in cases}
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")
    distributed.barrier()
    dist.destroy_process_group()


@functools.cache
def _expected(case: str, dtype: torch.dtype) -> dict[str, Any]:
    return train_steps(case, dtype)


def measure(
    world_size: int, cases: tuple[str, ...] = CASES, dtype: torch.dtype = torch.float64
) -> dict[str, dict[str, float]]:
    """Return the relative errors of loss, gradient and state by case: `world_size` processes against one."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (world_size, folder, cases, dtype), nprocs=world_size)
        results = torch.load(Path(folder) / "results.pt", weights_only=True)
    errors = {}
    floor = 1e-8 if dtype == torch.float64 else 1e-2  # float32 rounds to 1e-7 of terms that nearly cancel
    for case in cases:
        expected = _expected(case, dtype)
        errors[case] = {
            kind: relative_error(values, expected[kind], floor) for kind, values in results[case].items()
        }
    return errors


def main() -> None:
    parser = parser_of("world_size", __doc__)
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes; default 1 2 4"
    )
    parser.add_argument("--float32", action="store_true", help="in float32, with smooth activations")
    arguments = parser.parse_args()
    if any(GLOBAL_BATCH % ranks for ranks in arguments.ranks):
        parser.error(f"--ranks {arguments.ranks}: each must divide the global batch of {GLOBAL_BATCH}.")
    torch.set_num_threads(1)
    dtype = torch.float32 if arguments.float32 else torch.float64
    errors = {ranks: measure(ranks, ALL_CASES, dtype) for ranks in arguments.ranks}
    kinds = [f"{kind}, {ranks}" for ranks in arguments.ranks for kind in ("loss", "gradient", "state")]
    print(f"| largest relative error; ranks: | {' | '.join(kinds)} |\n|---{'|---' * len(kinds)}|")
    for case in ALL_CASES:
        row = [f"{error:.0e}" for ranks in arguments.ranks for error in errors[ranks][case].values()]
        print(f"| {case} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
