"""Compare embeddings of entire utterances and the scoring of a million trials with loops over single ones."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from sklearn.metrics import roc_curve

from benchmarks.contestants import Contestant
from benchmarks.row import Row, Settings, in_turns, speed_row, time_row
from sslsv.build import build_model
from sslsv.config import load_config
from sslsv.evaluation.embedding import embedding_by
from sslsv.evaluation.metrics import ErrorCurve
from sslsv.evaluation.scoring import cosine_scores
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.models.base import CorpusSize


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of trials, which need no Ray, then that of embeddings."""
    yield from _trials(settings)
    yield _embeddings(settings)


def naive_metrics(embeddings: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the cosine of each trial, computed in a loop."""
    scores = np.empty(len(enrol))
    for t, (i, j) in enumerate(zip(enrol.tolist(), test.tolist(), strict=True)):
        a, b = embeddings[i], embeddings[j]
        scores[t] = np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return scores


def _trials(settings: Settings) -> Iterator[Row]:
    count, recordings = (20_000, 500) if settings.is_quick else (1_000_000, 5_000)
    share = 1 if settings.is_quick else 20  # the naive loop scores 1 of `share` trials; its time is scaled up
    rng = np.random.default_rng(5)
    speakers = np.arange(recordings) // 10
    centres = rng.normal(size=(recordings // 10, 512))
    embeddings = (centres[speakers] + 3 * rng.normal(size=(recordings, 512))).astype(np.float32)
    enrol, test = rng.integers(recordings, size=(2, count))
    half = count // 2  # the first half are targets
    test[:half] = speakers[enrol[:half]] * 10 + rng.integers(10, size=half)
    targets = speakers[enrol] == speakers[test]

    def ours() -> tuple[float, float]:
        curve = ErrorCurve.of(cosine_scores(embeddings, enrol, test), targets)
        return curve.eer(), curve.min_dcf()

    scores = cosine_scores(embeddings, enrol, test)

    def naive_loop() -> object:
        return naive_metrics(embeddings, enrol[::share], test[::share])

    def naive_rates() -> tuple[float, float]:
        p_fa, hits, _ = roc_curve(targets, scores)
        p_miss = 1 - hits
        return 100 * float(p_miss[np.argmin(np.abs(p_miss - p_fa))]), float((p_miss + 99 * p_fa).min())

    np.testing.assert_allclose(ours(), naive_rates(), rtol=1e-2)
    our_times, loop_times = zip(*in_turns(ours, naive_loop, settings.pairs), strict=True)
    curve_times, roc_times = zip(
        *in_turns(lambda: ErrorCurve.of(scores, targets), naive_rates, settings.pairs), strict=True
    )
    naive_times = [share * a + b for a, b in zip(loop_times, roc_times, strict=True)]
    row = time_row(
        f"{count:,} trials scored, EER and minDCF",
        "loop over trials, scikit-learn's ROC",
        list(zip(our_times, naive_times, strict=True)),
        target=30.0,
    )
    row.most = 0.5
    product_times = in_turns(lambda: embeddings @ embeddings.T, lambda: None, settings.pairs)
    row.limit = f"all products {min(seconds for seconds, _ in product_times):.2f} s"
    yield row
    yield time_row(
        "error curve alone",
        "scikit-learn's ROC",
        list(zip(curve_times, roc_times, strict=True)),
        target=None,
        unit="ms",
    )


def _embeddings(settings: Settings) -> Row:
    """Embed utterances of 4 to 12 s (40 different lengths) on all cores."""
    count = 12 if settings.is_quick else 192
    rng = np.random.default_rng(6)
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for i in range(count):
            samples = 16_000 * 4 + 3_200 * int(40 * rng.beta(1, 2))  # short utterances are frequent
            names.append(f"{i:03d}.wav")
            soundfile.write(
                Path(folder) / names[-1], 0.1 * rng.normal(size=samples), 16_000, subtype="PCM_16"
            )
        config = load_config("configs/simclr.yml")
        model = build_model(config, CorpusSize()).eval().to(memory_format=torch.channels_last)  # as loaded
        encoder = SpeakerEncoder(model, config, (), (), "bf16")
        threads = torch.get_num_threads()
        naive_count = max(1, count // 6)
        paths = [str(Path(folder) / name) for name in names]
        with (
            Contestant("naive_embedding", has_trainer_environment=False, paths=paths[:naive_count]) as naive,
            embedding_by(encoder, len(paths), threads, None) as embed,
        ):
            pairs = in_turns(lambda: embed(names, folder), lambda: naive.run(naive_count), settings.pairs)
    return speed_row(
        "embeddings of whole utterances, bf16",
        "one at a time, fp32",
        pairs,
        count,
        "utterances/s",
        reference_amount=naive_count,
        target=3.0,
    )
