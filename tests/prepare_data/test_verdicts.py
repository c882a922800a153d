from typing import Any

import numpy as np
import pyarrow as pa

from sslsv.prepare_data.measurements import SCHEMA
from sslsv.prepare_data.verdicts import KINDS, Limits, describe, judge, summarize

GOOD = {
    "size": 1,
    "mtime_ns": 1,
    "seconds": 3.0,
    "sample_rate": 16_000,
    "channels": 1,
    "encoding": "WAV PCM_16",
    "peak_db": -3.0,
    "level_db": -20.0,
    "silent_share": 0.1,
    "clipped_share": 0.0,
    "dc_offset": 0.0,
}


def table_of(*changes: dict[str, Any]) -> pa.Table:
    rows = [{**GOOD, "path": f"/{i}", "digest": f"d{i}", **change} for i, change in enumerate(changes)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def verdicts(table: pa.Table, *preferred: int) -> dict[str, list[int]]:
    is_preferred = np.isin(np.arange(len(table)), preferred)
    judged = judge(table, Limits(), is_preferred, np.ones(len(table), dtype=bool))
    found = {kind: np.flatnonzero(judged[kind].to_numpy()).tolist() for kind in KINDS}
    bad = sorted({i for rows in found.values() for i in rows})
    assert np.flatnonzero(judged["is_bad"].to_numpy()).tolist() == bad
    return found


def test_judge__each_limit_has_its_verdict() -> None:
    unreadable = {name: None for name in GOOD if name not in ("size", "mtime_ns")}
    table = table_of(
        {},
        {**unreadable, "digest": None, "error": "why"},
        {"seconds": 0.9},
        {"silent_share": 0.96},
        {"clipped_share": 0.02},
        {"dc_offset": -0.2},
        {"digest": "d0"},
        {**unreadable, "digest": None, "error": "why"},
    )
    assert verdicts(table) == {
        "is_unreadable": [1, 7],
        "is_short": [2],
        "is_silent": [3],
        "is_clipped": [4],
        "is_offset": [5],
        "is_duplicate": [6],
    }


def test_judge__of_the_same_audio_the_preferred_or_first_stays() -> None:
    table = table_of({"digest": "x"}, {}, {"digest": "x"}, {"digest": "x"})
    assert verdicts(table)["is_duplicate"] == [2, 3]
    judged = judge(table, Limits(), np.array([False, False, True, False]), np.ones(4, dtype=bool))
    assert judged["duplicate_of"].to_pylist() == ["/2", None, None, "/2"]


def test_judge__noises_and_rooms_only_have_to_be_readable() -> None:
    table = table_of(
        {"seconds": 0.1, "silent_share": 1.0}, {"digest": "d0"}, {"digest": None, "error": "why"}
    )
    judged = judge(table, Limits(), np.zeros(3, dtype=bool), np.zeros(3, dtype=bool))
    assert judged["is_bad"].to_pylist() == [False, False, True]
    assert judged["duplicate_of"].null_count == 3


def test_summarize__counts_and_the_worst_first() -> None:
    table = table_of({"seconds": 0.8}, {}, {"seconds": 0.2, "sample_rate": 8000}, {"dc_offset": -0.3})
    summary = summarize(judge(table, Limits(), np.zeros(4, dtype=bool), np.ones(4, dtype=bool)), Limits())
    assert (summary["files"], summary["bad_files"]) == (4, 3)
    assert summary["worst"]["is_short"] == [["/2", 0.2], ["/0", 0.8]]
    assert summary["sample_rates"] == {"16000": 3, "8000": 1}
    assert summary["seconds"]["max"] == 3.0 and summary["limits"]["min_seconds"] == 1.0
    text = "\n".join(describe(summary))
    assert "4 files, 7 s of audio, 3 bad" in text and "/2: seconds 0.2" in text and "dc_offset -0.3" in text


def test_summarize__nothing_readable_is_no_error() -> None:
    nothing = {name: None for name in GOOD if name not in ("size", "mtime_ns")}
    table = table_of({**nothing, "digest": None, "error": "/0 is empty"})
    summary = summarize(judge(table, Limits(), np.zeros(1, dtype=bool), np.ones(1, dtype=bool)), Limits())
    assert summary["bad_files"] == 1 and summary["hours"] == 0.0
    assert "  /0 is empty" in describe(summary)
