import tracemalloc

import numpy as np
import pytest

from sslsv.evaluation import scoring
from sslsv.evaluation.scoring import cosine_scores, normalise_scores


def random_trials(num_rows: int, num_trials: int, dim: int = 24) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(num_rows, dim)).astype(np.float32)
    return embeddings, *generator.integers(num_rows, size=(2, num_trials))


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("size", [7, 512])
@pytest.mark.parametrize("num_enrolled", [60, 12], ids=["both sides alike", "few enrolled"])
def test_cosine_scores__equal_the_definition(monkeypatch, path: str, size: int, num_enrolled: int) -> None:
    monkeypatch.setattr(scoring, "GEMM_ADVANTAGE", 0 if path == "sparse" else 10**9)
    monkeypatch.setattr(scoring, "TILE_ELEMENTS", 8 * size)
    embeddings, enrol, test = random_trials(60, 500)
    enrol %= num_enrolled
    scores = cosine_scores(embeddings, enrol, test)
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, (unit[enrol] * unit[test]).sum(axis=1), atol=1e-6)


def test_cosine_scores__of_zeros_are_zero() -> None:
    embeddings = np.array([[0, 0], [1, 2], [0, 0]])
    assert cosine_scores(embeddings, [0, 1, 0], [1, 1, 2]).tolist() == pytest.approx([0, 1, 0])


def test_cosine_scores__stay_between_minus_one_and_one() -> None:
    embeddings, enrol, _ = random_trials(300, 3000)
    both = np.concatenate((embeddings, -embeddings))
    assert cosine_scores(both, enrol, enrol).max() <= 1
    assert cosine_scores(both, enrol, enrol + 300).min() >= -1


@pytest.mark.parametrize(
    ("num_rows", "dim", "most_bytes"),
    [
        pytest.param(20_000, 16, 100e6, id="few of all pairs"),  # scores of all pairs would take 1.6 GB
        pytest.param(1_000, 256, 60e6, id="many of all pairs"),  # the rows of all trials would take 205 MB
    ],
)
def test_cosine_scores__need_little_memory(num_rows: int, dim: int, most_bytes: float) -> None:
    trials = random_trials(num_rows, 100_000, dim)
    tracemalloc.start()
    cosine_scores(*trials)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most_bytes


def test_cosine_scores__of_a_diverged_model_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 embeddings are not finite, the first is row 1"):
        cosine_scores([[1.0], [float("nan")]], [0], [1])


def on_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def norm_case() -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(0)
    embeddings, cohort = generator.normal(size=(30, 8)), generator.normal(size=(50, 8))
    enrol, test = generator.integers(30, size=(2, 200))
    return cosine_scores(embeddings, enrol, test), embeddings, enrol, test, cohort


def slow_scores(kind: str, scores, embeddings, enrol, test, cohort, top) -> list[float]:
    def normalised(score: float, row: np.ndarray) -> float:
        cosines = sorted(row @ other / np.linalg.norm(row) / np.linalg.norm(other) for other in cohort)
        highest = cosines[-top:] if kind == "as" else cosines
        return (score - np.mean(highest)) / np.std(highest)

    def of_trial(score: float, a: np.ndarray, b: np.ndarray) -> float:
        sides = {"z": [a], "t": [b]}.get(kind, [a, b])
        return float(np.mean([normalised(score, row) for row in sides]))

    return [of_trial(s, embeddings[a], embeddings[b]) for s, a, b in zip(scores, enrol, test, strict=True)]


@pytest.mark.parametrize("kind", ["z", "t", "s", "as"])
@pytest.mark.parametrize("top", [7, 20])
@pytest.mark.parametrize("tile_elements", [60, 4_000_000])
def test_normalise_scores__equal_the_definition(monkeypatch, kind, top: int, tile_elements: int) -> None:
    monkeypatch.setattr(scoring, "TILE_ELEMENTS", tile_elements)
    case = norm_case()
    found = normalise_scores(kind, *case, top)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, slow_scores(kind, *case, top), atol=1e-5)


def test_normalise_scores__of_a_cohort_no_larger_than_top_is_s_norm() -> None:
    case = norm_case()
    expected = normalise_scores("s", *case)
    for top in (50, 51, 300):
        np.testing.assert_array_equal(normalise_scores("as", *case, top), expected)
    assert not np.allclose(normalise_scores("as", *case, 49), expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cohort": on_circle(10)}, "The cohort has 1 rows"),
        ({"kind": "as", "top": 1}, r"top is 1; 1 value\(s\) have no standard deviation"),
        (
            {"cohort": on_circle(45, 45, 45)},
            "2 of 2 recordings are equally close to all of the 3 cohort rows",
        ),
        ({"cohort": np.full((3, 2), np.nan)}, "3 of 3 embeddings are not finite"),
    ],
)
def test_normalise_scores__say_what_is_wrong(changes, sentence: str) -> None:
    case = {"kind": "s", "scores": [0.9], "embeddings": on_circle(0, 30), "enrol": [0], "test": [1]}
    with pytest.raises(ValueError, match=sentence):
        normalise_scores(**{**case, "cohort": on_circle(10, 60, 90), **changes})
