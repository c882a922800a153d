import pytest

from sslsv.prepare_data.progress_line import ProgressLine, readable_bytes, readable_seconds


def test_readable__numbers_carry_their_unit() -> None:
    assert [readable_bytes(n) for n in (0, 999, 1e3, 1.234e9, 2.7e11)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "1.23 GB",
        "270 GB",
    ]
    assert [readable_seconds(n) for n in (0.4, 59, 61, 3723)] == ["0 s", "59 s", "1:01", "1:02:03"]


def test_progress_line__counts_what_was_there_as_done_but_not_as_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("sslsv.prepare_data.progress_line.time.monotonic", lambda: now[0])
    with ProgressLine("convert x", 1000, already_done=600) as progress:
        now[0] = 10.0
        progress.add(100)
        assert progress.describe() == "convert x: 700 of 1,000, 10 files/s, 30 s left"


def test_progress_line__speaks_in_a_log_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("sslsv.prepare_data.progress_line.time.monotonic", lambda: now[0])
    with ProgressLine("download x", None, "bytes") as progress:
        for now[0] in (1.0, 29.0, 31.0, 40.0, 62.0):
            progress.add(1_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "download x: 3 MB, 96.8 kB/s",
        "download x: 5 MB, 80.6 kB/s",
    ]
