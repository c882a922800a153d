from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.augmentations.base import Augmenter
from sslsv.data.bank import Bank
from sslsv.data.lists import read_train_lists, read_trials
from sslsv.data.recordings import open_recordings
from sslsv.data.section import DataConfig
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.demo import DemoOptions, make_demo_corpus

SMALL = DemoOptions(speakers=2, eval_speakers=2, recordings=2, utterances=1, bank_files=1)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_make_demo_corpus__has_the_layout_that_training_reads(demo_corpus: Path) -> None:
    manifest = read_train_lists(demo_corpus, ("voxceleb2_train_list", "voxceleb1_train_list"))
    assert len(manifest) == (8 + 2) * 2 * 2 and manifest.num_speakers == 10
    trials = read_trials(demo_corpus, "trials")
    assert trials.targets.sum() == (~trials.targets).sum() == 3 * 4
    speakers = {path.split("/")[1] for path in trials.paths}
    assert len(speakers) == 3 and not speakers & set(manifest.speaker_names)
    for path in (*manifest.paths, *trials.paths):
        info = soundfile.info(demo_corpus / path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 2.5 <= info.duration <= 5.0
    bank = Bank(open_recordings(demo_corpus), 16)
    Augmenter(DataConfig().augment, bank)
    folders = [file.split("/")[:2] for file in bank.files]
    assert [folders.count(["musan_split", kind]) for kind in ("noise", "music", "speech")] == [3, 3, 3]
    assert len(bank.files) == 9 + 9


def test_make_demo_corpus__targets_are_from_two_recordings(demo_corpus: Path) -> None:
    for line in (demo_corpus / "trials").read_text().splitlines():
        label, first, second = line.split()
        assert (label == "1") == (first.split("/")[0] == second.split("/")[0])
        assert first.split("/")[:2] != second.split("/")[:2]
        assert not first.startswith("voxceleb1")


def test_make_demo_corpus__again_is_nothing_and_interrupted_is_finished(tmp_path: Path) -> None:
    assert make_demo_corpus(tmp_path, SMALL)
    before = contents(tmp_path)
    assert not make_demo_corpus(tmp_path, SMALL)
    marker = tmp_path / "demo_corpus.json"
    marker.write_text(marker.read_text().replace("true", "false"))
    (tmp_path / "trials").unlink()
    assert make_demo_corpus(tmp_path, SMALL)
    assert contents(tmp_path) == before


def test_make_demo_corpus__speakers_differ_more_than_recordings(demo_corpus: Path) -> None:
    # Long-term log spectrum of the loudest half: simple, but it differs less within than between speakers.
    manifest = read_train_lists(demo_corpus, ("voxceleb2_train_list", "voxceleb1_train_list"))
    features = []
    for path in manifest.paths:
        frames = soundfile.read(demo_corpus / path)[0]
        frames = np.lib.stride_tricks.sliding_window_view(frames, 512)[::160] * np.hanning(512)
        power = np.abs(np.fft.rfft(frames))[:, :256] ** 2
        loud = power[power.sum(axis=1) > np.median(power.sum(axis=1))]
        bands = np.log(loud.reshape(len(loud), 64, 4).mean(axis=(0, 2)))
        features.append(bands - bands.mean())
    distances = np.linalg.norm(np.array(features)[:, None] - np.array(features)[None], axis=2)
    is_same = manifest.speakers[:, None] == manifest.speakers[None]
    videos = np.array([path.split("/")[2] for path in manifest.paths])
    is_other_recording = videos[:, None] != videos[None]
    assert distances[is_same & is_other_recording].mean() < 0.85 * distances[~is_same].mean()


def test_main__reports_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(tmp_path / "x"), "--speakers", "1080"]) == 2
    assert "--speakers is 1080, but there are ids for 1079 only: give fewer." in capsys.readouterr().err
    assert main(["demo", str(tmp_path / "x"), "--recordings", "1"]) == 2
    assert "--recordings must be 2 or more" in capsys.readouterr().err
    (tmp_path / "mine").write_text("x")
    assert main(["demo", str(tmp_path)]) == 2
    assert "is not empty and is not a demo corpus" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
