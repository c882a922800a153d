"""The whole preparation, offline: a local server with archives of the real structure."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from sslsv.data.lists import read_train_lists, read_trials
from sslsv.prepare_data.__main__ import main
from sslsv.prepare_data.decode import decode
from sslsv.prepare_data.lists import find_utterances
from tests.prepare_data.corpus_server import (
    Server,
    everything,
    md5,
    serving,
    speech,
    tree,
    voxceleb1_files,
    voxceleb2_files,
    wav,
    zipped,
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

    def run(command: str, *options: str, wrong: dict[str, str] | None = None) -> int:
        (tmp_path / "sources.yml").write_text(server.sources(wrong))
        first = [] if command == "all" else [command]
        sources = [] if command == "lists" else ["--sources", str(tmp_path / "sources.yml"), "--tries", "2"]
        return main([*first, str(tmp_path / "data"), *sources, *options])

    return run


LISTS = ("--held-out-speakers", "2", "--validation-trials", "20")


def test_all__broken_off_and_run_again_is_complete_and_fetches_nothing_twice(
    ray_session: None, server: Server, prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    half = {
        name: len(FILES[name]) // 2 for name in ("vox2_dev_aac_partac", "vox1_dev_wav_partab", "musan.tar.gz")
    }
    server.break_after = {name: [size, 0, 0] for name, size in half.items()}
    assert prepare("all", *LISTS) == 2
    errors = capsys.readouterr().err
    for name, size in half.items():
        assert f"{name} broke off 2 times" in errors
        assert (root / f"archives/{name}.part").stat().st_size == size
    assert not (root / "voxceleb2").exists()
    server.break_after.clear()
    assert prepare("all", *LISTS) == 0
    assert "is complete." in capsys.readouterr().out
    assert server.sent == {name: len(content) for name, content in FILES.items()}

    for name, content in voxceleb1_files().items():
        assert (root / name.replace("wav/", "voxceleb1/", 1)).read_bytes() == content
    for name, content in voxceleb2_files().items():
        place = name.replace("dev/aac/", "voxceleb2/").replace(".m4a", ".wav")
        assert np.array_equal(soundfile.read(root / place, dtype="int16")[0], decode(content))
    assert [path for path in tree(root) if path.startswith(("musan_split", "simulated_rirs"))] == [
        "musan_split/music/fma/music-fma-0001_00000.wav",
        "musan_split/music/fma/music-fma-0001_00008.wav",
        "musan_split/music/fma/music-fma-0001_00016.wav",
        "musan_split/noise/free-sound/noise-free-sound-0000_00000.wav",
        "musan_split/speech/librivox/speech-librivox-0002_00000.wav",
        "musan_split/speech/librivox/speech-librivox-0002_00008.wav",
        *sorted(
            f"simulated_rirs/{size}room/Room001/Room001-0000{n}.wav"
            for size in ("small", "medium", "large")
            for n in (1, 2)
        ),
    ]
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
    assert prepare("all", *LISTS) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
    assert server.sent == {name: len(content) for name, content in FILES.items()}


def test_voxceleb2__with_a_corrupt_recording_converts_the_others_and_tries_again(
    ray_session: None, server: Server, prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {**voxceleb2_files(), "dev/aac/id00010/video1/00001.m4a": b"no audio" * 100}
    archive = zipped(files)
    given = tmp_path / "given"
    given.mkdir()
    (given / "vox2_dev_aac.zip").write_bytes(archive)
    server.files["vox2_dev_aac.zip"] = archive
    options = ("--from", str(given), "--format", "flac", "--delete-sources")
    for _ in range(2):
        assert prepare("voxceleb2", *options) == 1
        out = capsys.readouterr().out
        assert (
            "1 of 12 recordings could not be converted (id00010/video1/00001.flac: it can't be decoded" in out
        )
    assert "id00010/video1/00001.flac\tit can't be" in (tmp_path / "data/voxceleb2_failures.txt").read_text()
    assert len(list((tmp_path / "data/voxceleb2").rglob("*.flac"))) == 11
    archive = zipped(voxceleb2_files())
    (given / "vox2_dev_aac.zip").write_bytes(archive)
    server.files["vox2_dev_aac.zip"] = archive
    assert prepare("voxceleb2", *options) == 0
    assert not (tmp_path / "data/voxceleb2_failures.txt").exists()
    assert (given / "vox2_dev_aac.zip").exists()  # the user's own
    assert not server.sent


def test_voxceleb2__converts_folders_that_the_user_has(
    ray_session: None, prepare: Prepare, server: Server, tmp_path: Path
) -> None:
    for name, content in voxceleb2_files().items():
        path = tmp_path / "mine/vox2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert prepare("voxceleb2", "--from", str(tmp_path / "mine"), "--delete-sources") == 0
    assert len(list((tmp_path / "data/voxceleb2").rglob("*.wav"))) == 12
    assert len(list((tmp_path / "mine").rglob("*.m4a"))) == 12
    assert not server.requests


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_voxceleb2__folders_of_the_user_are_a_part_and_the_rest_still_comes(
    ray_session: None, prepare: Prepare, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = voxceleb2_files()
    for number, speaker in enumerate(("id00010", "id00011"), start=1):
        disk = put(tmp_path / speaker, {name: files[name] for name in files if speaker in name})
        assert prepare("voxceleb2", "--from", str(disk)) == 0
        assert "the whole corpus has 1,092,009" in capsys.readouterr().out
        assert len(list((tmp_path / "data/voxceleb2").rglob("*.wav"))) == 2 * number
    assert not server.requests
    assert prepare("voxceleb2") == 0
    assert len(list((tmp_path / "data/voxceleb2").rglob("*.wav"))) == 12
    assert prepare("voxceleb2") == 0
    assert "all files are in place" in capsys.readouterr().out


def test_voxceleb2__another_format_makes_no_recording_twice(
    ray_session: None, prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = voxceleb2_files()
    mine = put(tmp_path / "mine", {name: files[name] for name in files if "id00010" in name})
    assert prepare("voxceleb2", "--from", str(mine), "--format", "flac") == 0
    assert prepare("voxceleb2") == 0
    assert (
        "2 recordings are there as flac and stay so: --format wav makes new ones" in capsys.readouterr().out
    )
    out = tmp_path / "data/voxceleb2"
    assert (len(list(out.rglob("*.flac"))), len(list(out.rglob("*.wav")))) == (2, 10)
    assert prepare("voxceleb2", "--format", "flac") == 0
    assert "10 recordings are there as wav and stay so" in capsys.readouterr().out
    assert len([path for path in out.rglob("*") if path.is_file()]) == 12


def test_voxceleb2__takes_both_kinds_of_a_mixed_folder_and_the_archive_at_hand(
    ray_session: None, prepare: Prepare, server: Server, tmp_path: Path
) -> None:
    name = "dev/aac/id00010/video1/00001.m4a"
    both = {name: voxceleb2_files()[name], "dev/aac/id00010/mine/00001.wav": wav(speech(9))}
    mixed = put(tmp_path / "mixed", both)
    archive = put(tmp_path / "given", {name: FILES[name] for name in FILES if name.startswith("vox2_dev")})
    assert prepare("voxceleb2", "--from", str(mixed), "--from", str(archive)) == 0
    out = tmp_path / "data/voxceleb2"
    assert (out / "id00010/mine/00001.wav").is_symlink()
    assert len([path for path in out.rglob("*.wav") if not path.is_symlink()]) == 12
    assert {path.name for path in mixed.rglob("*") if path.is_file()} == {"00001.m4a", "00001.wav"}
    assert not server.requests


def test_voxceleb1__links_folders_that_the_user_has(
    prepare: Prepare, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in voxceleb1_files().items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert prepare("voxceleb1", "--from", str(tmp_path / "mine")) == 0
    assert "6 speakers are linked from --from, with 24 recordings" in capsys.readouterr().out
    assert (tmp_path / "data/voxceleb1/id10001").is_symlink()
    assert prepare("lists", "--held-out-speakers", "0") == 0
    assert len(read_train_lists(tmp_path / "data", ("voxceleb1_train_list",))) == 24
    assert not server.requests


def test_voxceleb1__fills_in_from_archives_at_hand_but_never_writes_through_a_link(
    prepare: Prepare, server: Server, tmp_path: Path
) -> None:
    mine, given = tmp_path / "mine/wav/id10001/video1", tmp_path / "given"
    mine.mkdir(parents=True)
    (mine / "00001.wav").write_bytes(wav(speech(9)))
    given.mkdir()
    for name in FILES:
        if name.startswith("vox1"):
            (given / name).write_bytes(FILES[name])
    assert prepare("voxceleb1", "--from", str(tmp_path / "mine"), "--from", str(given)) == 0
    assert tree(tmp_path / "mine") == ["wav/id10001/video1/00001.wav"]
    assert len(list((tmp_path / "data/voxceleb1/id10002").rglob("*.wav"))) == 4
    assert not server.requests


def test_voxceleb1__deletes_archives_when_asked_and_is_still_known_as_complete(
    prepare: Prepare, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("voxceleb1", "--delete-sources") == 0
    assert not list((tmp_path / "data/archives").glob("vox1*"))
    sent = dict(server.sent)
    assert prepare("voxceleb1") == 0
    assert "all files are in place" in capsys.readouterr().out
    assert server.sent == sent


def test_voxceleb1__deletes_no_archive_that_it_did_not_download(
    prepare: Prepare, server: Server, tmp_path: Path
) -> None:
    own = put(tmp_path / "own", {name: FILES[name] for name in FILES if name.startswith("vox1_dev")})
    before = tree(own)
    options = ("--delete-sources", "--archives", str(own))
    assert prepare("voxceleb1", *options) == 0  # the test part is downloaded, and deleted
    assert set(server.sent) == {"vox1_test_wav.zip"}
    assert set(tree(own)) - set(before) <= {"checked.json", "downloaded.json"}
    (tmp_path / "data/prepared.json").unlink()
    assert prepare("voxceleb1") == 0
    (tmp_path / "data/prepared.json").unlink()
    archives = tmp_path / "data/archives"
    assert prepare("voxceleb1", "--delete-sources", "--from", str(archives)) == 0
    assert (archives / "vox1_test_wav.zip").exists() and (archives / "vox1_dev_wav_partaa").exists()
    assert set(before) <= set(tree(own))


def test_voxceleb1__keeps_a_part_of_another_md5_and_extracts_nothing(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("voxceleb1", wrong={"vox1_dev_wav_partac": "0" * 32}) == 2
    error = capsys.readouterr().err
    assert (
        f"error: vox1_dev_wav_partac has the md5 {md5(FILES['vox1_dev_wav_partac'])}, expected {'0' * 32}"
        in error
    )
    assert (tmp_path / "data/archives/vox1_dev_wav_partac.bad").read_bytes() == FILES["vox1_dev_wav_partac"]
    assert not (tmp_path / "data/voxceleb1").exists()
    assert prepare("voxceleb1") == 0


def test_voxceleb1__refuses_a_cut_off_part_of_the_users(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "vox1_dev_wav_partaa").write_bytes(FILES["vox1_dev_wav_partaa"][:-100])
    assert prepare("voxceleb1", "--from", str(given)) == 2
    assert "vox1_dev_wav_partaa" in (error := capsys.readouterr().err)
    assert "it is cut off, damaged or another version" in " ".join(error.split())
    assert (given / "vox1_dev_wav_partaa").exists()


def test_voxceleb1__refuses_an_archive_whose_names_lead_out(
    server: Server, prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["vox1_test_wav.zip"] = zipped(
        {"wav/id10270/v/1.wav": wav(speech(1)), "../../evil.wav": b"x"}
    )
    assert prepare("voxceleb1") == 2
    assert "holds a file named '../../evil.wav', which leads out of the folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil.wav"))


@pytest.mark.parametrize(
    ("status", "meaning"), [(401, "asks for a password or token"), (404, "has no such file")]
)
def test_voxceleb1__refused_says_how_to_go_on(
    server: Server, prepare: Prepare, capsys: pytest.CaptureFixture[str], status: int, meaning: str
) -> None:
    server.statuses = {name: status for name in FILES if name.startswith("vox1_dev")}
    assert prepare("voxceleb1") == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: 127.0.0.1:{server.url.rpartition(':')[2]} {meaning} ({status}) for vox1_dev_wav_part"
    )
    assert "Access to VoxCeleb is requested at https://mm.kaist.ac.kr/datasets/voxceleb/" in error
    assert "--from DIR" in error


def test_voxceleb1__takes_its_password_from_the_environment_and_writes_it_nowhere(
    server: Server,
    prepare: Prepare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.password = "Basic dm94OnMzY3JldA=="
    monkeypatch.setenv("SSLSV_VOXCELEB_USER", "vox")
    monkeypatch.setenv("SSLSV_VOXCELEB_PASSWORD", "s3cret")
    assert prepare("voxceleb1") == 0
    captured = capsys.readouterr()
    assert "s3cret" not in captured.out + captured.err
    small = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.suffix != ".wav"]
    assert not any(b"s3cret" in path.read_bytes() for path in small)


def test_trials__refuses_a_page_in_place_of_a_list(
    server: Server, prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["list_test_all2.txt"] = b"<html>moved</html>\n"
    assert prepare("trials") == 2
    assert (
        "list_test_all2.txt, line 1 is no `1|0 enrol test`: '<html>moved</html>'" in capsys.readouterr().err
    )
    assert not (tmp_path / "data/voxceleb1_test_E").exists()


def test_trials__go_on_without_the_tables_of_genders(
    server: Server, prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.statuses = {"vox1_meta.csv": 404, "vox2_meta.csv": 404}
    assert prepare("trials") == 0
    assert "will not know the speakers' genders" in capsys.readouterr().err
    assert (tmp_path / "data/trials").exists()


def test_musan__is_cut_out_of_a_folder_that_the_user_has(
    prepare: Prepare, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "mine/musan/noise/free-sound/n.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(wav(speech(1, 9.5)))
    assert prepare("musan", "--from", str(tmp_path / "mine")) == 0
    pieces = sorted(file.name for file in (tmp_path / "data/musan_split/noise/free-sound").iterdir())
    assert pieces == ["n_00000.wav", "n_00008.wav"]
    assert path.exists()
    assert not server.requests


def test_musan__asks_for_the_room_of_missing_pieces_alone(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = put(tmp_path / "mine", {"musan/noise/free-sound/n.wav": wav(speech(1, 40.0))})
    assert prepare("musan", "--from", str(mine)) == 0
    piece = tmp_path / "data/musan_split/noise/free-sound/n_00016.wav"
    piece.unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**26 + 500_000))
    assert prepare("musan", "--from", str(mine)) == 0
    assert piece.exists()


def test_musan__categories_that_come_later_are_cut_too(
    prepare: Prepare, server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "data/musan_split"
    for number, place in enumerate(("musan/noise/free-sound/n.wav", "musan/music/fma/m.wav"), start=1):
        mine = put(tmp_path / "mine", {place: wav(speech(1, 2.0))})
        assert prepare("musan", "--from", str(mine)) == 0
        assert len(list(out.rglob("*.wav"))) == number
    assert not server.requests
    assert prepare("musan") == 0
    assert len(list(out.rglob("*.wav"))) == 8


def test_rirs__are_linked_where_the_user_has_them(prepare: Prepare, server: Server, tmp_path: Path) -> None:
    room = tmp_path / "mine/RIRS_NOISES/simulated_rirs/smallroom/Room001/r.wav"
    room.parent.mkdir(parents=True)
    room.write_bytes(wav(speech(1, 0.2)))
    for _ in range(2):  # the link of the first run is no folder to extract into
        assert prepare("rirs", "--from", str(tmp_path / "mine")) == 0
        assert (tmp_path / "data/simulated_rirs/smallroom/Room001/r.wav").exists()
        assert tree(tmp_path / "mine") == ["RIRS_NOISES/simulated_rirs/smallroom/Room001/r.wav"]
        assert not server.requests


def test_lists__keep_what_they_said_before(
    prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("voxceleb1") == 0
    mine = tmp_path / "data/voxceleb1_train_list"
    mine.write_text("my own lines\n")
    assert prepare("lists", *LISTS) == 0
    assert "is written anew, what it was is kept as voxceleb1_train_list.old" in capsys.readouterr().out
    assert (tmp_path / "data/voxceleb1_train_list.old").read_text() == "my own lines\n"
    assert prepare("lists", *LISTS) == 0
    assert "voxceleb1_train_list is as it was" in capsys.readouterr().out


def test_lists__nothing_is_written_when_trials_cannot_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, {f"voxceleb2/id0001{i}/v/1.wav": b"" for i in range(4)})
    command = ["lists", str(tmp_path), "--held-out-speakers", "2"]
    assert main([*command, "--validation-trials", "0"]) == 2
    assert "--validation-trials is 0; it must be 2 or more" in capsys.readouterr().err
    assert main(command) == 2
    assert "need a speaker with two utterances" in capsys.readouterr().err
    assert not (tmp_path / "voxceleb2_train_list").exists()


def test_lists__an_utterance_in_two_formats_is_one(tmp_path: Path) -> None:
    put(tmp_path, {f"voxceleb2/id0001{i}/v/1.{kind}": b"" for i in range(3) for kind in ("wav", "flac")})
    assert find_utterances(tmp_path, "voxceleb2") == [
        (f"id0001{i}", f"voxceleb2/id0001{i}/v/1.flac") for i in range(3)
    ]


def test_main__says_what_is_wrong_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["voxcleb1", str(tmp_path)]) == 2
    assert "did you mean 'voxceleb1'?" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "voxceleb2" in capsys.readouterr().out
    assert main(["voxceleb1", str(tmp_path), "--from", str(tmp_path / "none")]) == 2
    assert "none is not a folder" in capsys.readouterr().err
    assert main(["lists", str(tmp_path)]) == 2
    assert "has neither voxceleb1/ nor voxceleb2/" in capsys.readouterr().err
    assert main(["musan", str(tmp_path), "--tries", "0"]) == 2
    assert "--tries is 0; it must be 1 or more" in capsys.readouterr().err
