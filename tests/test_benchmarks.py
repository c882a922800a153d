"""What benchmarks refuse, and what they take for measured; nothing is measured here."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import learning

CONFIGS = Path(__file__).parent.parent / "configs/corpus"


def test_plain_configs__loops_and_runs_of_another_encoder_are_left_out() -> None:
    names = {path.stem for path in learning.plain_configs(CONFIGS)}
    assert names == {path.stem for path in CONFIGS.glob("*.yml")} - {"pseudo_label", "label_efficient"}


def test_learning__a_mistake_in_a_config_is_a_sentence(monkeypatch, tmp_path, capsys) -> None:
    loop = str(CONFIGS / "pseudo_label.yml")
    arguments = ["--corpus", str(tmp_path), "--out", str(tmp_path / "out.jsonl"), "--configs", loop]
    monkeypatch.setattr(sys, "argv", ["learning", *arguments])
    assert learning.main() == 2
    assert capsys.readouterr().err == f"error: {loop}: init is not a setting; did you mean encoder.init?\n"


class OneEpoch:
    """In place of a plan, which takes a corpus."""

    needs_labels = False

    def epochs_in(self, minutes: float, step_ms: float) -> int:
        return 1


@pytest.mark.parametrize(
    ("change", "is_done"),
    [({}, True), ({"threads": 2}, False), ({"overrides": []}, False), ({"overrides": ["seed=2"]}, False)],
)
def test_learning__a_result_of_other_settings_is_none_of_these(
    monkeypatch, tmp_path, capsys, change, is_done
) -> None:
    out, same = tmp_path / "out.jsonl", {"config": "a.yml", "threads": 1, "overrides": ["seed=1"]}
    result = {"seed": 1717, "epochs": 1, "tests": {}, **same, **change}
    learning.append(out, {"measured_ms": 5.0, **same})
    learning.append(out, result)
    arguments = ["seed=1", "--corpus", str(tmp_path), "--out", str(out), "--configs", "a.yml"]
    monkeypatch.setattr(sys, "argv", ["learning", *arguments])
    monkeypatch.setattr(learning, "plan_of", lambda path, given: OneEpoch())
    monkeypatch.setattr(learning, "trained", lambda *given: {"error": "it was trained"})
    for name in ("table", "ranking"):
        monkeypatch.setattr(learning, name, lambda lines: f"{len(lines)} lines")
    assert learning.main() == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert ("error" in lines[-1]) != is_done
    assert capsys.readouterr().out.startswith("1 lines" if is_done else "0 lines")
    assert {key: lines[-1][key] for key in same} == same
