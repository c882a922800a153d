import json
import time

from sslsv.runs.display import live_display
from sslsv.runs.folder import RunFolder

RECORD = {"step": 7, "total_steps": 40, "epoch": 1.75, "loss": 2.5, "eer": None, "seconds_left": 3725.4}


def test_live_display__draws_the_newest_record_and_prints_all_new_notices(tmp_path, capsys):
    folder = RunFolder(str(tmp_path), "run")
    # An earlier command has left this; some of its steps are done again.
    folder.append_lines("metrics.jsonl", [json.dumps(RECORD | {"step": 9, "notice": "an old sentence"})])
    with live_display(folder, is_shown=True) as notice:
        time.sleep(0.6)  # it has looked once
        notice("a sentence of the command")
        noted = [
            json.dumps(RECORD | {"step": step, "notice": f"a sentence of step {step}"}) for step in (5, 6)
        ]
        folder.append_lines("metrics.jsonl", [*noted, json.dumps(RECORD), '{"step": 8, "lo'])  # being written
        found, deadline = "", time.monotonic() + 5
        while "step 7" not in found and time.monotonic() < deadline:
            time.sleep(0.05)
            found += capsys.readouterr().err
    assert "step 7/40  epoch 1.75  loss 2.5000  1:02:05 left" in found
    assert all(f"a sentence of {whom}" in found for whom in ("step 5", "step 6", "the command"))
    assert "step 9" not in found and "old" not in found
