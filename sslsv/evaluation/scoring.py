"""Scores of trials from embeddings."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

TILE_ROWS = 512  # of either side of a matrix product, whose scores stay in the cache
TILE_ELEMENTS = 4_000_000  # values of float32 work space at a time: 16 MB
# A product inside a matrix product is this much cheaper than one whose rows are first gathered from all over.
GEMM_ADVANTAGE = 64


def cosine_scores(embeddings: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> Floats:
    """Cosine similarity `(T,)` in [-1, 1] of rows `enrol[t]` and `test[t]` of the embeddings `(N, D)`.

    An embedding of zeros scores 0 with everything. Work space beyond normalised copies of the embeddings is
    bounded. Raises ValueError for indices out of range and embeddings that are not finite.
    """
    scores = dot_scores(unit_rows(_rows_of(embeddings)), enrol, test)
    return np.clip(scores, -1, 1, out=scores)


def dot_scores(embeddings: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> Floats:
    """Dot product `(T,)` of rows `enrol[t]` and `test[t]` of the embeddings `(N, D)`, in bounded work space.

    Raises ValueError for indices out of range.
    """
    rows = _rows_of(embeddings)
    first, second = checked_rows(enrol, len(rows), "enrol"), checked_rows(test, len(rows), "test")
    if len(first) != len(second):
        raise ValueError(
            f"There are {len(first)} enrol indices but {len(second)} test ones; a trial has both."
        )
    if not len(first):
        return np.zeros(0, dtype=np.float32)
    all_used, all_at = _used_rows(np.concatenate((first, second)), len(rows))
    firsts, first_at = _used_rows(first, len(rows))
    seconds, second_at = _used_rows(second, len(rows))
    # A trial scores the same either way round: for the same recordings on both sides, half the products do.
    cells = len(firsts) * len(seconds)
    is_folded = len(all_used) ** 2 < 2 * cells
    if is_folded:
        firsts = seconds = all_used
        one, other = all_at[: len(first)], all_at[len(first) :]
        first_at, second_at = np.maximum(one, other), np.minimum(one, other)
        cells = len(all_used) ** 2 // 2
    if cells > GEMM_ADVANTAGE * len(first):
        return _sparse(rows, first, second)
    enrolled = rows[firsts]
    tested = enrolled if is_folded else rows[seconds]
    return _dense(enrolled, tested, first_at, second_at)


def _rows_of(embeddings: ArrayLike) -> Floats:
    rows = np.asarray(embeddings, dtype=np.float32)
    if rows.ndim != 2:
        raise ValueError(f"embeddings have shape {rows.shape}; they must be (N, D), one row per utterance.")
    return rows


def _used_rows(indices: Rows, num_rows: int) -> tuple[Rows, NDArray[np.int32]]:
    """The rows that occur, rising, and the place among them of every index; `np.unique` without its sort."""
    is_used = np.zeros(num_rows, dtype=bool)
    is_used[indices] = True
    places = np.cumsum(is_used, dtype=np.int32) - 1
    return np.flatnonzero(is_used), places[indices]


def _dense(
    enrolled: Floats, tested: Floats, first_at: NDArray[np.int32], second_at: NDArray[np.int32]
) -> Floats:
    """Matrix products of tiles of enrolment and test rows, from which the trials are picked."""
    num_columns = -(-len(tested) // TILE_ROWS)
    tile = first_at // TILE_ROWS * num_columns + second_at // TILE_ROWS
    if -(-len(enrolled) // TILE_ROWS) * num_columns <= 2**16:
        tile = tile.astype(np.uint16)  # sorted by digits: ten times as fast
    order = np.argsort(tile, kind="stable")  # so that each tile's trials are neighbours
    cells = (first_at % TILE_ROWS * TILE_ROWS + second_at % TILE_ROWS)[order]
    products = np.empty((TILE_ROWS, TILE_ROWS), dtype=np.float32)
    picked = np.empty(len(order), dtype=np.float32)
    stops = np.cumsum(np.bincount(tile))
    for number in np.flatnonzero(np.diff(stops, prepend=0)):
        members = slice(stops[number - 1] if number else 0, stops[number])
        row, column = divmod(int(number), num_columns)
        left, right = (
            side[at * TILE_ROWS : (at + 1) * TILE_ROWS] for side, at in ((enrolled, row), (tested, column))
        )
        np.matmul(left, right.T, out=products[: len(left), : len(right)])
        picked[members] = products.ravel()[cells[members]]
    scores = np.empty_like(picked)
    scores[order] = picked
    return scores


def _sparse(rows: Floats, first: Rows, second: Rows) -> Floats:
    """Dot products of gathered rows, some thousand trials at a time."""
    scores = np.empty(len(first), dtype=np.float32)
    chunk = max(1, TILE_ELEMENTS // (2 * rows.shape[1]))
    for start in range(0, len(first), chunk):
        part = slice(start, start + chunk)
        scores[part] = np.einsum("td,td->t", rows[first[part]], rows[second[part]])
    return scores


def unit_rows(rows: Floats) -> Floats:
    """Rows (N, D) of length 1, float32; zeros stay zeros. Raises ValueError for rows that are not finite."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        wrong = np.flatnonzero(~np.isfinite(largest[:, 0]))
        raise ValueError(
            f"{len(wrong)} of {len(rows)} embeddings are not finite, the first is row {wrong[0]}; the model "
            "may have diverged."
        )
    # Squares of large values would overflow, so the largest is made 1 first.
    scaled = rows / np.where(largest > 0, largest, 1)
    scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1)  # at least 1 unless all are zero
    return np.asarray(scaled, dtype=np.float32)


def checked_rows(indices: ArrayLike, num_rows: int, name: str, content: str = "embeddings") -> Rows:
    """Row numbers (T,) as int64, or a ValueError: NumPy would take negative ones from the end."""
    rows = np.asarray(indices)
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise ValueError(f"{name} has shape {rows.shape} and type {rows.dtype}; it must be (T,) row numbers.")
    if rows.size and (rows.min() < 0 or rows.max() >= num_rows):
        raise ValueError(
            f"{name} has row numbers from {rows.min()} to {rows.max()}, but there are {num_rows} {content}; "
            f"they must be from 0 to {num_rows - 1}."
        )
    return rows.astype(np.int64)
