import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import sslsv
from sslsv.data.audio import AudioError
from sslsv.evaluation.calibration import Calibration
from sslsv.evaluation.speaker_encoder import CALIBRATION_FILE, SpeakerEncoder
from sslsv.runs.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.settings import apply_overrides


@pytest.fixture
def waveforms():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(n).astype(np.float32) * 0.1 for n in (16000, 20000, 9000)]


def test_load__best_last_file_and_average(small_run):
    folder = RunFolder.at(small_run)
    names = [name for _, name in list_checkpoints(folder)]
    for which, steps in {"best": (2,), "last": (3,), names[0]: (1,), "average": (1, 2, 3)}.items():
        assert SpeakerEncoder.load(small_run, which).steps == steps
    assert SpeakerEncoder.load(f"{small_run}/checkpoints/{names[0]}").steps == (1,)


def test_load__what_is_not_there_is_said(small_run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"step_1\.pt does not exist"):
        SpeakerEncoder.load(tmp_path / "step_1.pt")
    with pytest.raises(ValueError, match="choose one of last, best"):
        SpeakerEncoder.load(small_run, "third")


def test_load__a_copied_checkpoint_file_is_enough_and_a_renamed_one_is_refused(small_run, tmp_path):
    name = list_checkpoints(RunFolder.at(small_run))[-1][1]
    shutil.copy(f"{small_run}/checkpoints/{name}", tmp_path / name)
    copied = SpeakerEncoder.load(tmp_path / name)
    assert copied.steps == (3,) and copied.run == str(tmp_path)
    assert SpeakerEncoder.load(f"{small_run}/checkpoints/{name}").run == small_run
    shutil.copy(tmp_path / name, tmp_path / "mine.pt")
    with pytest.raises(ValueError, match="not named like a checkpoint"):
        SpeakerEncoder.load(tmp_path / "mine.pt")


def test_embed__a_file_its_int16_samples_and_its_waveform_agree(small_run, tmp_path, waveforms):
    import soundfile

    encoder = SpeakerEncoder.load(small_run)
    pcm = np.round(waveforms[0] * 32768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, 16000)
    for samples in (pcm, pcm / np.float32(32768)):
        assert np.array_equal(encoder.embed(tmp_path / "a.wav"), encoder.embed(samples))
    with pytest.raises(AudioError, match=r"b\.wav does not exist"):
        encoder.embed(tmp_path / "b.wav")


def test_compare__itself_is_1_and_several_enrolments_are_one_mean_direction(small_run, waveforms):
    encoder = SpeakerEncoder.load(small_run)
    assert encoder.compare([waveforms[0]], waveforms[0]).cosine == pytest.approx(1, abs=1e-6)
    rows = [encoder.embed(w) / np.linalg.norm(encoder.embed(w)) for w in waveforms]
    mean = rows[0] + rows[1]
    expected = mean @ rows[2] / np.linalg.norm(mean)
    assert encoder.compare(waveforms[:2], waveforms[2]).cosine == pytest.approx(expected, abs=1e-6)


def test_load__a_calibration_is_that_of_its_weights(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    calibration = Calibration(10.0, -9.0)
    saved = {SpeakerEncoder.load(small_run).identity: {"calibration": dataclasses.asdict(calibration)}}
    RunFolder.at(str(tmp_path / "run")).write_json(CALIBRATION_FILE, saved)
    assert SpeakerEncoder.load(tmp_path / "run").calibration == calibration
    assert SpeakerEncoder.load(tmp_path / "run", "last").calibration is None


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_load__a_device_that_is_not_there_is_said(small_run, device):
    with pytest.raises(ValueError, match=f"the device {device} can't be used here"):
        SpeakerEncoder.load(small_run, device=device)


def test_load__a_precision_that_is_not_known_is_refused(small_run):
    with pytest.raises(ValueError, match="precision is 'float16'; choose one of fp32, bf16, fp16"):
        SpeakerEncoder.load(small_run, precision="float16")


NO_WAVEFORMS = (np.zeros((2, 16000)), np.zeros(0), np.array([0.1, np.nan] * 999), np.zeros(999, np.int32))


@pytest.mark.parametrize("waveform", NO_WAVEFORMS)
def test_embed__what_is_no_waveform_is_refused(small_run, waveform):
    with pytest.raises(ValueError, match=r"an array of .* of shape \(.*\) is not a waveform"):
        SpeakerEncoder.load(small_run).embed(waveform)


def test_compare__enrolment_is_a_list_of_one_or_more(small_run, waveforms):
    encoder = SpeakerEncoder.load(small_run)
    for alone in ("a.wav", waveforms[0]):
        with pytest.raises(ValueError, match="must be a list of recordings"):
            encoder.compare(alone, waveforms[1])
    with pytest.raises(ValueError, match="at least one"):
        encoder.compare([], waveforms[0])


def test_identity__follows_the_code_that_makes_embeddings(small_run, tmp_path, monkeypatch):
    """Embeddings made before a code change, such as another padding rule, must not be reused."""
    package = tmp_path / "sslsv"
    shutil.copytree(Path(sslsv.__file__).parent, package)
    monkeypatch.setattr(sslsv, "__file__", str(package / "__init__.py"))
    encoder = SpeakerEncoder.load(small_run)
    found = {encoder.identity}
    names = ["data/audio.py", "data/recordings.py", "ops/layers.py", "encoders/pooling.py", "models/base.py"]
    for name in [*names, "models/simclr.py", "evaluation/verification.py", "evaluation/embedding.py"]:
        with open(package / name, "a") as file:
            file.write("# changed\n")
        found.add(replace(encoder).identity)
    assert len(found) == 9


def test_load__a_run_without_a_best_checkpoint_gives_its_last_one_and_says_so(small_run, tmp_path):
    folder, other = RunFolder.at(small_run), RunFolder(str(tmp_path), "run")
    for _, name in list_checkpoints(folder):
        write_checkpoint(other, dataclasses.replace(read_checkpoint(folder, name), best_step=None))
    encoder = SpeakerEncoder.load(other.location)
    assert encoder.steps == (3,) and "the last, step 3, is used" in encoder.notes[0]
    assert not SpeakerEncoder.load(small_run).notes


def test_load__an_average_leaves_out_a_best_checkpoint_from_long_before(small_run, tmp_path):
    folder, kept = RunFolder.at(small_run), RunFolder(str(tmp_path), "run")
    for (_, name), step in zip(list_checkpoints(folder), (10, 900, 1000), strict=True):
        checkpoint = read_checkpoint(folder, name)
        checkpoint.step, checkpoint.best_step = step, 10
        checkpoint.config = checkpoint.config.replace("keep_checkpoints: 3", "keep_checkpoints: 2")
        write_checkpoint(kept, checkpoint)
    assert SpeakerEncoder.load(kept.location, "average").steps == (900, 1000)
    kept.delete(f"checkpoints/{list_checkpoints(kept)[-1][1]}")
    kept.delete(f"checkpoints/{list_checkpoints(kept)[-1][1]}")
    with pytest.raises(ValueError, match="an average needs 2 or more checkpoints: 10 were"):
        SpeakerEncoder.load(kept.location, "average")


def test_fuse__the_cosine_is_the_mean_of_the_cosines(small_run, waveforms):
    one, other = (SpeakerEncoder.load(small_run, which) for which in ("best", "last"))
    nn.init.uniform_(other.model.encoder.head.weight, -1, 1)
    cosines = [encoder.compare([waveforms[0]], waveforms[1]).cosine for encoder in (one, other)]
    fused = one.fuse([other])
    assert fused.compare([waveforms[0]], waveforms[1]).cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert cosines[0] != pytest.approx(cosines[1], abs=1e-4)
    assert fused.identity not in {one.identity, other.identity}
    assert fused.describe()["fused_with"] == [other.describe()]


NO_TRIALS = ("evaluation.held_out_speakers=0",)
LISTED = (*NO_TRIALS, "evaluation.validation=mine")
CLUSTERS = ("data.train_lists=[clusters]", "data.held_out_lists=[voxceleb2_train_list]")


@pytest.mark.parametrize(
    ("first", "second", "is_calibratable"),
    [
        ((), (), True),
        ((), CLUSTERS, True),
        ((), ("seed=1",), False),
        ((), ("data.train_lists=[clusters]",), False),
        ((), ("evaluation.held_out_speakers=2",), False),
        ((), LISTED, False),
        (LISTED, (*LISTED, "seed=1", "data.train_lists=[clusters]"), True),
        (LISTED, (*NO_TRIALS, "evaluation.validation=yours"), False),
        (LISTED, NO_TRIALS, False),
        (NO_TRIALS, (*NO_TRIALS, "seed=1"), True),  # there are no trials to calibrate on
        (NO_TRIALS, LISTED, True),
    ],
)
def test_is_calibratable__where_all_hold_the_same_trials_out(small_run, first, second, is_calibratable):
    one = SpeakerEncoder.load(small_run)
    one, other = (replace(one, config=apply_overrides(one.config, changes)) for changes in (first, second))
    assert one.fuse([other]).is_calibratable == is_calibratable
