"""Which measured recordings are bad, and the summary of them for people and programs."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sslsv.prepare_data.inspection import SILENCE_DB
from sslsv.prepare_data.progress_line import readable_seconds

Mask = npt.NDArray[np.bool_]

_SHOWN = 5  # worst files of a kind


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is still good; see `sslsv.prepare_data.measurements.SCHEMA` for what is measured."""

    min_seconds: float = 1.0
    max_silent_share: float = 0.95
    max_clipped_share: float = 0.01
    max_dc_offset: float = 0.1  # of full scale, either sign


# Column of the verdict: what it says, the column that shows how bad it is, and whether more of it is worse.
KINDS = {
    "is_unreadable": ("unreadable", "error", True),
    "is_short": ("too short", "seconds", False),
    "is_silent": ("silent", "silent_share", True),
    "is_clipped": ("clipped", "clipped_share", True),
    "is_offset": ("with a constant offset", "dc_offset", True),
    "is_duplicate": ("the same audio as another", "duplicate_of", True),
}


def judge(measured: pa.Table, limits: Limits, is_preferred: Mask, is_speech: Mask) -> pa.Table:
    """Return the table with a column for each verdict of KINDS, `duplicate_of` and `is_bad`.

    Of recordings with the same samples all but one are duplicates: a preferred one (N,), else the first.
    What is no speech (N,), such as noises and rooms, only has to be readable.
    """
    columns = {
        "is_unreadable": measured["digest"].is_null(),
        "is_short": pc.less(measured["seconds"], limits.min_seconds),
        "is_silent": pc.greater(measured["silent_share"], limits.max_silent_share),
        "is_clipped": pc.greater(measured["clipped_share"], limits.max_clipped_share),
        "is_offset": pc.greater(pc.abs(measured["dc_offset"]), limits.max_dc_offset),
    }
    masks: dict[str, Mask] = {
        name: pc.fill_null(column, False).to_numpy(zero_copy_only=False) for name, column in columns.items()
    }
    original = np.where(is_speech, _originals(measured["digest"], is_preferred), -1)
    masks["is_duplicate"] = original >= 0
    for name in ("is_short", "is_silent", "is_clipped", "is_offset"):
        masks[name] = masks[name] & is_speech
    paths = measured["path"].combine_chunks()
    duplicate_of = paths.take(pa.array(original, mask=original < 0))
    for name, mask in masks.items():
        measured = measured.append_column(name, pa.array(mask))
    is_bad = np.logical_or.reduce(list(masks.values()))
    return measured.append_column("duplicate_of", duplicate_of).append_column("is_bad", pa.array(is_bad))


def summarize(judged: pa.Table, limits: Limits) -> dict[str, Any]:
    """Return counts, durations and the worst recordings of each kind, ready for JSON."""
    seconds = judged["seconds"].drop_null().to_numpy()
    quantiles = np.quantile(seconds, [0.0, 0.05, 0.5, 0.95, 1.0]).tolist() if len(seconds) else []
    return {
        "files": len(judged),
        "bad_files": int(pc.sum(judged["is_bad"]).as_py() or 0),
        "hours": float(seconds.sum() / 3600),
        "bad": {kind: int(pc.sum(judged[kind]).as_py() or 0) for kind in KINDS},
        "worst": {kind: _worst(judged, kind) for kind in KINDS},
        "seconds": dict(zip(["min", "p05", "median", "p95", "max"], quantiles, strict=False)),
        "sample_rates": _counts(judged["sample_rate"]),
        "channels": _counts(judged["channels"]),
        "encodings": _counts(judged["encoding"]),
        "limits": {**asdict(limits), "silence_db": SILENCE_DB},
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """Return the summary as lines to read, the worst recordings of each kind among them."""
    lines = [
        f"{summary['files']} files, {readable_seconds(3600 * summary['hours'])} of audio, "
        f"{summary['bad_files']} bad"
    ]
    if summary["seconds"]:
        lengths = summary["seconds"]
        lines.append(
            f"seconds: {lengths['min']:.2f} to {lengths['max']:.2f}, median {lengths['median']:.2f}, "
            f"nine of ten from {lengths['p05']:.2f} to {lengths['p95']:.2f}"
        )
    for name in ("sample_rates", "channels", "encodings"):
        lines.append(
            f"{name.replace('_', ' ')}: " + ", ".join(f"{k} ({n})" for k, n in summary[name].items())
        )
    for kind, (what, column, _) in KINDS.items():
        if summary["bad"][kind]:
            lines.append(f"{summary['bad'][kind]} {what}:")
            for path, value in summary["worst"][kind]:
                shown = f"{column} {value:.3g}" if isinstance(value, float) else value
                lines.append(f"  {shown}" if column == "error" else f"  {path}: {shown}")
            if summary["bad"][kind] > len(summary["worst"][kind]):
                lines.append("  ...")
    return lines


def to_json(summary: dict[str, Any]) -> str:
    """Return the summary as indented JSON."""
    return json.dumps(summary, indent=2) + "\n"


def _originals(digests: pa.ChunkedArray, is_preferred: Mask) -> npt.NDArray[np.int64]:
    """For each recording the one that it repeats, or -1."""
    # By sorting: for a million different digests a hash table takes 250 MB.
    order = pc.sort_indices(digests).to_numpy()
    following = digests.take(order)
    is_new = pc.fill_null(pc.not_equal(following.slice(1), following.slice(0, len(order) - 1)), True)
    codes = np.zeros(len(order), dtype=np.int64)
    codes[order[1:]] = np.cumsum(is_new.to_numpy())
    order = np.lexsort([np.arange(len(codes)), ~is_preferred, codes])
    is_first = np.append(True, np.diff(codes[order]) != 0)[: len(order)]
    firsts = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    originals = np.full(len(order), -1, dtype=np.int64)
    originals[order[~is_first]] = firsts[~is_first]
    return originals


def _worst(judged: pa.Table, kind: str) -> list[list[Any]]:
    _, column, is_more_worse = KINDS[kind]
    bad = judged.filter(judged[kind]).select(["path", column])
    if pa.types.is_floating(bad[column].type):
        amount = pc.abs(bad[column])
        order = pc.sort_indices(amount, sort_keys=[("", "descending" if is_more_worse else "ascending")])
        bad = bad.take(order)
    return [list(row) for row in zip(*bad.slice(0, _SHOWN).to_pydict().values(), strict=True)]


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counted = column.drop_null().value_counts().to_pylist()
    return {str(row["values"]): row["counts"] for row in sorted(counted, key=lambda row: -row["counts"])}
