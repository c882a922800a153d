import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.config import load_config
from sslsv.data.lists import read_train_lists, read_trials
from sslsv.prepare_data.__main__ import main
from sslsv.train import check_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six speakers with three recordings each, in folders: NAME/session/number.wav."""
    folder = tmp_path / "data" / "calls"
    for speaker in ("ann", "bob", "cid", "dee", "eve", "Fay Ray"):
        for number in range(3):
            file = folder / speaker / f"{speaker}_{number // 2}" / f"{number}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return folder


def lists_of(root: Path) -> tuple[list[str], list[str]]:
    return read_train_lists(root, ["calls_train_list"]).paths, read_trials(
        root, "calls_validation_trials"
    ).paths


def test_folder__held_out_speakers_are_in_the_trials_and_not_in_the_train_list(folder: Path) -> None:
    assert main(["folder", str(folder), "--speaker-from", "top", "--seed", "1"]) == 0
    root = folder.parent
    manifest = read_train_lists(root, ["calls_train_list"])
    assert manifest.paths == sorted(manifest.paths) and manifest.num_speakers == 4
    assert all(
        name == path.split("/")[1].replace(" ", "_")
        for name, path in zip(
            [manifest.speaker_names[s] for s in manifest.speakers], manifest.paths, strict=True
        )
    )
    trials = read_trials(root, "calls_validation_trials")
    heard = {path.split("/")[1] for path in trials.paths}
    assert len(heard) == 2 and not heard & {path.split("/")[1] for path in manifest.paths}
    assert trials.targets.sum() == (~trials.targets).sum() == 6


def test_folder__without_speakers_every_recording_is_its_own(folder: Path, tmp_path: Path) -> None:
    assert main(["folder", str(folder), "--speaker-from", "none"]) == 0
    manifest = read_train_lists(folder.parent, ["calls_train_list"])
    assert len(manifest) == manifest.num_speakers == 18
    assert "calls/Fay Ray/Fay Ray_0/0.wav" in manifest.paths
    assert not (folder.parent / "calls_validation_trials").exists()


def test_folder__regex_and_another_root(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    root.mkdir()
    command = ["folder", str(folder), "--speaker-from", r"(\w+)_\d/", "--root", str(root)]
    assert main([*command, "--held-out-speakers", "0"]) == 0
    manifest = read_train_lists(root, ["calls_train_list"])
    assert manifest.speaker_names == ["Ray", "ann", "bob", "cid", "dee", "eve"]
    assert manifest.paths[0] == str(folder / "Fay Ray/Fay Ray_0/0.wav")  # not below the root: absolute


def test_folder__trials_of_paths_with_blanks_have_tabs(folder: Path) -> None:
    for file in sorted(folder.rglob("0.wav")):
        file.rename(file.with_name("number 0.wav"))
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    trials = read_trials(folder.parent, "calls_validation_trials")
    assert all((folder.parent / path).exists() for path in trials.paths)
    assert any(" " in path for path in trials.paths)


def test_folder__noises_rooms_and_what_is_no_audio_are_left_out_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    before = lists_of(folder.parent)
    for name in ("musan_split/noise/a/1.wav", "simulated_rirs/small/r.wav", "ann/ann_0/9.txt", "zoe/a/1.pdf"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    assert lists_of(folder.parent) == before
    printed = capsys.readouterr().out
    assert "2 noises and rooms below musan_split and simulated_rirs are left out" in printed
    assert (
        "2 files are left out: their names are not of audio files (ann/ann_0/9.txt, zoe/a/1.pdf)" in printed
    )
    for name in ("ann/ann_0/9.m4a", "zoe/a/1.WMA"):
        (folder / name).touch()
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    assert lists_of(folder.parent) != before


@pytest.mark.parametrize(
    ("banks", "names"),
    [
        ([], []),
        (["musan_split"], ["noise"]),
        (["simulated_rirs"], ["reverb"]),
        (["musan_split", "simulated_rirs"], ["reverb", "noise"]),
    ],
)
def test_folder__says_how_to_train_a_published_recipe_with_what_is_there(
    folder: Path, capsys: pytest.CaptureFixture[str], banks: list[str], names: list[str]
) -> None:
    for bank in banks:
        place = folder.parent / bank / ("noise" if bank == "musan_split" else "small")
        place.mkdir(parents=True)
        soundfile.write(place / "a.wav", np.ones(16_000) / 2, 16_000)
    for file in folder.rglob("*.wav"):
        soundfile.write(file, np.ones(800) / 2, 16_000)
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    command = next(line for line in capsys.readouterr().out.splitlines() if "sslsv.train" in line)
    overrides = shlex.split(command.partition("CONFIG ")[2])
    kinds = ["train.batch_size=4", *["data.augment.noise.kinds=[noise]"] * ("noise" in names)]
    config = load_config("configs/simclr.yml", [*overrides, *kinds])
    assert [each.name for each in config.data.augment] == names
    assert (config.run.name, config.evaluation.test) == ("calls", ())
    check_data(config)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--speaker-from", "("], "no regular expression"),
        (
            ["--speaker-from", "tpo"],
            "'tpo' is not parent, top or none, and as a regular expression it has no group",
        ),
        (["--speaker-from", "(ann)"], "finds no speaker in Fay Ray/"),
        (["--speaker-from", "none", "--held-out-speakers", "2"], "needs speakers"),
        (
            ["--speaker-from", "top", "--held-out-speakers", "12"],
            "12 speakers cannot be held out of 6",
        ),
        (["--speaker-from", "top", "--held-out-speakers", "-1"], "-1 speakers cannot be held out"),
    ],
)
def test_folder__wrong_request_is_one_sentence(
    folder: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folder", str(folder), *options]) == 2
    assert words in capsys.readouterr().err
    assert not list(folder.parent.glob("calls_*"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bob/bob_0/1.wav b.wav", "has a blank after"),
        ("x\ny/1.wav", "line break"),
        ("loose.wav", "finds no speaker in loose.wav"),
    ],
)
def test_folder__name_that_a_list_cannot_hold_is_refused(
    folder: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 2
    assert words in capsys.readouterr().err


def test_folder__sessions_that_may_be_speakers_are_shown_in_both_readings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folder", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "6 speakers, the first folders (Fay Ray, ann, bob ...), or 12 speakers" in error
    assert "(Fay Ray/Fay Ray_0, Fay Ray/Fay Ray_1, ann/ann_0 ...)" in error and "--speaker-from top" in error
    for file in sorted(folder.rglob("*.wav")):
        file.rename(file.parent.parent / f"{file.parent.name}_{file.name}")
    assert main(["folder", str(folder)]) == 0
    assert "6 speakers (Fay_Ray, ann, bob, ...)" in capsys.readouterr().out


def test_folder__of_a_name_with_blanks_has_lists_and_a_command_that_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voices = folder.rename(folder.with_name("My Voices"))
    assert main(["folder", str(voices), "--speaker-from", "top"]) == 0
    command = next(line for line in capsys.readouterr().out.splitlines() if "sslsv.train" in line)
    overrides = shlex.split(command.partition("CONFIG ")[2])
    assert "run.name=My_Voices" in overrides and "data.train_lists=[My_Voices_train_list]" in overrides
    assert len(read_train_lists(voices.parent, ["My_Voices_train_list"])) == 12
    assert len(read_trials(voices.parent, "My_Voices_validation_trials")) == 12
