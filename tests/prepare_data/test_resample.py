import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import read_whole, to_int16
from sslsv.data.lists import read_train_lists, read_trials
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.resample import Job, convert
from tests.prepare_data.full_disk import largest_file


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Recordings of several formats, one broken, with lists; trials leave out `voxceleb1/`, as VoxCeleb's do."""
    root, rng = tmp_path / "corpus", np.random.default_rng(0)
    for name, rate, channels in (("a/1.flac", 44_100, 2), ("a/2.wav", 8000, 1), ("b/1.ogg", 16_000, 1)):
        (root / "voxceleb1" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / "voxceleb1" / name, rng.uniform(-0.5, 0.5, size=(rate, channels)), rate)
    (root / "voxceleb1" / "b" / "2.wav").write_text("no audio")
    names = ["a/1.flac", "a/2.wav", "b/1.ogg", "b/2.wav"]
    (root / "x_train_list").write_text("".join(f"{name[0]} voxceleb1/{name}\n" for name in names))
    (root / "trials").write_text("1 a/1.flac a/2.wav\n0 a/1.flac b/1.ogg\n1 b/1.ogg b/2.wav\n")
    return root


def resample(corpus: Path, *options: str) -> int:
    return main(["resample", str(corpus), "--out", str(corpus.parent / "copy"), "--processes", "1", *options])


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_resample__copy_is_what_training_reads_and_lists_fit_it(
    corpus: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resample(corpus, "--format", form) == 1
    copy = corpus.parent / "copy"
    manifest, trials = read_train_lists(copy, ["x_train_list"]), read_trials(copy, "trials")
    assert manifest.paths == [f"voxceleb1/{name}.{form}" for name in ("a/1", "a/2", "b/1")]
    assert len(trials) == 2 and set(trials.paths) == set(manifest.paths)
    for path, source in zip(manifest.paths, ["a/1.flac", "a/2.wav", "b/1.ogg"], strict=True):
        info = soundfile.info(copy / path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        samples = soundfile.read(copy / path, dtype="int16")[0]
        np.testing.assert_array_equal(samples, to_int16(read_whole(corpus / "voxceleb1" / source)))
    printed = capsys.readouterr().out
    assert "3 of 4 recordings" in printed and "x_train_list: 3 lines, 1 left out" in printed
    assert "not copied: " in printed and "b/2.wav is not audio" in printed
    assert not [path for path in copy.rglob("*.partial")]


def test_resample__again_makes_only_what_is_new(corpus: Path) -> None:
    assert resample(corpus) == 1
    done, changed = (corpus.parent / "copy" / "voxceleb1" / name for name in ("a/1.wav", "a/2.wav"))
    done.write_bytes(b"left alone")
    os.utime(done, ns=(0, os.stat(corpus / "voxceleb1" / "a/1.flac").st_mtime_ns))
    os.utime(corpus / "voxceleb1" / "a/2.wav", (10, 10))
    changed.write_bytes(b"old")
    (corpus / "voxceleb1" / "b" / "2.wav").unlink()
    assert resample(corpus) == 0
    assert done.read_bytes() == b"left alone" and soundfile.info(changed).samplerate == 16_000


def test_resample__full_disk_is_a_sentence_and_the_same_command_goes_on(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with largest_file(10):
        assert resample(corpus) == 2
    assert "copy (or a limit set for it) is full: make room" in capsys.readouterr().err
    job = Job(str(corpus / "voxceleb1/a/2.wav"), str(corpus.parent / "copy/2.wav"), is_trimmed=False)
    with largest_file(20_000), pytest.raises(OSError, match="is full: make room"):
        convert(job)
    assert resample(corpus) == 1  # one recording is broken
    assert len(list((corpus.parent / "copy").rglob("*.wav"))) == 3


def test_resample__silence_is_trimmed_but_not_that_of_noises_and_rooms(corpus: Path) -> None:
    tone = 0.5 * np.sin(np.arange(16_000) * 0.2)
    signal = np.concatenate([np.zeros(16_000), tone, np.zeros(16_000)])
    for name in ("voxceleb1/a/3.wav", "simulated_rirs/small/r.wav"):
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(corpus / name, signal, 16_000)
    soundfile.write(corpus / "voxceleb1/a/4.wav", np.zeros(16_000), 16_000)
    assert resample(corpus, "--trim-silence") == 1
    copy = corpus.parent / "copy"
    assert soundfile.info(copy / "voxceleb1/a/3.wav").frames == 16_000 + 2 * 3200
    assert soundfile.info(copy / "simulated_rirs/small/r.wav").frames == 48_000
    assert not (copy / "voxceleb1/a/4.wav").exists()


def test_resample__requests_that_would_mix_things_up_are_refused(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resample", str(corpus), "--out", str(corpus / "copy")]) == 2
    assert "choose a place outside" in capsys.readouterr().err
    assert resample(corpus) == 1 and resample(corpus, "--format", "flac") == 2
    assert "holds a copy made with" in capsys.readouterr().err
    (corpus / "voxceleb1" / "a" / "1.mp3").touch()
    assert resample(corpus) == 2
    assert "would both become" in capsys.readouterr().err
    other = corpus.parent / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    (corpus / "voxceleb1" / "a" / "1.mp3").unlink()
    assert main(["resample", str(corpus), "--out", str(other)]) == 2
    assert "is not empty" in capsys.readouterr().err
