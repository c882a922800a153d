import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from sslsv.data.lists import read_train_lists
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.check import SCHEMA, inspect, measure


@pytest.fixture
def corpus(ray_session: None, demo_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a list of two speakers' recordings; reports go to the test's folder.

    A folder `musan` counts as noises only below the corpus, not above it.
    """
    root = tmp_path / "musan/corpus"
    root.mkdir(parents=True)
    monkeypatch.chdir(root.parent)
    rows = (demo_corpus / "voxceleb2_train_list").read_text().splitlines()[:8]
    for path in [row.split()[1] for row in rows]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo_corpus / path, root / path)
    (root / "voxceleb2_train_list").write_text("\n".join(rows) + "\n")
    return root


def check(*arguments: str) -> int:
    return main(["check", *arguments, "--cpus", "1"])


def test_check__every_kind_of_bad_file_is_found_and_named_in_the_report(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "musan_split").mkdir()
    soundfile.write(corpus / "musan_split/short.wav", tone(0.2), 16_000)  # noises need only be readable
    assert check(str(corpus)) == 0
    assert "9 files" in (printed := capsys.readouterr().out) and "0 bad files" in printed
    paths = [str(corpus / path) for path in read_train_lists(corpus, ["voxceleb2_train_list"]).paths]
    soundfile.write(paths[0], np.zeros(32_000), 16_000)
    Path(paths[1]).write_bytes(Path(paths[1]).read_bytes()[:999])
    shutil.copy(paths[2], paths[3])
    soundfile.write(paths[4], np.ones(32_000) * np.resize([1, -1], 32_000), 16_000)
    soundfile.write(paths[5], tone(0.5), 16_000)
    Path(paths[6]).unlink()
    listed = corpus / "voxceleb2_train_list"
    listed.write_text(f"{listed.read_text().rstrip()}#t=0.5,99\n")
    assert check(str(listed), "--report", "report") == 1
    table = pyarrow.parquet.read_table("report/files.parquet").to_pydict()
    assert table["path"] == paths
    found = ["silent", "unreadable", None, "doubled", "clipped", "short", "unreadable", "cut off"]
    assert table["fault"] == found
    assert "is cut off" in table["error"][1] and "does not exist" in table["error"][6]
    assert f"the same samples as {paths[2]}" in capsys.readouterr().out


def test_check__list_below_a_root_and_limits_of_ones_own(corpus: Path) -> None:
    assert check("voxceleb2_train_list", "--root", str(corpus)) == 0
    assert check("voxceleb2_train_list", "--root", str(corpus), "--min-seconds", "100") == 1


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


def test_check__a_packed_folder_which_has_no_files_is_refused(
    packed_demo_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target in (packed_demo_corpus / "trials", packed_demo_corpus):
        assert check(str(target)) == 2
        assert f"{packed_demo_corpus} is packed, which leaves no files to check" in capsys.readouterr().err


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
    assert row["silent_share"] == 0.25  # constant samples count as silence
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
