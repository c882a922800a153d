import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from sslsv.tasks import probe as tasks_probe
from sslsv.tasks.probe import Probe, accuracy_and_f1, bootstrap, check_lists, read_label_list

DIM = 4


class Store:
    """Return embeddings by path; recordings in `bad` cannot be read."""

    def __init__(self, rows, bad=()):
        self.rows, self.bad = rows, bad

    def get(self, paths, root):
        found = np.array([self.rows[path] for path in paths], dtype=np.float32)
        return found, {i: f"{path} is no audio" for i, path in enumerate(paths) if path in self.bad}


def corpus(root, offsets, *, speakers=8, recordings=6, has_speakers=True, seed=0):
    """Write lists of speakers with alternating labels, and return embeddings of their recordings.

    `offsets` (labels, dimensions) are the centres of the labels; a speaker's embeddings are close together.
    """
    rng, rows = np.random.default_rng(seed), {}
    for role in ("train", "test"):
        lines = []
        for speaker in range(speakers):
            label = speaker % len(offsets)
            voice = offsets[label] + rng.normal(size=offsets.shape[1])
            for i in range(recordings):
                path = f"{role}_{speaker}_{i}.wav"
                (root / path).touch()
                rows[path] = voice + 0.1 * rng.normal(size=offsets.shape[1])
                lines.append(f"label{label} {path}{f' {role}{speaker}' * has_speakers}\n")
        (root / role).write_text("".join(lines))
    return rows


@pytest.fixture(autouse=True)
def two_strengths(monkeypatch):
    monkeypatch.setattr(tasks_probe, "STRENGTHS", (0.01, 1.0))


def probe(root):
    return Probe(Probe.Config(replicates=50), str(root), "train", "test")


@pytest.mark.parametrize("has_speakers", [True, False])
def test_run__labels_that_embeddings_tell_are_found(tmp_path, has_speakers):
    rows = corpus(tmp_path, 20 * np.eye(3, DIM), speakers=9, has_speakers=has_speakers)
    found = probe(tmp_path).run(Store(rows))
    assert probe(tmp_path).run(Store(rows)) == found
    assert found["metrics"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["metrics"]["macro_f1"]["value"] == 1.0
    assert found["labels"] == ["label0", "label1", "label2"]
    assert found["confusion"] == [[18, 0, 0], [0, 18, 0], [0, 0, 18]]
    assert found["baseline_accuracy"] == pytest.approx(1 / 3)
    assert found["strength"] == 0.01  # several strengths are equally good, so the strongest penalty wins
    assert ("names no speakers" in " ".join(found["notes"])) != has_speakers


@pytest.mark.parametrize(
    ("speakers", "sentence"),
    [(1, None), (2, "the 2 test speakers; with so few"), (12, "the 12 test speakers.")],
)
def test_run__intervals_over_few_speakers_are_called_too_narrow_and_over_one_there_are_none(
    tmp_path, speakers, sentence
):
    rows = corpus(tmp_path, 20 * np.eye(2, DIM), speakers=max(speakers, 4))
    lines = (tmp_path / "test").read_text().splitlines(keepends=True)
    (tmp_path / "test").write_text("".join(lines[: 6 * speakers]))
    found = probe(tmp_path).run(Store(rows))
    assert ("low" in found["metrics"]["accuracy"]) == (sentence is not None)
    assert ("Intervals" in " ".join(found["notes"])) == (sentence is not None)
    assert (sentence or "") in " ".join(found["notes"])


def test_run__known_speakers_are_never_on_both_sides_of_a_fold(tmp_path):
    # Embeddings depend on the voice only, so a classifier can only memorise the labels of known voices.
    rows = corpus(tmp_path, np.zeros((2, 32)), speakers=16)
    with_speakers = probe(tmp_path).run(Store(rows))["macro_f1_of_strengths"]
    corpus(tmp_path, np.zeros((2, 32)), speakers=16, has_speakers=False)
    without = probe(tmp_path).run(Store(rows))["macro_f1_of_strengths"]
    assert without["1"] > 0.9 and with_speakers["1"] < 0.7


def test_run__what_is_confused_stands_in_the_row_of_its_label(tmp_path):
    rows = corpus(tmp_path, 20 * np.eye(3, DIM), speakers=9)
    text = (tmp_path / "test").read_text()
    (tmp_path / "test").write_text(text.replace("label0 test_0_0.wav", "label2 test_0_0.wav"))
    assert probe(tmp_path).run(Store(rows))["confusion"] == [[17, 0, 0], [0, 18, 0], [1, 0, 18]]


def test_run__unreadable_recordings_are_named(tmp_path):
    rows = corpus(tmp_path, 20 * np.eye(2, DIM))
    sentence = r"1 of 48 .* cannot be read \(test_0_1.wav is no audio\): test_0_1.wav \(line 2\)"
    with pytest.raises(ValueError, match=sentence):
        probe(tmp_path).run(Store(rows, bad={"test_0_1.wav"}))


def test_run__embeddings_that_are_no_numbers_are_refused(tmp_path):
    rows = corpus(tmp_path, np.eye(2, DIM))
    rows["train_0_0.wav"] = np.full(DIM, np.nan)
    with pytest.raises(ValueError, match="not finite"):
        probe(tmp_path).run(Store(rows))


def test_run__speakers_of_both_lists_are_counted(tmp_path):
    rows = corpus(tmp_path, 20 * np.eye(2, DIM))
    text = (tmp_path / "test").read_text()
    (tmp_path / "test").write_text(text.replace(" test0\n", " train0\n"))
    assert "1 speakers are in both lists" in " ".join(probe(tmp_path).run(Store(rows))["notes"])


def test_accuracy_and_f1__equal_those_of_a_list_with_each_recording_that_often():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(4, size=(2, 200))
    weights = rng.integers(3, size=200) * (truth != 3) * (predicted != 3)  # the last label does not occur
    many = np.repeat(truth, weights), np.repeat(predicted, weights)
    found = accuracy_and_f1(truth, predicted, weights.astype(float), 4)
    assert found["accuracy"] == pytest.approx(accuracy_score(*many))
    assert found["macro_f1"] == pytest.approx(f1_score(*many, average="macro"))


def test_bootstrap__speakers_who_fail_as_a_whole_make_wide_intervals():
    speakers = np.repeat(np.arange(20), 10)
    truth = np.zeros(200, dtype=np.int64)
    predicted = (speakers < 4).astype(np.int64)  # all recordings of 4 of 20 speakers are wrong
    by_speaker = bootstrap(truth, predicted, speakers, 2, 2000)["accuracy"]
    by_recording = bootstrap(truth, predicted, np.arange(200), 2, 2000)["accuracy"]
    # Binomial interval: 0.8 +- 1.96 sqrt(0.16 / units)
    assert by_speaker.high - by_speaker.low == pytest.approx(0.351, abs=0.06)
    assert by_recording.high - by_recording.low == pytest.approx(0.111, abs=0.02)


def test_run__speakers_that_cannot_be_divided_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks_probe, "NUM_FOLDS", 2)
    # Each pair of four speakers has its own label, so any half of the speakers lacks a label.
    rows = corpus(tmp_path, np.eye(6, DIM), speakers=6, recordings=2)
    lines, pairs = (tmp_path / "train").read_text().splitlines(), np.stack(np.triu_indices(4, 1), 1).ravel()
    lines = [f"{line.rpartition(' ')[0]} {speaker}\n" for line, speaker in zip(lines, pairs, strict=True)]
    (tmp_path / "train").write_text("".join(lines))
    with pytest.raises(ValueError, match="can't be divided"):
        probe(tmp_path).run(Store(rows))


NAMES = [f"{letter}{i}.wav" for letter in "abc" for i in range(4)]


@pytest.fixture
def root(tmp_path):
    for name in [*NAMES, "with blank.wav"]:
        (tmp_path / name).touch()
    return tmp_path


def read(root, text):
    (root / "list").write_text(text)
    return read_label_list(str(root), "list")


def check(root, train, test):
    lists = []
    for name, text in (("train", train), ("test", test)):
        (root / name).write_text(text)
        lists.append(read_label_list(str(root), name))
    check_lists(*lists)


def test_read_label_list__speakers_are_a_third_column_and_tabs_allow_blanks(root):
    found = read(root, "calm a0.wav\nloud a1.wav\n")
    assert (found.labels, found.paths, found.speakers) == (["calm", "loud"], ["a0.wav", "a1.wav"], [])
    found = read(root, "\nvery calm\twith blank.wav\tA B\nloud a1.wav B\n")
    assert (found.labels, found.speakers) == (["very calm", "loud"], ["A B", "B"])
    assert found.paths[0] == "with blank.wav" and found.lines == [2, 3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("calm\n", "line 1: expected `label path` or `label path speaker`"),
        ("calm a0.wav A x\n", "line 1: expected"),
        ("calm\t\tA\n", "line 1: expected"),
        ("calm a0.wav A\nloud a1.wav\n", "line 2: this line lacks a speaker"),
        ("calm a0.wav\nloud a1.wav A\n", "line 2: this line names a speaker"),
        ("calm a0.wav\nloud a0.wav\n", "line 2: a0.wav is listed twice, first in line 1"),
    ],
)
def test_read_label_list__a_bad_list_gives_its_sentence(root, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(root, text)


GOOD = "x a0.wav\nx a1.wav\ny b0.wav\ny b1.wav\n"


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        ("x a0.wav\nx a1.wav\n", "x b0.wav\n", r"has 1 label\(s\) \(x\)"),
        ("x a0.wav\nx a1.wav\ny b0.wav\n", "x c0.wav\n", "1 of the 2 labels .* a single recording: y"),
        (
            "x a0.wav A\nx a1.wav A\ny b0.wav B\ny b1.wav C\n",
            "x c0.wav\n",
            "a single speaker: x.*two speakers",
        ),
        (GOOD, "x c0.wav\nz c1.wav\nw c2.wav\n", r"2 .* not in .*: w, z; first: c1.wav \(line 2\)"),
        (GOOD, "x c0.wav\nx a1.wav\n", r"1 recordings of .* too: a1.wav \(line 2\)"),
    ],
)
def test_check_lists__says_what_keeps_a_probe_from_learning(root, train, test, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(root, train, test)


def test_check_lists__labels_that_are_not_tested_are_no_fault(root):
    check(root, GOOD, "x c0.wav\n")
