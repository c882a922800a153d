"""Test the entire preparation offline, from a local server with archives of the real structure."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import decode
from sslsv.data.lists import read_train_lists, read_trials
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.corpora import cut, musan_path, piece_bounds
from tests.prepare_data.corpus_server import (
    Server,
    everything,
    serving,
    speech,
    tree,
    voxceleb1_files,
    voxceleb2_files,
    wav,
)

FILES = everything()
Prepare = Callable[..., int]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(dict(FILES)) as running:
        yield running


@pytest.fixture
def prepare(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"SSLSV_VOXCELEB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setattr("sslsv.prepare_data.download._FIRST_PAUSE_SECONDS", 0.01)

    def run(*options: str) -> int:
        return main([str(tmp_path / "data"), "--sources", str(server.sources(tmp_path / "s.yml")), *options])

    return run


LISTS = ("--held-out-speakers", "2")


def test_all__broken_off_and_run_again_is_complete_and_fetches_nothing_twice(
    ray_session: None, server: Server, prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    half = {
        name: len(FILES[name]) // 2 for name in ("vox2_dev_aac_partac", "vox1_dev_wav_partab", "musan.tar.gz")
    }
    server.break_after = {name: [size, *[0] * 6] for name, size in half.items()}
    assert prepare(*LISTS) == 2
    errors = capsys.readouterr().err
    for name, size in half.items():
        assert f"{name} broke off 6 times" in errors
        assert (root / f"archives/{name}.part").stat().st_size == size
    assert not (root / "voxceleb2").exists()
    server.break_after.clear()
    assert prepare(*LISTS) == 0
    assert "is complete." in capsys.readouterr().out
    assert server.sent == {name: len(content) for name, content in FILES.items()}

    for name, content in voxceleb1_files().items():
        assert (root / name.replace("wav/", "voxceleb1/", 1)).read_bytes() == content
    for name, content in voxceleb2_files().items():
        wav_path = name.replace("dev/aac/", "voxceleb2/").replace(".m4a", ".wav")
        assert np.array_equal(soundfile.read(root / wav_path, dtype="int16")[0], decode(content)[0])
    found = [path.rpartition("/")[2] for path in tree(root) if path.startswith(("musan_split", "simulated_"))]
    pieces = {"music-fma-0001": 3, "noise-free-sound-0000": 1, "speech-librivox-0002": 2}
    assert found[:6] == [f"{name}_{8 * i:05d}.wav" for name, count in pieces.items() for i in range(count)]
    assert found[6:] == 3 * ["Room001-00001.wav", "Room001-00002.wav"]
    for corpus in ("voxceleb1", "voxceleb2"):
        training = read_train_lists(root, (f"{corpus}_train_list",))
        validation = read_trials(root, f"{corpus}_validation_trials")
        assert training.num_speakers == 4
        assert all((root / path).exists() for path in [*training.paths, *validation.paths])
        held_out = {path.split("/")[1] for path in validation.paths}
        assert len(held_out) == 2
        assert not held_out & {*training.speaker_names, "id10270", "id10271"}
    for name in ("trials", "voxceleb1_test_O", "voxceleb1_test_E", "voxceleb1_test_H"):
        assert (root / name).read_bytes() == FILES["veri_test2.txt"]

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert prepare(*LISTS) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
    assert server.sent == {name: len(content) for name, content in FILES.items()}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_install__what_the_user_has_linked_is_taken_as_it_is(
    prepare: Prepare, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, root = put(tmp_path / "mine", voxceleb1_files()), tmp_path / "data"
    root.mkdir()
    for name in ("musan_split", "simulated_rirs", "voxceleb2"):
        (root / name).symlink_to(mine)
    (root / "voxceleb1").mkdir()
    for speaker in (mine / "wav").iterdir():
        (root / "voxceleb1" / speaker.name).symlink_to(speaker)
    before = tree(mine)
    assert prepare("--only", "voxceleb1", "voxceleb2", "musan", "rirs") == 0
    assert capsys.readouterr().out.count("your own linked folder is used") == 4
    assert prepare("--only", "lists", "--held-out-speakers", "0") == 0
    assert "data has these steps: lists." in capsys.readouterr().out  # unchecked corpora are not mentioned
    assert len(read_train_lists(root, ("voxceleb1_train_list",))) == 24
    assert not server.requests and tree(mine) == before


RECORDINGS = [("id10270", "test", 1), ("id10270", "test", 2), ("id10271", "dev", 1)]  # from the test lists


@pytest.mark.parametrize("pattern", ["{part}/wav/{who}/v/0000{n}.wav", "{who}/v/0000{n}.flac"])
def test_trials__name_recordings_where_they_are_when_unpacked_apart_or_in_another_format(
    prepare: Prepare, tmp_path: Path, pattern: str
) -> None:
    paths = [pattern.format(part=part, who=who, n=n) for who, part, n in RECORDINGS]
    root = put(tmp_path / "data", {f"voxceleb1/{path}": b"" for path in paths})
    assert prepare("--only", "trials") == 0
    assert sorted(read_trials(root, "trials").paths) == sorted(f"voxceleb1/{path}" for path in paths)


@pytest.mark.parametrize("place", ["musan/noise", "RIRS_NOISES/simulated_rirs/smallroom"])
def test_install__archives_unpacked_by_hand_are_read_as_they_are(
    prepare: Prepare, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    put(tmp_path / "data", {f"{place}/1.wav": b""})
    assert prepare("--only", "musan" if "musan" in place else "rirs") == 0
    assert "is read as it is" in capsys.readouterr().out and not server.requests


def test_main__says_what_is_wrong_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chek", str(tmp_path)]) == 2
    assert "did you mean 'check'?" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "in VoxCeleb's layout" in capsys.readouterr().out
    assert main([str(tmp_path), "--only", "rirs", "--from", str(tmp_path / "none")]) == 2
    assert "none is not a folder" in capsys.readouterr().err
    assert main([str(tmp_path), "--only", "lists"]) == 2
    assert "has neither voxceleb1/ nor voxceleb2/" in capsys.readouterr().err
    put(tmp_path, {f"voxceleb2/id0001{i}/v/1.wav": b"" for i in range(4)})
    assert main([str(tmp_path), "--only", "lists", "--held-out-speakers", "2"]) == 2
    assert "one of them with two utterances" in capsys.readouterr().err
    assert not (tmp_path / "voxceleb2_train_list").exists()


@pytest.mark.parametrize(
    ("seconds", "lengths"),
    [
        (0.5, [0.5]),
        (3, [3]),
        (8, [8]),
        (8.5, [8.5]),
        (9, [8, 1]),
        (16, [8, 8]),
        (17.5, [8, 8, 1.5]),
        (24.9, [8, 8, 8.9]),
    ],
)
def test_piece_bounds__keep_every_sample(seconds: float, lengths: list[float]) -> None:
    bounds = piece_bounds(round(seconds * 16_000), 16_000)
    assert [(end - start) / 16_000 for start, end in bounds] == lengths
    assert [start for start, _ in bounds[1:]] == [end for _, end in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, round(seconds * 16_000))


def test_cut__pieces_together_are_the_file(tmp_path: Path) -> None:
    content = wav(speech(1, 20.3))
    cut(content, tmp_path / "noise/fs/a-0001.wav")
    pieces = sorted((tmp_path / "noise/fs").iterdir())
    assert [piece.name for piece in pieces] == ["a-0001_00000.wav", "a-0001_00008.wav", "a-0001_00016.wav"]
    joined = np.concatenate([soundfile.read(piece, dtype="int16")[0] for piece in pieces])
    (tmp_path / "whole.wav").write_bytes(content)
    assert np.array_equal(joined, soundfile.read(tmp_path / "whole.wav", dtype="int16")[0])


def test_cut__writes_missing_pieces_alone(tmp_path: Path) -> None:
    cut(wav(speech(1, 20.3)), tmp_path / "a.wav")
    (tmp_path / "a_00000.wav").write_bytes(b"kept")
    (tmp_path / "a_00008.wav").unlink()
    cut(wav(speech(1, 20.3)), tmp_path / "a.wav")
    assert (tmp_path / "a_00000.wav").read_bytes() == b"kept"
    assert soundfile.info(tmp_path / "a_00008.wav").frames == 8 * 16_000


def test_musan_place__keeps_the_archives_folders_below_the_category() -> None:
    assert musan_path("musan/music/fma/x.wav") == "music/fma/x.wav"
    assert musan_path("/mine/music/musan/noise/free-sound/x.wav") == "noise/free-sound/x.wav"
    assert musan_path("musan/music/fma/LICENSE") is None
    assert musan_path("musan/README") is None
