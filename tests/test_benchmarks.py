"""Test which requests benchmarks refuse and which results they reuse; nothing is measured here."""

import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from benchmarks import __main__ as benchmarks_main
from benchmarks import clustering, encoders, gates, learning, ray_units
from benchmarks.command import memory_bytes
from benchmarks.row import Settings
from sslsv.config import load_config
from sslsv.data import pipeline
from sslsv.data.lists import Manifest

CONFIGS = Path(__file__).parent.parent / "configs/corpus"


def test_plain_configs__loops_and_runs_of_another_encoder_are_left_out() -> None:
    names = {path.stem for path in learning.plain_configs(CONFIGS)}
    left_out = {"pseudo_label", "statistics_clusters", "label_efficient"}
    assert names == {path.stem for path in CONFIGS.glob("*.yml")} - left_out


def test_learning__a_mistake_in_a_config_is_a_sentence(monkeypatch, tmp_path, capsys) -> None:
    loop = str(CONFIGS / "pseudo_label.yml")
    arguments = ["--corpus", str(tmp_path), "--out", str(tmp_path / "out.jsonl"), "--configs", loop]
    monkeypatch.setattr(sys, "argv", ["learning", *arguments])
    assert learning.main() == 2
    assert capsys.readouterr().err == f"error: {loop}: init is not a setting; did you mean encoder.init?\n"


def test_with_wrong_labels__gives_the_share_another_label_and_the_rest_their_own() -> None:
    speakers = np.arange(100) % 7
    manifest = Manifest(paths=[""] * 100, speakers=speakers, speaker_names=list("abcdefg"))
    is_wrong, labels = gates.with_wrong_labels(manifest, share=0.2, seed=1)
    assert is_wrong.sum() == 20
    assert np.array_equal(labels != speakers, is_wrong)


class OneEpoch:
    """Stand in for a plan, which would need a corpus."""

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
    monkeypatch.setattr(learning, "train_and_evaluate", lambda *given: {"error": "it was trained"})
    for name in ("table", "ranking"):
        monkeypatch.setattr(learning, name, lambda lines: f"{len(lines)} lines")
    assert learning.main() == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert ("error" in lines[-1]) != is_done
    assert capsys.readouterr().out.startswith("1 lines" if is_done else "0 lines")
    assert {key: lines[-1][key] for key in same} == same


def test_main__a_corpus_that_nothing_would_read_is_refused(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "data", "--corpus", str(tmp_path)])
    monkeypatch.setattr(benchmarks_main, "measured", lambda settings, groups: [])
    assert benchmarks_main.main() == 2
    assert capsys.readouterr().err.startswith("error: only end-to-end reads --corpus")


class FakeContestant:
    """Stand in for a contestant, without measuring."""

    jobs: list[dict] = []

    def __init__(self, kind: str, **job) -> None:
        self.jobs.append(job)

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def run(self, rounds: int) -> float:
        return 1.0


def test_encoders__both_sides_are_classifiers_by_sgd_and_a_missing_peer_is_skipped(monkeypatch) -> None:
    monkeypatch.setattr(encoders, "Contestant", FakeContestant)
    monkeypatch.setattr(encoders, "find_spec", lambda name: None if name == "speakerlab" else name)
    rows = list(encoders.rows(Settings(None, is_quick=True)))
    assert [row.name for row in rows if row.skipped] == ["CAM++"] and len(rows) == 7
    for job in FakeContestant.jobs:
        config = load_config(job["config"], job["overrides"])
        assert (config.optimizer.name, config.model.margin) == ("sgd", 0)


def test_encoders__contestants_need_no_pytest(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.delitem(sys.modules, "tests.encoders.peers", raising=False)
    importlib.reload(encoders)


def test_memory_bytes__is_not_that_of_the_parent() -> None:
    held = bytearray(b"1") * 2**28
    code = "from benchmarks.command import memory_bytes; print(memory_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < len(held) < memory_bytes()


def test_seconds_of_iteration__leaves_out_the_first_and_what_all_have(monkeypatch) -> None:
    times = iter([9.0, 4.0, 7.0, 2.0, 8.0, 2.0])
    monkeypatch.setattr(clustering, "seconds_of", lambda part: (part(), next(times))[1])
    counts: list[int] = []
    assert clustering.seconds_of_iteration(counts.append) == 1.0
    assert counts == [1, 6, 1, 6, 1, 6, 1]


def test_feed__batches_are_rays_from_the_first_on(monkeypatch) -> None:
    seen = []

    def train_batches(*given, **settings):
        yield from map(seen.append, pipeline._local_until_ready(itertools.repeat("ray", 20), "own"))

    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray_units, "train_batches", train_batches)
    _, done, *_ = ray_units._feed([0] * 8, None, size=4, blocks=11, batches_per_block=1)
    assert done == 11 and seen == ["ray"] * 20
