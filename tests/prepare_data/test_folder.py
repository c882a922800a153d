import contextlib
import io
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.config import load_config
from sslsv.data.list_forms import TRIALS, Rows
from sslsv.data.lists import read_train_lists, read_trials
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.folder import trial_line
from sslsv.train import check_data


def put(folder: Path, *files: str) -> Path:
    """Write files with one second of sound below a folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / file, np.ones(16_000) / 2, 16_000, format="WAV")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make six speakers with three recordings each, as NAME/session/number.wav."""
    names = ("ann", "bob", "cid", "dee", "eve", "Fay Ray")
    return put(
        tmp_path / "data/calls", *[f"{name}/{name}_{n // 2}/{n}.wav" for name in names for n in range(3)]
    )


def test_folder__held_out_speakers_are_in_the_trials_and_not_in_the_train_list(folder: Path) -> None:
    assert main(["folder", str(folder), "--speaker-from", "1", "--seed", "1"]) == 0
    root = folder.parent
    manifest = read_train_lists(root, ["calls_train_list"])
    assert manifest.paths == sorted(manifest.paths) and manifest.num_speakers == 4
    for speaker, path in zip(manifest.speakers, manifest.paths, strict=True):
        assert manifest.speaker_names[speaker] == path.split("/")[1].replace(" ", "_")
    trials = read_trials(root, "calls_validation_trials")
    speakers = {path.split("/")[1] for path in trials.paths}
    assert len(speakers) == 2 and not speakers & {path.split("/")[1] for path in manifest.paths}
    assert trials.targets.sum() == 2 and (~trials.targets).sum() == 2  # one recording per session
    for i, j in zip(trials.enrol[trials.targets], trials.test[trials.targets], strict=True):
        assert os.path.dirname(trials.paths[i]) != os.path.dirname(trials.paths[j])


def test_folder__without_speakers_every_recording_is_its_own(folder: Path, tmp_path: Path) -> None:
    assert main(["folder", str(folder), "--speaker-from", "none"]) == 0
    manifest = read_train_lists(folder.parent, ["calls_train_list"])
    assert len(manifest) == manifest.num_speakers == 18
    assert "calls/Fay Ray/Fay Ray_0/0.wav" in manifest.paths
    assert not (folder.parent / "calls_validation_trials").exists()


def test_folder__noises_rooms_and_what_is_no_audio_are_left_out_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(
        folder,
        "musan_split/noise/a/1.wav",
        "simulated_rirs/small/r.wav",
        "zoe/9.txt",
        "zoe/1.pdf",
        "zoe/2.WMA",
    )
    assert main(["folder", str(folder), "--speaker-from", "1", "--held-out-speakers", "0"]) == 0
    assert "calls/zoe/2.WMA" in (paths := read_train_lists(folder.parent, ["calls_train_list"]).paths)
    assert len(paths) == 19
    printed = capsys.readouterr().out
    assert "2 noises and rooms below musan_split and simulated_rirs are left out" in printed
    assert "2 files are left out: they lack the suffix of an audio file (zoe/1.pdf, zoe/9.txt)" in printed


def overrides_of(printed: str) -> list[str]:
    """Return the overrides in the printed command, as a shell passes them on."""
    command = shlex.split(next(line for line in printed.splitlines() if "sslsv train" in line))
    assert command[3:6] == ["sslsv", "train", "configs/simclr.yml"]
    return command[6:]


KINDS = ("noise", "music", "speech")


@pytest.mark.parametrize(
    ("sounds", "names"),
    [
        ([], []),
        (["musan_split/noise/a.wav"], ["noise"]),
        (["simulated_rirs/small/a.wav"], ["reverb"]),
        (["musan_split/music/a.wav", "simulated_rirs/a.wav"], ["reverb", "noise"]),
        (["musan/speech/librivox/a.wav"], ["noise"]),
        (["RIRS_NOISES/simulated_rirs/a.wav", "RIRS_NOISES/pointsource_noises/b.wav"], ["reverb"]),
        ([f"musan/{kind}/a.wav" for kind in KINDS] + ["RIRS_NOISES/simulated_rirs/a.wav"], None),
    ],
)
def test_folder__the_printed_command_augments_with_the_noises_that_are_there(
    folder: Path, capsys: pytest.CaptureFixture[str], sounds: list[str], names: list[str] | None
) -> None:
    put(folder.parent, *sounds)
    assert main(["folder", str(folder), "--speaker-from", "1"]) == 0
    config = load_config("configs/simclr.yml", overrides_of(capsys.readouterr().out))
    if names is not None:
        assert [each.name for each in config.data.augment] == names
    check_data(config)


@pytest.fixture(scope="module")
def printed_overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the overrides in the command printed for 384 recordings of six speakers."""
    folder, printed = tmp_path_factory.mktemp("data") / "calls", io.StringIO()
    put(folder, *[f"{speaker}/{n}.wav" for speaker in "abcdef" for n in range(64)])
    with contextlib.redirect_stdout(printed):
        assert main(["folder", str(folder)]) == 0
    return overrides_of(printed.getvalue())


@pytest.mark.parametrize("config", sorted(Path("configs").glob("*.yml")), ids=lambda config: config.stem)
def test_folder__the_overrides_that_are_printed_go_with_every_config(
    printed_overrides: list[str], config: Path
) -> None:
    found = load_config(config, printed_overrides)
    assert (found.run.name, found.evaluation.test, found.train.batch_size) == ("calls", (), 128)
    check_data(found)


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("1.wav", "--speaker-from (", "not a regular expression"),
        (
            "1.wav",
            "--speaker-from tpo",
            "'tpo' is not a level, parent or none, and as a regular expression it has no",
        ),
        ("x/1.wav", "--speaker-from (ann)", "finds no speaker in Fay Ray/"),
        ("x/1.wav", "--speaker-from none --held-out-speakers 2", "needs speakers"),
        ("x/1.wav", "--speaker-from 1 --held-out-speakers 12", "12 speakers cannot be held out of 7"),
        ("x/1.wav", "--speaker-from 1 --held-out-speakers -1", "-1 speakers cannot be held out"),
        ("x/1.wav", "--speaker-from 1 --root /dev/null", "name another folder with --root"),
        ("Fay_Ray/1.wav", "--speaker-from 1", "'Fay Ray' and 'Fay_Ray' would be one speaker"),
        ("bob/bob_0/1.wav b.wav", "--speaker-from 1", "has a blank after"),
        ("x\ny/1.wav", "--speaker-from 1", "line break"),
        ("loose.wav", "--speaker-from 1", "finds no speaker in loose.wav"),
    ],
)
def test_folder__wrong_request_or_name_is_one_sentence(
    folder: Path, file: str, options: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder, file)
    assert main(["folder", str(folder), *options.split()]) == 2
    assert words in capsys.readouterr().err
    assert not list(folder.parent.glob("calls_*"))


SPEAKERS = {  # files, and the speakers found from their folders or the error message
    "speaker/file": (["ann/1.wav", "bob/1.wav"], ["ann", "bob"]),
    "folder/speaker/file": (["wav/ann/1.wav", "wav/bob/1.wav"], ["ann", "bob"]),
    "speaker/folder/file": (["ann/wav/1.wav", "bob/wav/1.wav"], ["ann", "bob"]),
    "speaker/its only session/file": (["ann/x/1.wav", "bob/y/1.wav"], ["ann", "bob"]),
    "speakers at two depths": (["ann/1.wav", "bob/2020/1.wav"], ["ann", "bob"]),
    "speaker/session/file": (
        ["ann/x/1.wav", "ann/y/1.wav", "bob/z/1.wav"],
        "2 speakers, folders of level 1 (ann, bob ...), or 3 speakers, folders of level 2 (x, y, z ...)",
    ),
    "speaker/session of one name/file": (
        ["ann/s1/1.wav", "ann/s2/1.wav", "bob/s1/1.wav", "bob/s2/1.wav"],
        "of level 1 (ann, bob ...), or 2 speakers, folders of level 2 (s1, s2 ...)",
    ),
    "folder/speaker/session/file": (
        ["wav/ann/x/1.wav", "wav/ann/y/1.wav", "wav/bob/z/1.wav"],
        "--speaker-from 2 or 3 (or none",
    ),
    "set/speaker/chapter/file": (
        ["dev/ann/1/1.wav", "dev/bob/2/1.wav", "dev/bob/3/1.wav", "train/cid/4/1.wav"],
        "--speaker-from 1 or 2 or 3 (or none",
    ),
    "sessions at two depths": (
        ["ann/1.wav", "bob/2020/1.wav", "bob/2021/1.wav"],
        "2 speakers, folders of level 1 (ann, bob ...), or 3 speakers, the last folders (2020, 2021, ann ...)",
    ),
    "no folders": (["1.wav", "2.wav"], "finds no speaker in 1.wav"),
    "VoxCeleb1": (
        [f"wav/id{number}/x/1.wav" for number in (10001, 10002, 10270, 10309, 10310)],
        ["id10001", "id10002", "id10310"],
    ),
    "VoxCeleb2": (
        ["dev/aac/id00012/x/1.wav", "dev/aac/id00012/y/1.wav", "test/aac/id00017/x/1.wav"],
        ["id00012"],
    ),
    "VoxCeleb in two places and formats": (
        ["id00012/x/1.m4a", "id00012/x/1.wav", "a/id00012/x/1.wav", "a/id00012/x/1.flac"],
        ["id00012"],
    ),
    "VoxCeleb's test speakers": (["id10270/x/1.wav", "id10271/x/1.wav"], "--speaker-from '(id"),
    "Kaldi": (["wav.scp"], "is a Kaldi folder, usable as a list: data.train_lists=["),
    "nothing": (["readme.txt"], "holds no recordings"),
    "a chosen level": (
        ["dev/ann/1/1.wav", "dev/bob/2/1.wav", "train/cid/4/1.wav"],
        ["ann", "bob", "cid"],
        "2",
    ),
    "another chosen level": (["dev/ann/1/1.wav", "train/cid/4/1.wav"], ["dev", "train"], "1"),
    "a regular expression": (["ann-1.wav", "ann-2.wav", "Fay Ray-1.wav"], ["Ray", "ann"], r"(\w+)-\d"),
}


@pytest.mark.parametrize("case", SPEAKERS.values(), ids=SPEAKERS)
def test_folder__speakers_are_told_by_a_level_of_folders(
    tmp_path: Path, case: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    files, expected, *level = case
    folder, options = put(tmp_path / "data/calls", *files), [f"--speaker-from={each}" for each in level]
    root = tmp_path / "lists" if level else folder.parent  # paths outside this folder are absolute
    root.mkdir(exist_ok=True)
    status = main(["folder", str(folder), f"--root={root}", "--held-out-speakers=0", *options])
    if isinstance(expected, str):
        assert status == 2 and expected in capsys.readouterr().err
        assert not (root / "calls_train_list").exists()
        return
    assert status == 0
    manifest = read_train_lists(root, ["calls_train_list"])
    assert manifest.speaker_names == expected and manifest.paths[0].startswith(str(folder)) == bool(level)
    assert len({path.removesuffix(".flac") for path in manifest.paths}) == len(manifest.paths)
    assert not any(path.endswith("m4a") for path in manifest.paths)  # m4a is slow to read


def test_folder__speakers_that_share_sessions_are_all_in_the_trials(tmp_path: Path) -> None:
    names = ("ann", "bob", "cid", "dee", "eve", "fay", "gus", "hal")
    put(tmp_path / "m", *[f"meeting{i}/{name}_{k}.wav" for i in range(3) for name in names for k in "01"])
    rule = r"--speaker-from=/([a-z]+)_\d"
    assert main(["folder", str(tmp_path / "m"), rule, "--held-out-speakers=2"]) == 0
    trials = read_trials(tmp_path, "m_validation_trials")
    recordings = [tuple(re.split("[/_]", path)[1:3]) for path in trials.paths]
    assert len({speaker for _, speaker in recordings}) == 2
    assert len(recordings) == len(set(recordings)) == 6  # one of each speaker and meeting


def test_folder__of_voxceleb_says_what_is_left_out_and_pairs_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "v", *[f"wav/id1000{i}/v{n}/{k}.wav" for i in range(5) for n in "12" for k in "12"])
    put(tmp_path / "v", "wav/id10270/x/1.wav", "wav/id10001/v1/1.flac")
    assert main(["folder", str(tmp_path / "v")]) == 0
    printed = capsys.readouterr().out
    assert (
        "read as VoxCeleb" in printed and "1 recordings of VoxCeleb's test speakers are left out" in printed
    )
    assert "1 recordings exist in two formats or folders, and are listed once" in printed
    trials = read_trials(tmp_path, "v_validation_trials")
    for i, j in zip(trials.enrol[trials.targets], trials.test[trials.targets], strict=True):
        assert trials.paths[i].split("/")[3] != trials.paths[j].split("/")[3]


@pytest.mark.parametrize("path", ["a/1.wav", "my a/1.wav", "a\u00a0b/1.wav", "a/\u30001.wav"])
def test_trial_line__is_read_back_whatever_blanks_its_paths_hold(tmp_path: Path, path: str) -> None:
    (tmp_path / "trials").write_text(trial_line(True, path, "b/2.wav"))
    assert list(Rows(tmp_path, "trials", TRIALS)) == [(1, "1", path, "b/2.wav")]


@pytest.mark.parametrize("name", ["My Voices", "a: b #c", "2024", "it's [1, 2]", "-x", "é"])
def test_folder__of_any_name_has_lists_and_a_command_that_runs(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / name
    put(root / name, *[f"Speaker {i}/take {n}.wav" for i in range(5) for n in range(3)])
    assert main(["folder", str(root / name)]) == 0
    config = load_config("configs/simclr.yml", overrides_of(capsys.readouterr().out))
    assert config.data.root == str(root)
    check_data(config)
    assert len(read_train_lists(root, config.data.train_lists)) == 9
    trials = read_trials(root, str(config.evaluation.validation))
    assert trials.paths[0].startswith(f"{name}/Speaker ") and len(trials) > 0


@pytest.mark.parametrize("command", [["folder"], ["check"], ["convert", "--out", "copy"]])
def test_commands__name_the_first_file_whose_name_is_not_utf8(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "calls" / os.fsdecode(b"Andr\xe9") / "1.wav"
    file.parent.mkdir(parents=True)
    file.touch()
    assert main([command[0], str(tmp_path / "calls"), *command[1:]]) == 2
    error = capsys.readouterr().err
    assert r"Andr\xe9/1.wav' has a name that is not UTF-8" in error and "convmv -f LATIN1" in error
