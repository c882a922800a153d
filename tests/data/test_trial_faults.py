from pathlib import Path

import numpy as np
import pytest

from sslsv.data.lists import Trials, find_trial_faults, make_trials, read_trials
from tests.data.test_manifest import manifest_of


def trials_of(rows: list[tuple[int, int, int]]) -> Trials:
    table = np.array(rows, dtype=np.int64)
    paths = [f"{i}.wav" for i in range(int(table[:, 1:].max()) + 1)]
    return Trials(paths=paths, enrol=table[:, 1], test=table[:, 2], targets=table[:, 0] == 1)


def test_find_trial_faults__each_kind_is_found_in_either_order_of_the_pair() -> None:
    trials = trials_of([(1, 0, 1), (0, 2, 0), (1, 1, 0), (1, 3, 3), (1, 0, 2), (0, 1, 3), (0, 2, 0)])
    faults = find_trial_faults(trials)
    assert faults
    assert faults.self_trials.tolist() == [3]
    assert faults.repeated.tolist() == [[2, 0]]
    assert faults.contradicting.tolist() == [[4, 1], [6, 4]]
    assert faults.is_kept.tolist() == [True, False, False, False, False, True, False]


def test_find_trial_faults__agree_with_counting_all_pairs() -> None:
    rng = np.random.default_rng(0)
    trials = trials_of(np.column_stack([rng.integers(2, size=500), rng.integers(30, size=(500, 2))]).tolist())
    seen: dict[frozenset[int], list[bool]] = {}
    for a, b, label in zip(trials.enrol.tolist(), trials.test.tolist(), trials.targets.tolist(), strict=True):
        seen.setdefault(frozenset((a, b)), []).append(label)
    faults = find_trial_faults(trials)
    changes = sum(int(np.count_nonzero(np.diff(np.array(labels, int)))) for labels in seen.values())
    assert len(faults.contradicting) == changes
    assert len(faults.repeated) == len(trials) - len(seen) - changes
    assert len(faults.self_trials) == (trials.enrol == trials.test).sum()
    assert faults.is_kept.sum() == sum(len(p) == 2 and len(set(labels)) == 1 for p, labels in seen.items())


def test_find_trial_faults__two_versions_of_a_recording_are_no_self_trial() -> None:
    assert not find_trial_faults(make_trials(manifest_of([2, 1, 1]), seed=1, versions=2))
    assert not find_trial_faults(make_trials(manifest_of([4, 4, 4]), seed=1))


def test_read_trials__faults_are_refused_with_their_lines_unless_asked_for(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    (tmp_path / "trials").write_text("1 a b\n\n0 b c\n1 b a\n1 c c\n1 c b\n")
    with pytest.raises(ValueError) as caught:
        read_trials(tmp_path, "trials")
    sentence = str(caught.value)
    assert "1 of a recording against itself (line 5)" in sentence
    assert "1 listed again (line 4 repeats line 1)" in sentence
    assert "1 listed with the other label too (line 6 contradicts line 3)" in sentence
    assert "sslsv.prepare_data check" in sentence
    assert len(read_trials(tmp_path, "trials", is_strict=False)) == 5
