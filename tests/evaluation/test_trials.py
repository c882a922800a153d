from functools import partial

import numpy as np
import pytest

from sslsv.data.lists import Trials
from sslsv.evaluation.trials import (
    TrialList,
    count_shared,
    listed_trials,
    open_list,
    speaker_path_parts,
    speakers_of,
)
from tests.evaluation.test_verification import some_trials


@pytest.fixture
def root(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.wav").write_bytes(b"x")
    return tmp_path


def write_list(root, *lines):
    (root / "list").write_text("\n".join(lines) + "\n")
    return "list"


def test_open_list__reads_a_list_below_the_root_or_from_the_working_folder(root, tmp_path, monkeypatch):
    name = write_list(root, "1 a.wav b.wav", "0 a.wav c.wav")
    found = open_list(str(root), name, is_lenient=False)
    assert found.name == "list" and len(found.trials) == 2 and found.left_out == {}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "list").rename(elsewhere / "mine")
    monkeypatch.chdir(elsewhere)
    assert len(open_list(str(root), "mine", is_lenient=False).trials) == 2


def test_open_list__missing_recordings_are_named_with_their_lines(root):
    name = write_list(root, "1 a.wav b.wav", "0 a.wav lost.wav", "0\tit is gone.wav\tc.wav")
    with pytest.raises(
        ValueError, match=r"2 of 5 .* lost\.wav \(line 2\), it is gone\.wav \(line 3\).*--allow-missing"
    ):
        open_list(str(root), name, is_lenient=False)


def test_open_list__lenient_counts_what_is_missing_wherever_it_stands(root):
    lost = [f"0 lost{i}.wav gone{i}.wav" for i in range(6)]  # more files than the first check looks for
    found = open_list(str(root), write_list(root, *lost, "1 a.wav b.wav", "0 a.wav c.wav"), is_lenient=True)
    assert found.left_out == {"missing_recordings": 12, "skipped_trials": 6} and len(found.trials) == 2
    (root / "voxceleb1").mkdir()
    for name in "ef":
        (root / "voxceleb1" / f"{name}.flac").write_bytes(b"x")
    lines = [*lost, "1 e.flac f.flac", "0 e.flac g.flac", "0 f.flac h.flac"]
    with pytest.raises(ValueError, match="of 9 trials 1 target and 0 nontarget"):
        open_list(str(root), write_list(root, *lines), is_lenient=True)
    with pytest.raises(FileNotFoundError, match="None of the first 12 recordings"):
        open_list(str(root), write_list(root, *lost), is_lenient=True)


@pytest.mark.parametrize(
    "opener", [listed_trials, *(partial(open_list, is_lenient=x) for x in (False, True))]
)
@pytest.mark.parametrize("pair", ["a.wav b.wav", "b.wav a.wav", "d.wav d.wav", "c.wav a.wav"])
def test_openers__labels_that_contradict_also_through_a_third_recording_are_named(root, opener, pair):
    name = write_list(root, "1 a.wav b.wav", "0 a.wav d.wav", "1 b.wav c.wav", f"0 {pair}")
    with pytest.raises(ValueError, match=rf"1 nontarget trials of .*list .*\(line 4: {pair}\)"):
        opener(str(root), name)


@pytest.mark.parametrize(
    "opener", [listed_trials, *(partial(open_list, is_lenient=x) for x in (False, True))]
)
@pytest.mark.parametrize(("label", "missing"), [("1", "nontarget"), ("0", "target")])
def test_openers__a_list_with_only_one_kind_of_trial_is_refused(root, opener, label, missing):
    name = write_list(root, f"{label} a.wav b.wav", f"{label} c.wav d.wav")
    with pytest.raises(ValueError, match=rf"list has no {missing} trials, and error rates need both kinds"):
        opener(str(root), name)


def test_count_shared__finds_pairs_either_way_round_wherever_the_folders_are():
    def trials(*pairs):
        paths = sorted({path for pair in pairs for path in pair})
        enrol, test = np.array([[paths.index(a), paths.index(b)] for a, b in pairs]).T
        return Trials(paths=paths, enrol=enrol, test=test, targets=enrol == 0)

    mine = trials(("a", "b"), ("c", "a"), ("a", "d"), ("x", "y"))
    others = trials(("/there/b", "/there/a"), ("/there/a", "/there/c"), ("/there/d", "/there/c"))
    assert count_shared(mine, "/here", others, "/there") == 2
    assert count_shared(mine, "/here", others, "/elsewhere") == 0


@pytest.mark.parametrize("again", ["1 a.wav b.wav", "1 b.wav a.wav", "1 a.wav a.wav"])
def test_open_list__a_pair_listed_twice_or_a_file_and_itself_is_scored_as_listed(root, again):
    name = write_list(root, "1 a.wav b.wav", "0 a.wav c.wav", again)
    found = open_list(str(root), name, is_lenient=False)
    assert len(found.trials) == 3 and found.left_out == {}


def test_open_list__the_prefix_that_voxceleb_leaves_out_is_found_in_line_numbers(root):
    (root / "voxceleb1").mkdir()
    (root / "voxceleb1" / "a.flac").write_bytes(b"x")
    name = write_list(root, "1 a.flac b.flac", "0 a.flac c.flac")
    with pytest.raises(ValueError, match=r"voxceleb1/b\.flac \(line 1\), voxceleb1/c\.flac \(line 2\)"):
        open_list(str(root), name, is_lenient=False)


def test_without__keeps_the_other_trials_as_they_were():
    found = TrialList("list", "list", "/", some_trials(), {}).without([1], "unreadable_recordings")
    trials = found.trials
    assert trials.paths == ["a", "c", "d"] and trials.versions.tolist() == [0, 0, 0]
    assert (trials.enrol.tolist(), trials.test.tolist()) == ([1, 0], [2, 1])
    assert trials.targets.tolist() == [True, False]
    assert found.left_out == {"unreadable_recordings": 1, "skipped_trials": 2}


def trials_between(form, pairs):
    """Return trials between recordings (speaker, number) whose paths follow a format."""
    recordings = sorted({side for pair in pairs for side in pair})
    at = {recording: i for i, recording in enumerate(recordings)}
    enrol, test = (np.array([at[side] for side in sides]) for sides in zip(*pairs, strict=True))
    targets = np.array([a[0] == b[0] for a, b in pairs])
    return Trials(paths=[form.format(*r) for r in recordings], enrol=enrol, test=test, targets=targets)


ANNA, BERT = [[(name, i) for i in range(4)] for name in ("anna", "bert")]
# Target trials do not connect all recordings of a speaker.
SPARSE = [(ANNA[0], ANNA[1]), (ANNA[2], ANNA[3]), (BERT[0], BERT[1]), (ANNA[1], BERT[2]), (ANNA[0], BERT[3])]


@pytest.mark.parametrize(
    ("form", "place"),
    [("{0}/v{1}/1.wav", 3), ("deep/v/{0}/x{1}.wav", 2), ("{0}-{1}-1.wav", 1), ("{0}_x{1}.flac", 1)],
)
def test_speakers_of__are_those_of_the_paths_where_target_trials_leave_gaps(form, place):
    trials = trials_between(form, SPARSE)
    assert speaker_path_parts(trials) == {place: {"anna", "bert"}}
    names = np.array(["anna" in path for path in trials.paths])
    found = speakers_of(trials)
    assert len(set(found[names])) == len(set(found[~names])) == 1 and found.max() == 1


def test_speakers_of__without_names_are_the_groups_that_target_trials_join():
    found = speakers_of(trials_between("{0}{1}.wav", SPARSE))
    assert len(set(found)) == 5  # two pairs of anna, one of bert, and two recordings without target trials
