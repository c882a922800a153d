import shlex
import shutil
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


def test_folder__same_command_changes_nothing_and_another_seed_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "Fay Ray")  # with blanks in her files she could not be held out
    command = ["folder", str(folder), "--speaker-from", "top"]
    assert main([*command, "--seed", "1"]) == 0
    before = lists_of(folder.parent)
    assert main([*command, "--seed", "1"]) == 0
    assert main([*command, "--seed", "2"]) == 2
    assert "exists and would change" in capsys.readouterr().err
    assert lists_of(folder.parent) == before
    assert main([*command, "--seed", "2", "--force"]) == 0
    assert lists_of(folder.parent) != before


def test_folder__without_speakers_every_recording_is_its_own(folder: Path, tmp_path: Path) -> None:
    assert main(["folder", str(folder), "--speaker-from", "none"]) == 0
    manifest = read_train_lists(folder.parent, ["calls_train_list"])
    assert len(manifest) == manifest.num_speakers == 18
    assert "calls/Fay Ray/Fay Ray_0/0.wav" in manifest.paths
    assert not (folder.parent / "calls_validation_trials").exists()


def test_folder__regex_and_places_of_ones_own(folder: Path, tmp_path: Path) -> None:
    out, root = tmp_path / "lists" / "mine", tmp_path / "other"
    root.mkdir()
    command = ["folder", str(folder), "--speaker-from", "regex", "--regex", r"(\w+)_\d/", "--root", str(root)]
    assert main([*command, "--out", str(out), "--held-out-speakers", "0"]) == 0
    manifest = read_train_lists(root, [str(out)])
    assert manifest.speaker_names == ["Ray", "ann", "bob", "cid", "dee", "eve"]
    assert manifest.paths[0] == str(folder / "Fay Ray/Fay Ray_0/0.wav")  # not below the root: absolute


def test_folder__blanks_in_held_out_recordings_are_left_out_of_trials(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in sorted(folder.rglob("0.wav")):
        file.rename(file.with_name("number 0.wav"))
    for file in sorted(folder.glob("Fay Ray/*/*.wav")):
        file.unlink()
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    assert "2 held-out recordings have a blank" in capsys.readouterr().out
    paths, heard = lists_of(folder.parent)
    assert sum("number 0.wav" in path for path in paths) == 3 and not any(" " in path for path in heard)


def test_folder__noises_rooms_and_formats_that_are_not_read_are_left_out_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    before = lists_of(folder.parent)
    for name in ("musan_split/noise/a/1.wav", "simulated_rirs/small/r.wav", "ann/ann_0/9.m4a", "zoe/a/1.WMA"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    assert lists_of(folder.parent) == before
    printed = capsys.readouterr().out
    assert "2 noises and rooms below musan_split and simulated_rirs are left out" in printed
    assert "2 files are left out, because training does not read their format (.m4a, .wma)" in printed


@pytest.mark.parametrize(
    ("banks", "names"),
    [
        ((), []),
        (("musan_split",), ["noise"]),
        (("simulated_rirs",), ["reverb"]),
        (("musan_split", "simulated_rirs"), ["reverb", "noise"]),
    ],
)
def test_folder__says_how_to_train_a_published_recipe_with_what_is_there(
    folder: Path, capsys: pytest.CaptureFixture[str], banks: tuple[str, ...], names: list[str]
) -> None:
    for bank in banks:
        place = folder.parent / bank / ("noise" if bank == "musan_split" else "small")
        place.mkdir(parents=True)
        soundfile.write(place / "a.wav", np.ones(16_000) / 2, 16_000)
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 0
    command = next(line for line in capsys.readouterr().out.splitlines() if "sslsv.train" in line)
    overrides = shlex.split(command.partition("CONFIG ")[2])
    kinds = ["data.augment.noise.kinds=[noise]"] if "noise" in names else []
    config = load_config("configs/simclr.yml", [*overrides, *kinds, "train.batch_size=4"])
    assert [each.name for each in config.data.augment] == names
    assert (config.run.name, config.evaluation.test) == ("calls", ())
    check_data(config)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--speaker-from", "regex"], "--regex PATTERN go together"),
        (["--speaker-from", "regex", "--regex", "("], "no regular expression"),
        (["--speaker-from", "regex", "--regex", "a"], "has no group"),
        (["--speaker-from", "regex", "--regex", "(ann)"], "finds no speaker in Fay Ray/"),
        (["--speaker-from", "none", "--held-out-speakers", "2"], "needs speakers"),
        (
            ["--speaker-from", "top", "--held-out-speakers", "12"],
            "--held-out-speakers is 12, but there are 6",
        ),
        (["--speaker-from", "top", "--held-out-speakers", "-1"], "--held-out-speakers is -1"),
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
        ("Fay_Ray/1/1.wav", "would both be 'Fay_Ray'"),
        ("loose.wav", "lies directly in the folder"),
    ],
)
def test_folder__name_that_a_list_cannot_hold_is_refused(
    folder: Path, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    assert main(["folder", str(folder), "--speaker-from", "top"]) == 2
    assert words in capsys.readouterr().err


def test_folder__parents_of_one_name_in_two_places_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for speaker in ("ann", "bob"):
        (folder / speaker / "clean").mkdir()
        (folder / speaker / "clean" / "1.wav").touch()
    assert main(["folder", str(folder)]) == 2
    assert "can't tell if ann/clean and bob/clean are one speaker" in capsys.readouterr().err
