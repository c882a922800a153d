import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from sslsv.data.lists import read_train_lists, read_trials
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.check import SCHEMA, find_corpus, inspect, measure
from tests.prepare_data.full_disk import largest_file


@pytest.fixture
def corpus(ray_session: None, demo_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
    return main(["check", *arguments, "--cpus", "1"])


def test_check__good_folder_is_good(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(corpus)) == 0
    printed = capsys.readouterr().out
    assert "20 files" in printed and "0 bad files" in printed
    assert "voxceleb2_train_list: all 8 lines are good" in printed
    assert not list(corpus.glob("*.checked"))


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
    assert table.loc[str(corpus / manifest.paths[0]), "fault"] == "silent"
    assert "is cut off" in table.loc[str(corpus / manifest.paths[1]), "error"]
    assert table.loc[str(corpus / manifest.paths[3]), "fault"] == "doubled"
    assert table["fault"].notna().sum() == 4
    printed = capsys.readouterr().out
    assert f"the same samples as {corpus / trials.paths[-1]}" in printed
    assert "does not exist" in printed and "4 good lines of voxceleb2_train_list, 4 left out" in printed


def test_check__full_disk_is_a_sentence_and_the_same_command_goes_on(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = corpus.parent / "checks" / "corpus"
    assert check(str(corpus)) == 0  # the processes that read are made now: the limit would stay with them
    table = (report / "files.parquet").read_bytes()
    record = report / "measurements.jsonl"
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:4]))
    for limit in (2000, len(table) - 1):  # within the measurements, within the table of them
        with largest_file(limit):
            assert check(str(corpus), "--min-seconds", "0.5") == 2
        assert "error: The disk of checks/corpus (or a limit set for it) is full" in capsys.readouterr().err
        assert (report / "files.parquet").read_bytes() == table
        assert sorted(path.name for path in report.iterdir()) == ["files.parquet", "measurements.jsonl"]


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
    assert list(find_corpus(folder, root).lists) == ["voxceleb2_train_list"]
    assert list(find_corpus(str(corpus / "voxceleb1"), root).lists) == ["trials"]
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
    assert check(str(packed_demo_corpus)) == 2
    assert f"{packed_demo_corpus} is a packed folder" in capsys.readouterr().err
    assert sorted(packed_demo_corpus.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "empty holds no audio files"),
        (["corpus", "--cpus", "0"], "--cpus is 0"),
    ],
)
def test_check__impossible_request_is_one_sentence(
    corpus: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus.parent / "empty").mkdir()
    assert main(["check", *arguments]) == 2
    assert words in capsys.readouterr().err


def tone(seconds: float, level: float = 0.5, rate: int = 16_000) -> np.ndarray:
    return level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def test_inspect__measures_known_signals_however_much_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = np.concatenate([tone(1.5), np.zeros(8000)]) + 0.25
    signal[:160] = 1.0
    soundfile.write(tmp_path / "a.wav", signal, 16_000, subtype="PCM_24")
    row = inspect(str(tmp_path / "a.wav"))
    assert set(row) == set(SCHEMA.names) - {"error"}
    assert (row["seconds"], row["sample_rate"]) == (2.0, 16_000)
    assert row["silent_share"] == 0.25  # a constant is silence
    assert row["clipped_share"] == pytest.approx(160 / 32_000)
    monkeypatch.setattr("sslsv.prepare_data.check._BLOCK", 320 * 7)
    assert inspect(str(tmp_path / "a.wav")) == row


def test_inspect__digest_is_the_samples_whatever_the_format(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, size=16_000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    soundfile.write(tmp_path / "b.flac", samples, 16_000)
    soundfile.write(tmp_path / "c.wav", samples / 32768, 16_000, subtype="FLOAT")
    samples[500] += 1
    soundfile.write(tmp_path / "d.wav", samples, 16_000)
    digests = [inspect(str(tmp_path / name))["digest"] for name in ("a.wav", "b.flac", "c.wav", "d.wav")]
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_measure__reads_again_only_what_changed_or_failed_also_after_a_torn_line(
    ray_session: None, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", tone(0.2), 16_000)
    (tmp_path / "bad.wav").touch()
    files, record = [str(tmp_path / f"{name}.wav") for name in ("c", "bad", "a", "b")], tmp_path / "r.jsonl"
    first = measure(files, record, 1)
    assert first.schema.names == SCHEMA.names and first["path"].to_pylist() == files
    assert [error is not None for error in first["error"].to_pylist()] == [False, True, False, False]
    os.utime(files[2], ns=(1, 1))
    record.write_bytes(record.read_bytes() + b'{"path": "x", "si')
    second = measure(files, record, 1)
    read = [Path(json.loads(line)["path"]).stem for line in record.read_text().splitlines()]
    assert sorted(read[4:]) == ["a", "bad"]
    assert second["digest"].to_pylist() == first["digest"].to_pylist()
    assert second["mtime_ns"].to_pylist()[2] == 1
    record.write_text("this is no JSON\n")
    with pytest.raises(ValueError, match=r"r\.jsonl is damaged .* delete it"):
        measure(files, record, 1)


def test_check__noises_only_have_to_be_readable(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav"):
        (tmp_path / "data/musan_split/noise").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "data/musan_split/noise" / name, tone(0.2), 16_000)
    assert check("data") == 0
    assert "0 bad files" in capsys.readouterr().out
