"""Scores of trials from embeddings."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

TILE_ELEMENTS = 4_000_000  # values of float32 work space at a time: 16 MB
# A product inside a matrix product is this much cheaper than one whose rows are first gathered from all over.
GEMM_ADVANTAGE = 64


def cosine_scores(embeddings: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> Floats:
    """Cosine similarity `(T,)` in [-1, 1] of rows `enrol[t]` and `test[t]` of the embeddings `(N, D)`.

    An embedding of zeros scores 0 with everything. Work space beyond a normalised copy of the embeddings is
    bounded. Raises ValueError for indices out of range and embeddings that are not finite.
    """
    rows = np.asarray(embeddings, dtype=np.float32)
    if rows.ndim != 2:
        raise ValueError(f"embeddings have shape {rows.shape}; they must be (N, D), one row per utterance.")
    first, second = checked_rows(enrol, len(rows), "enrol"), checked_rows(test, len(rows), "test")
    if len(first) != len(second):
        raise ValueError(
            f"There are {len(first)} enrol indices but {len(second)} test ones; a trial has both."
        )
    if not len(first):
        return np.zeros(0, dtype=np.float32)
    unit = unit_rows(rows)
    firsts, first_at = _used_rows(first, len(rows))
    seconds, second_at = _used_rows(second, len(rows))
    if len(firsts) * len(seconds) <= GEMM_ADVANTAGE * len(first):
        scores = _dense(unit, firsts, seconds, first_at, second_at)
    else:
        scores = _sparse(unit, first, second)
    return np.clip(scores, -1, 1, out=scores)


def _used_rows(indices: NDArray[np.int64], num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that occur, rising, and the place among them of every index; `np.unique` without its sort."""
    is_used = np.zeros(num_rows, dtype=bool)
    is_used[indices] = True
    return np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[indices]


def _dense(
    unit: Floats,
    firsts: NDArray[np.int64],
    seconds: NDArray[np.int64],
    first_at: NDArray[np.int64],
    second_at: NDArray[np.int64],
) -> Floats:
    """Matrix products of tiles of enrolment and test rows, from which the trials are picked."""
    scores = np.empty(len(first_at), dtype=np.float32)
    width = min(len(seconds), 4096)
    height = max(1, TILE_ELEMENTS // max(width, unit.shape[1]))
    # Trials in the order of their tiles, so that each tile's are neighbours.
    num_columns = -(-len(seconds) // width)
    tile = first_at // height * num_columns + second_at // width
    if int(tile.max()) < 2**16:
        tile = tile.astype(np.uint16)  # sorted by digits: ten times as fast
    order = np.argsort(tile, kind="stable")
    starts = 1 + np.flatnonzero(np.diff(tile[order]))
    for members in np.split(order, starts):
        row, column = divmod(int(tile[members[0]]), num_columns)
        top, left = row * height, column * width
        product = unit[firsts[top : top + height]] @ unit[seconds[left : left + width]].T
        scores[members] = product[first_at[members] - top, second_at[members] - left]
    return scores


def _sparse(unit: Floats, first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
    """Dot products of gathered rows, some thousand trials at a time."""
    scores = np.empty(len(first), dtype=np.float32)
    chunk = max(1, TILE_ELEMENTS // (2 * unit.shape[1]))
    for start in range(0, len(first), chunk):
        part = slice(start, start + chunk)
        scores[part] = np.einsum("td,td->t", unit[first[part]], unit[second[part]])
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


def checked_rows(
    indices: ArrayLike, num_rows: int, name: str, content: str = "embeddings"
) -> NDArray[np.int64]:
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
