import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import AudioError
from sslsv.data.recordings import Packed
from sslsv.prepare_data import pack as packing
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.pack import pack


@pytest.fixture
def corpus(demo_corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_corpus, tmp_path / "corpus"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pack__takes_lists_trials_and_banks(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "notes.md").write_text("# Notes\n")
    assert main(["pack", str(corpus)]) == 0
    packed = Packed(str(corpus / "packed"))
    expected = sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*.wav"))
    folders = ("voxceleb1", "voxceleb2", "musan_split", "simulated_rirs")
    assert sorted(name for folder in folders for name in packed.find(folder)) == expected
    assert len(packed) == len(expected)
    found = set(files_of(corpus / "packed"))
    lists = {"trials", "voxceleb1_train_list", "voxceleb2_train_list"}
    assert found == {*lists, "index.parquet", "shard-00000.int16"}
    for name in lists:
        assert (corpus / "packed" / name).read_bytes() == (corpus / name).read_bytes()
    printed = capsys.readouterr().out
    assert f"data.root={corpus / 'packed'}" in printed and f"Lists: {', '.join(sorted(lists))}" in printed


def test_pack__again_is_nothing_and_a_shard_that_is_cut_off_is_named(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", str(corpus)]) == 0
    before = files_of(corpus / "packed")
    assert main(["pack", str(corpus)]) == 0
    assert "packed already." in capsys.readouterr().out
    assert files_of(corpus / "packed") == before
    shard = corpus / "packed/shard-00000.int16"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert main(["pack", str(corpus)]) == 2
    assert "delete the folder and pack again" in capsys.readouterr().err


def test_pack__never_overwrites(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["pack", str(corpus), "--out", str(out)]) == 0
    before = files_of(out)
    soundfile.write(next((corpus / "voxceleb2").rglob("*.wav")), np.zeros(20000), 16000)
    assert main(["pack", str(corpus), "--out", str(out)]) == 2
    assert "is a pack of other or older lists or recordings" in capsys.readouterr().err
    assert files_of(out) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("mine")
    assert main(["pack", str(corpus), "--out", str(tmp_path / "full")]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert files_of(tmp_path / "full") == {"precious": b"mine"}


def pack_until_it_fails(corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pack while the disk is full once, at recording 60; return the list that collects all names read."""
    read: list[str] = []
    real = packing._read

    def fail_once(recordings: object, name: str) -> object:
        read.append(name)
        if len(read) == 60:
            raise OSError(28, "No space left on device")
        return real(recordings, name)

    monkeypatch.setattr(packing, "_read", fail_once)
    with pytest.raises(OSError, match="No space"):
        pack(corpus, out, shard_mb=1, jobs=1)
    assert not (out / "index.parquet").exists()
    return read


@pytest.mark.parametrize("is_damaged", [False, True])
def test_pack__interrupted_goes_on_where_it_was_with_the_sound_shards_and_the_same_size(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    pack(corpus, tmp_path / "whole", shard_mb=1, jobs=2)
    read = pack_until_it_fails(corpus, tmp_path / "out", monkeypatch)
    with pytest.raises(FileExistsError, match="or with another --shard-mb"):
        pack(corpus, tmp_path / "out", shard_mb=2, jobs=1)
    if is_damaged:
        (tmp_path / "out/shard-00000.int16").write_bytes(b"")
    assert pack(corpus, tmp_path / "out", shard_mb=1, jobs=1)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert bool(set(read[:40]) & set(read[60:])) == is_damaged  # finished shards are not read again


def test_pack__unreadable_recordings_are_named(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = sorted((corpus / "voxceleb2").rglob("*.wav"))[3]
    rng = np.random.default_rng(0)
    soundfile.write(corpus / "a.flac", rng.uniform(-1, 1, 48000), 16000)
    bad.write_bytes((corpus / "a.flac").read_bytes()[:20000])  # truncated: decodes at first, then ends early
    assert main(["pack", str(corpus)]) == 1
    assert str(bad) in capsys.readouterr().err
    packed = Packed(str(corpus / "packed"))
    with pytest.raises(AudioError, match=bad.name):
        packed.open(str(bad.relative_to(corpus)))


def test_pack__wrong_requests_are_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, sentence in [
        ([str(tmp_path / "none")], "is not a folder"),
        ([str(tmp_path)], "holds no list of recordings"),
        ([str(corpus), "--lists", "nowhere"], "does not exist"),
        ([str(corpus), "--lists", str(corpus / "trials")], "does not lie below"),
    ]:
        assert main(["pack", *arguments]) == 2
        assert sentence in capsys.readouterr().err
