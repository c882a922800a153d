import json
import re
import time

import pytest

from sslsv.runs.display import LiveLine, describe
from sslsv.runs.folder import RunFolder

RECORD = {"step": 7, "total_steps": 40, "epoch": 1.75, "loss": 2.5, "eer": None, "seconds_left": 3725.4}


def wait_for(text, capsys, found=""):
    deadline = time.monotonic() + 10
    while text not in found and time.monotonic() < deadline:
        time.sleep(0.05)
        found += capsys.readouterr().err
    assert text in found
    return found


def test_live_line__draws_the_newest_record_and_prints_all_new_notices(tmp_path, capsys):
    folder = RunFolder(str(tmp_path), "run")
    # A record of an earlier command; some of its steps are repeated.
    folder.append_lines("metrics.jsonl", [json.dumps(RECORD | {"step": 9, "notice": "an old sentence"})])
    with LiveLine("starting") as line:
        line.follow(folder)
        time.sleep(0.6)  # time to read the file once
        line.say("a sentence [of] the command")
        noted = [
            json.dumps(RECORD | {"step": step, "notice": f"a sentence of step {step}"}) for step in (5, 6)
        ]
        folder.append_lines("metrics.jsonl", [*noted, json.dumps(RECORD), '{"step": 8, "lo'])  # incomplete
        found = wait_for("step 7", capsys)
    assert "step 7/40  epoch 1.75  loss 2.5000  1:02:05 left" in found
    assert all(f"a sentence {whom}" in found for whom in ("of step 5", "of step 6", "[of] the command"))
    assert "step 9" not in found and "old" not in found and "None" not in found


def test_live_line__names_each_stage_with_the_seconds_since_the_start(tmp_path, capsys):
    folder = RunFolder(str(tmp_path), "run")
    with LiveLine("starting Ray") as line:
        assert re.match(r"\[  [01] s\]  starting Ray$", wait_for("Ray", capsys).strip())
        line.follow(folder)
        line.stage("starting 2 training workers")
        found = wait_for("starting 2 training workers", capsys)
    assert "/" not in found and "None" not in found  # no progress is shown yet


def test_live_line__a_command_that_ends_at_once_shows_nothing(capsys):
    with LiveLine("reading the lists"):
        pass
    with LiveLine("reading the lists", is_shown=False) as line:
        time.sleep(0.7)
        line.say("a sentence")
    assert capsys.readouterr().err == "a sentence\n"


@pytest.mark.parametrize(("left", "end"), [(3725.4, "1:02:05 left"), (0.0, "tests and report")])
def test_describe__what_is_left_is_a_time_or_the_end(left, end):
    assert describe(RECORD | {"seconds_left": left}) == f"step 7/40  epoch 1.75  loss 2.5000  {end}"
