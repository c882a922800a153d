import tracemalloc

import numpy as np
import pytest

from sslsv.evaluation import scoring
from sslsv.evaluation.scoring import cosine_scores, dot_scores


def slow_cosines(embeddings: np.ndarray, enrol: np.ndarray, test: np.ndarray) -> list[float]:
    rows = embeddings.astype(np.float64)
    return [
        float(rows[a] @ rows[b] / (np.linalg.norm(rows[a]) * np.linalg.norm(rows[b])))
        for a, b in zip(enrol, test, strict=True)
    ]


def random_trials(num_rows: int, num_trials: int, dim: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(num_rows, dim)).astype(np.float32)
    return (
        embeddings,
        generator.integers(num_rows, size=num_trials),
        generator.integers(num_rows, size=num_trials),
    )


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("size", [7, 512])
@pytest.mark.parametrize("num_enrolled", [60, 12], ids=["both sides alike", "few enrolled"])
def test_cosine_scores__equal_the_definition(monkeypatch, path: str, size: int, num_enrolled: int) -> None:
    monkeypatch.setattr(scoring, "GEMM_ADVANTAGE", 0 if path == "sparse" else 10**9)
    monkeypatch.setattr(scoring, "TILE_ROWS", size)
    monkeypatch.setattr(scoring, "TILE_ELEMENTS", 8 * size)
    embeddings, enrol, test = random_trials(60, 500)
    enrol %= num_enrolled
    scores = cosine_scores(embeddings, enrol, test)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, slow_cosines(embeddings, enrol, test), atol=1e-6)


def test_cosine_scores__of_many_more_rows_than_a_tile_has(monkeypatch) -> None:
    monkeypatch.setattr(scoring, "GEMM_ADVANTAGE", 10**9)
    embeddings, enrol, test = random_trials(9000, 20_000, dim=4)
    expected = slow_cosines(embeddings, enrol, test)
    np.testing.assert_allclose(cosine_scores(embeddings, enrol, test), expected, atol=1e-6)


def test_cosine_scores__of_the_same_recordings_on_both_sides_take_half_the_products(monkeypatch) -> None:
    monkeypatch.setattr(scoring, "TILE_ROWS", 10)
    tiles = []
    matmul = np.matmul
    monkeypatch.setattr(np, "matmul", lambda *sides, out: tiles.append(out.size) or matmul(*sides, out=out))
    embeddings, enrol, test = random_trials(100, 5_000)
    cosine_scores(embeddings, enrol, test)
    assert sum(tiles) == 100 * 110 / 2
    tiles.clear()
    cosine_scores(embeddings, enrol % 10, test)  # these are a tile of their own
    assert sum(tiles) == 10 * 100


@pytest.mark.parametrize(("num_rows", "is_dense"), [(30, True), (3000, False)])
def test_cosine_scores__take_the_cheaper_way(monkeypatch, num_rows: int, is_dense: bool) -> None:
    def forbidden(*arguments: object) -> None:
        raise AssertionError("the dearer way was taken")

    monkeypatch.setattr(scoring, "_sparse" if is_dense else "_dense", forbidden)
    cosine_scores(*random_trials(num_rows, 1000))


def test_cosine_scores__of_zeros_are_zero() -> None:
    embeddings = np.array([[0, 0], [1, 2], [0, 0]])
    assert cosine_scores(embeddings, [0, 1, 0], [1, 1, 2]).tolist() == pytest.approx([0, 1, 0])


def test_cosine_scores__do_not_depend_on_the_length_of_embeddings() -> None:
    embeddings, enrol, test = random_trials(20, 100)
    scales = np.logspace(-30, 30, 20, dtype=np.float32)[:, None]
    scaled = cosine_scores(embeddings * scales, enrol, test)
    np.testing.assert_allclose(scaled, cosine_scores(embeddings, enrol, test), atol=1e-6)


def test_cosine_scores__stay_between_minus_one_and_one() -> None:
    embeddings, enrol, _ = random_trials(300, 3000)
    assert cosine_scores(embeddings, enrol, enrol).max() <= 1
    both = np.concatenate((embeddings, -embeddings))
    assert cosine_scores(both, enrol, enrol + 300).min() >= -1


def test_cosine_scores__do_not_build_the_matrix_of_all_pairs() -> None:
    embeddings, enrol, test = random_trials(20_000, 100_000, dim=16)
    tracemalloc.start()
    cosine_scores(embeddings, enrol, test)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # all pairs would be 1.6 GB


def test_cosine_scores__of_no_trials_are_empty() -> None:
    assert cosine_scores(np.ones((2, 3)), [], []).shape == (0,)


@pytest.mark.parametrize(
    ("embeddings", "enrol", "test", "sentence"),
    [
        ([[1.0], [float("nan")]], [0], [1], "1 of 2 embeddings are not finite, the first is row 1"),
        ([[1.0], [2.0]], [0], [2], "test has row numbers from 2 to 2, but there are 2 embeddings"),
        ([[1.0], [2.0]], [-1], [0], "enrol has row numbers from -1 to -1"),
        ([[1.0], [2.0]], [0, 1], [0], "2 enrol indices but 1 test ones"),
        ([1.0, 2.0], [0], [1], r"embeddings have shape \(2,\)"),
        ([[1.0], [2.0]], [0.5], [1], "type float64"),
    ],
)
def test_cosine_scores__say_what_is_wrong(embeddings, enrol, test, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        cosine_scores(embeddings, enrol, test)


def test_cosine_scores__choose_tiles_for_a_million_trials_of_five_thousand_recordings(monkeypatch):
    """25 trials' worth of cells each: gathering their rows took twice the time of the whole matrix."""
    monkeypatch.setattr(scoring, "_sparse", lambda *_: pytest.fail("rows were gathered"))
    rng = np.random.default_rng(3)
    enrol, test = rng.integers(100, size=(2, 400))
    cosine_scores(rng.normal(size=(100, 8)), enrol, test)


@pytest.mark.parametrize("advantage", [0, 10**9], ids=["sparse", "dense"])
def test_dot_scores__are_products_without_normalisation_in_bounded_memory(monkeypatch, advantage) -> None:
    monkeypatch.setattr(scoring, "GEMM_ADVANTAGE", advantage)
    embeddings, enrol, test = random_trials(600, 100_000, dim=256)
    tracemalloc.start()
    scores = dot_scores(embeddings, enrol, test)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6  # the rows of all trials at once would be 205 MB
    expected = [float(embeddings[a] @ embeddings[b]) for a, b in zip(enrol[:99], test[:99], strict=True)]
    np.testing.assert_allclose(scores[:99], expected, atol=1e-3)
