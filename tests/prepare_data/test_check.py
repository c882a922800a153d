import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from sslsv.data.lists import read_train_lists, read_trials
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.check import find_corpus
from tests.prepare_data.full_disk import largest_file


@pytest.fixture
def corpus(demo_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of two training speakers and all of the trials, with reports going to the test's own folder."""
    root = tmp_path / "corpus"
    monkeypatch.chdir(tmp_path)
    rows = (demo_corpus / "voxceleb2_train_list").read_text().splitlines()[:8]
    trials = read_trials(demo_corpus, "trials")
    for path in [row.split()[1] for row in rows] + trials.paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo_corpus / path, root / path)
    (root / "voxceleb2_train_list").write_text("\n".join(rows) + "\n")
    shutil.copy(demo_corpus / "trials", root / "trials")
    return root


def check(*arguments: str) -> int:
    return main(["check", *arguments, "--processes", "1"])


def test_check__good_folder_is_good(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(corpus)) == 0
    printed = capsys.readouterr().out
    assert "20 files" in printed and "0 bad" in printed
    assert "voxceleb2_train_list: all 8 lines are good" in printed
    assert not list(corpus.glob("*.checked"))
    summary = json.loads((corpus.parent / "checks" / "corpus" / "summary.json").read_text())
    assert summary["files"] == 20 and summary["sample_rates"] == {"16000": 20}


def test_check__bad_files_leave_the_train_list_and_the_original_stays(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_train_lists(corpus, ["voxceleb2_train_list"])
    trials = read_trials(corpus, "trials")
    original = (corpus / "voxceleb2_train_list").read_text()
    soundfile.write(corpus / manifest.paths[0], np.zeros(32_000), 16_000)
    (corpus / manifest.paths[1]).write_bytes((corpus / manifest.paths[1]).read_bytes()[:999])
    (corpus / manifest.paths[2]).unlink()
    # Audio of the test under another name: the training copy is the one that has to go.
    shutil.copy(corpus / trials.paths[-1], corpus / manifest.paths[3])
    report = corpus.parent / "report"
    assert check(str(corpus), "--report", str(report)) == 1
    assert read_train_lists(corpus, ["voxceleb2_train_list.checked"]).paths == manifest.paths[4:]
    assert (corpus / "voxceleb2_train_list").read_text() == original
    assert not (corpus / "trials.checked").exists()
    table = pyarrow.parquet.read_table(report / "files.parquet").to_pandas().set_index("path")
    assert table.loc[str(corpus / manifest.paths[0]), "is_silent"]
    assert "is cut off" in table.loc[str(corpus / manifest.paths[1]), "error"]
    assert table.loc[str(corpus / manifest.paths[3]), "duplicate_of"] == str(corpus / trials.paths[-1])
    assert table["is_bad"].sum() == 4
    printed = capsys.readouterr().out
    assert "does not exist" in printed and "4 good lines of voxceleb2_train_list, 4 left out" in printed


def test_check__full_disk_is_a_sentence_and_the_same_command_goes_on(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = corpus.parent / "checks" / "corpus"
    assert check(str(corpus)) == 0  # the processes that read are made now: the limit would stay with them
    table = (report / "files.parquet").read_bytes()
    record = report / "measurements.jsonl"
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:4]))
    for limit in (2000, 8000):  # within the measurements, within the table of them
        with largest_file(limit):
            assert check(str(corpus), "--min-seconds", "0.5") == 2
        assert "error: The disk of checks/corpus (or a limit set for it) is full" in capsys.readouterr().err
        assert (report / "files.parquet").read_bytes() == table
        assert sorted(path.name for path in report.iterdir()) == [
            "files.parquet",
            "measurements.jsonl",
            "summary.json",
        ]


def test_check__trial_list_is_freed_of_faults_and_unreadable_recordings(corpus: Path) -> None:
    rows = (corpus / "trials").read_text().splitlines()
    label, first, second = rows[0].split()
    faulty = [*rows, f"{label} {second} {first}", f"1 {first} {first}"]
    (corpus / "trials").write_text("\n".join(faulty) + "\n")
    (corpus / "voxceleb1" / second).write_text("no audio")
    assert check(str(corpus / "trials")) == 1
    kept = (corpus / "trials.checked").read_text().splitlines()
    assert kept == [row for row in rows if second not in row.split()]
    assert len(read_trials(corpus, "trials.checked")) == len(kept) > 0


def test_check__list_below_a_root_and_limits_of_ones_own(corpus: Path) -> None:
    assert check("voxceleb2_train_list", "--root", str(corpus)) == 0
    assert check("voxceleb2_train_list", "--root", str(corpus), "--min-seconds", "100") == 1
    assert (corpus / "voxceleb2_train_list.checked").read_text() == ""


def test_check__folder_below_its_root_has_the_lists_of_the_root_that_name_it(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_train_lists(corpus, ["voxceleb2_train_list"])
    (corpus / manifest.paths[0]).write_text("no audio")
    (corpus / "other_train_list").write_text("a other/a.wav\n")  # of recordings that are elsewhere
    folder, root = str(corpus / "voxceleb2"), str(corpus)
    assert find_corpus(folder, root, None).train_lists == ["voxceleb2_train_list"]
    assert list(find_corpus(str(corpus / "voxceleb1"), root, None).trial_lists) == ["trials"]
    assert check(folder, "--root", root) == 1
    assert read_train_lists(corpus, ["voxceleb2_train_list.checked"]).paths == manifest.paths[1:]
    assert check(folder) == 1
    assert f"{folder} has no list of these recordings" in capsys.readouterr().out


def test_check__packed_folder_is_refused(
    packed_demo_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(packed_demo_corpus.iterdir())
    for arguments in ([str(packed_demo_corpus)], [str(packed_demo_corpus / "trials")]):
        assert check(*arguments) == 2
        assert f"{packed_demo_corpus} is a packed folder" in capsys.readouterr().err
    assert sorted(packed_demo_corpus.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "empty holds no audio files"),
        (["corpus", "--processes", "0"], "--processes is 0"),
        (["corpus/trials", "--lists", "x"], "--lists goes with a folder"),
    ],
)
def test_check__impossible_request_is_one_sentence(
    corpus: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus.parent / "empty").mkdir()
    assert main(["check", *arguments]) == 2
    assert words in capsys.readouterr().err
