import json
import time

import pytest

from sslsv.runs import display
from sslsv.runs.display import live_display
from sslsv.runs.folder import RunFolder

RECORD = {"step": 7, "total_steps": 40, "epoch": 1.75, "loss": 2.5, "eer": None, "seconds_left": 3725.4}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    # An earlier command has left these.
    folder.append_lines("metrics.jsonl", [json.dumps(RECORD | {"step": 3})])
    folder.notice("an old sentence")
    return folder


def shown(capsys, words):
    """What stands on the terminal as soon as it holds some words, or after five seconds."""
    found, deadline = "", time.monotonic() + 5
    while words not in found and time.monotonic() < deadline:
        time.sleep(0.05)
        found += capsys.readouterr().err
    return found


def test_live_display__draws_the_newest_record_and_prints_new_notices(folder, capsys):
    with live_display(folder, is_shown=True) as notice:
        time.sleep(0.6)  # it has looked once
        folder.notice("a sentence of\na worker")
        notice("a sentence of the command")
        folder.append_lines("metrics.jsonl", [json.dumps(RECORD), '{"step": 8, "lo'])  # being written
        found = shown(capsys, "step 7")
    assert "step 7/40  epoch 1.75  loss 2.5000  1:02:05 left" in found
    assert "a sentence of a worker" in found and "a sentence of the command" in found
    assert "step 3" not in found and "old" not in found


@pytest.mark.parametrize(("has_record", "where"), [(False, "the first step"), (True, "a step after 7")])
def test_live_display__says_that_nothing_moves_even_where_no_line_is_wanted(
    has_record, where, folder, capsys, monkeypatch
):
    monkeypatch.setattr(display, "SILENCE_SECONDS", 0.8)
    with live_display(folder, is_shown=False):
        if has_record:
            time.sleep(0.2)
            folder.append_lines("metrics.jsonl", [json.dumps(RECORD)])
        assert f"still waiting for {where}, for 1 s now" in shown(capsys, where)
    assert "loss" not in capsys.readouterr().err
