"""Compare encoders with equal modules of other toolkits (peers): training step and embedding.

Peers run as in their recipes: float32, their own features, one utterance at a time for embeddings. Both sides
train as classifiers of 5,994 speakers without a margin, using SGD with momentum.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.compliance.kaldi as kaldi
from torch import Tensor, nn

from benchmarks.contestants import Contestant
from benchmarks.row import PRECISION, Row, Settings, speed_row
from sslsv.build import build_model
from sslsv.config import load_config
from sslsv.evaluation.verification import Embedder
from sslsv.models.base import CorpusSize

SPEAKERS = 5994
CONFIG = "configs/supervised.yml"
SGD = ["optimizer.name=sgd", "optimizer.momentum=0.9", "model.margin=0"]  # same settings as `peer_step`
# Name of an encoder -> its settings, and name and package of the peer.
ENCODERS = {
    "ECAPA-TDNN 1024": ("{name: ecapa_tdnn, embedding_dim: 192}", "SpeechBrain", "speechbrain"),
    "CAM++": ("{name: campplus}", "3D-Speaker", "speakerlab"),
    "ReDimNet B2": ("{name: redimnet}", "wespeaker", "wespeaker"),
    "ResNet34": ("{name: resnet}", "wespeaker", "wespeaker"),
}


def rows(settings: Settings) -> Iterator[Row]:
    """Yield two rows per encoder: the training step, then the embedding."""
    size, count = (4, 4) if settings.is_quick else (16, 12)
    for name, (encoder, peer, package) in ENCODERS.items():
        missing = [each for each in (package, "pytest") if find_spec(each) is None]
        if missing:
            yield Row(name, peer, 0, 0, "", skipped=f"{missing[0]} is missing; see the Makefile")
            continue
        sizes = [f"encoder={encoder}", f"train.batch_size={size}", f"train.precision={PRECISION}"]
        overrides = [*sizes, *SGD]
        for kind, amount, unit, target in (
            ("step", size, "crops/s", 1.5),
            ("embedding", count, "utterances/s", 2.0),
        ):
            job: dict[str, Any] = {"config": CONFIG, "overrides": overrides, "name": name, "count": amount}
            job["warm_up_rounds"] = 2
            ours = "method_step" if kind == "step" else "embedding"
            with (
                Contestant(ours, **job) as mine,
                Contestant(f"peer_{kind}", has_trainer_environment=False, **job) as theirs,
            ):
                times = [(mine.run(1), theirs.run(1)) for _ in range(settings.pairs)]
            work = "train step, 2 s" if kind == "step" else "whole utterances"
            yield speed_row(
                f"{name}: {work}, {PRECISION}", f"{peer}, fp32", times, amount, unit, target=target
            )


def peer_of(name: str) -> nn.Module:
    """Return the peer's module, which takes features (B, L, bands)."""
    from tests.encoders.peers import peer_module  # imported here because it needs pytest

    match name:
        case "ECAPA-TDNN 1024":
            from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

            return ECAPA_TDNN(80, channels=[1024] * 4 + [3072], lin_neurons=192)
        case "CAM++":
            return peer_module("speakerlab.models.campplus.DTDNN").CAMPPlus(80, 512)
        case "ReDimNet B2":
            return peer_module("wespeaker.models.redimnet").ReDimNetB2()
        case "ResNet34":
            return peer_module("wespeaker.models.resnet").ResNet34(80, 256)
    raise ValueError(f"There is no peer of {name}.")


def features_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return a function from waveforms (B, T) to the peer's features (B, L, bands)."""
    if name == "ECAPA-TDNN 1024":
        from speechbrain.lobes.features import Fbank

        fbank = Fbank(n_mels=80)
        return lambda waveforms: _centred(fbank(waveforms))
    settings = {"num_mel_bins": 72 if name == "ReDimNet B2" else 80, "sample_frequency": 16000}
    return lambda waveforms: _centred(
        torch.stack([kaldi.fbank(row[None] * 32768, window_type="hamming", **settings) for row in waveforms])
    )


def _centred(features: Tensor) -> Tensor:
    return features - features.mean(1, keepdim=True)


class Peer(nn.Module):
    """Map waveforms (B, T) to embeddings (B, D)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.features, self.network = features_of(name), peer_of(name)

    def forward(self, waveforms: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.features(waveforms)
        embeddings = self.network(features)
        embeddings = embeddings[-1] if isinstance(embeddings, tuple) else embeddings
        return embeddings[:, 0] if embeddings.ndim == 3 else embeddings


def peer_step(job: dict[str, Any]) -> Callable[[], object]:
    """Return a training step of the peer as a classifier, in the usual implementation."""
    model, rows = Peer(job["name"]).train(), job["count"]
    waveforms = 0.1 * torch.randn(rows, 32000)
    labels = torch.arange(rows)
    classes = nn.Parameter(0.01 * torch.randn(SPEAKERS, model(waveforms).shape[1]))
    optimizer = torch.optim.SGD([*model.parameters(), classes], lr=1e-3, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        logits = 30 * F.normalize(model(waveforms)) @ F.normalize(classes).T
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def utterances(count: int) -> list[np.ndarray]:
    """Return noise of 4 to 12 s in 40 different lengths; short lengths are frequent."""
    rng = np.random.default_rng(6)
    lengths = 64_000 + 3_200 * (40 * rng.beta(1, 2, count)).astype(int)
    return [(3000 * rng.normal(size=length)).astype(np.int16) for length in lengths]


def peer_embedding(job: dict[str, Any]) -> Callable[[], object]:
    """Return a function that embeds all utterances one at a time."""
    model = Peer(job["name"]).eval()
    waveforms = [torch.from_numpy(each).float()[None] / 32768 for each in utterances(job["count"])]

    def embed() -> list[Tensor]:
        with torch.no_grad():
            return [model(each) for each in waveforms]

    return embed


def embedding(job: dict[str, Any]) -> Callable[[], object]:
    """Return a function that embeds all utterances as the commands of sslsv do."""
    config = load_config(job["config"], job["overrides"])
    model = build_model(config, CorpusSize(num_speakers=2)).to(memory_format=torch.channels_last).eval()
    waveforms = utterances(job["count"])
    embedder = Embedder(model, torch.device("cpu"), PRECISION, config.evaluation.batch_seconds)
    return lambda: embedder.embed_recordings(lambda i: waveforms[i], len(waveforms))
