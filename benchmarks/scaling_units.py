"""Measure unit costs on this machine: of a pair, block, batch, checkpoint, plan and loss."""

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import in_own_process
from benchmarks.data_path import BOTH, RECIPES, batches
from benchmarks.driver import state_after_a_step, write_list
from benchmarks.extrapolation import Cluster, Units
from benchmarks.ray_units import maker_of, open_corpus, through_ray
from sslsv.config import Config, load_config
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.diagnostics import label_free_report
from sslsv.evaluation.verification import Embedder
from sslsv.models.contrast import nt_xent
from sslsv.models.terms import vicreg_loss
from sslsv.runs.checkpoint import encode_checkpoint, write_encoded
from sslsv.runs.folder import RunFolder
from sslsv.training.state import checkpoint_of

PUBLISHED = "configs/simclr.yml"


def measure(cluster: Cluster, *, is_quick: bool) -> Units:
    """Return all unit costs; takes about a minute and a half, half of it for Ray."""
    torch.set_num_threads(1)
    costs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in (_data, through_ray, _checkpoints, _lists, _networks):
            started = time.perf_counter()
            costs |= part(root, cluster, is_quick)
            print(
                f"{part.__name__.strip('_')}: {time.perf_counter() - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return Units(**costs)


def _seconds(
    work: Callable[[], object], repeats: int, clock: Callable[[], float] = time.process_time
) -> float:
    """Return the median seconds over repeats, after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        started = clock()
        work()
        times.append(clock() - started)
    return float(np.median(times))


def _data(root: Path, cluster: Cluster, is_quick: bool) -> dict[str, Any]:
    """Measure crops of the published recipe (as in the group `data`), and first and later blocks."""
    corpus, manifest = open_corpus(root)
    count, repeats = (32, 2) if is_quick else (256, 5)
    crops = count / _seconds(batches(corpus, manifest, RECIPES[BOTH], count), repeats)
    maker = maker_of(corpus, manifest, 2.0, RECIPES[BOTH])
    rows = {name: np.arange(64) % len(manifest) for name in ("sample", "utterance")}
    seconds = []
    for epoch in range(10):
        started = time.process_time()
        maker.make_batch({**rows, "epoch": np.full(64, epoch)})
        seconds.append(time.process_time() - started)
    return {
        "pairs_per_core_second": crops / 2,
        "cold_block_seconds": seconds[0],
        "warm_block_seconds": float(np.median(seconds[5:])),
    }


def _checkpoints(root: Path, cluster: Cluster, is_quick: bool) -> dict[str, Any]:
    """Measure the sizes of two checkpoints, and the time to copy and to write the larger one."""
    published = load_config(PUBLISHED)
    wide_encoder = ["encoder.features.pre_emphasis=0.97", "encoder.width=32", "encoder.stem=3x3"]
    wide_encoder += ["encoder.last_stride=2", "encoder.pooling=attentive_mean", "encoder.embedding_dim=1024"]
    wide = load_config(PUBLISHED, wide_encoder)
    sizes, gradients, contents = [], [], b""
    for config in (published, wide):
        state = state_after_a_step(config)
        checkpoint = checkpoint_of(state, config)
        contents = encode_checkpoint(checkpoint)
        sizes.append(len(contents))
        gradients.append(sum(4 * weights.numel() for weights in state.model.parameters()))
        if config is published:
            norms = sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in state.model.modules())
    folder, repeats = RunFolder(str(root), "run"), 2 if is_quick else 5
    copy = _seconds(lambda: encode_checkpoint(checkpoint), repeats, time.perf_counter)
    write = _seconds(lambda: write_encoded(folder, contents, 1), repeats, time.perf_counter)
    return {
        "checkpoint_bytes": sizes[0],
        "wide_checkpoint_bytes": sizes[1],
        "checkpoint_copy_seconds": copy / sizes[1] * 1e9,
        "checkpoint_write_seconds": write / sizes[1] * 1e9,
        "gradient_bytes": gradients[0],
        "wide_gradient_bytes": gradients[1],
        "batch_norms": norms,
    }


def _lists(root: Path, cluster: Cluster, is_quick: bool) -> dict[str, Any]:
    """Measure list and plan of one worker of the cluster, in its own process to get its peak memory."""
    folder = root / "list"
    folder.mkdir()
    write_list(folder, 20_000 if is_quick else 1_092_009)
    costs = in_own_process("driver", str(folder), str(cluster.batch_size), str(cluster.gpus))
    names = ("utterances", "plan_seconds", "span_seconds", "span_peak_bytes", "span_epochs", "maker_bytes")
    return {name: costs[name] for name in (*names, "validation_recordings")}


def _networks(root: Path, cluster: Cluster, is_quick: bool) -> dict[str, Any]:
    """Count the operations of a step; measure embedding a recording and the label-free report."""
    config = load_config(PUBLISHED)
    model = state_after_a_step(config).model
    embedder = Embedder(model, torch.device("cpu"), "bf16", config.evaluation.batch_seconds)
    recordings = np.random.default_rng(1).normal(0, 2000, (2, 128_000)).astype(np.int16)
    settings = config.evaluation.label_free
    views = torch.randn(32 if is_quick else settings.utterances, settings.views, config.encoder.embedding_dim)
    sizes = {config.encoder.embedding_dim, cluster.projection_dims}
    losses = {
        "NT-Xent": lambda a, b: nt_xent(a, b, 0.03)[0],
        "VICReg": lambda a, b: vicreg_loss(a, b, 1.0, 1.0, 0.1)[0],
    }
    return {
        "embed_seconds": _seconds(lambda: embedder.embed(recordings), 2 if is_quick else 4) / len(recordings),
        "label_free_seconds": _seconds(lambda: label_free_report(views), 1),
        "encoder_flops": _encoder_flops(config),
        "loss_flops": {
            f"{name}, {dims} dimensions": _loss_flops(loss, cluster.batch_size, dims)
            for name, loss in losses.items()
            for dims in sorted(sizes)
        },
    }


def _encoder_flops(config: Config) -> int:
    encoder = ThinResNet34(config.encoder)
    samples = math.floor(16_000 * config.model.crop_seconds)
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(2, samples)).sum().backward()
    return int(counter.get_total_flops())


def _loss_flops(loss: Callable[[Tensor, Tensor], Any], rows: int, dims: int) -> int:
    """Count the operations on tensors without data (device meta)."""
    z_a, z_b = (torch.empty(rows, dims, device="meta", requires_grad=True) for _ in range(2))
    with FlopCounterMode(display=False) as counter:
        result = loss(z_a, z_b)
        (result[0] if isinstance(result, tuple) else result).backward()
    return int(counter.get_total_flops())
