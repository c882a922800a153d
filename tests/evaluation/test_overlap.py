import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.config import Config, read_config
from sslsv.data.lists import Manifest, read_trials
from sslsv.data.section import DataConfig
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation import overlap
from sslsv.evaluation.overlap import TrainedOn, describe, find_overlap, trained_on
from sslsv.prepare_data.pack import pack
from sslsv.runs.folder import RunFolder


def write_voice(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    soundfile.write(path, rng.uniform(-0.5, 0.5, 8000 + 10 * seed), 16000)


def write_trials(root: Path, *people: str, form: str = "{}/v{}/1.wav") -> Path:
    """Return a folder with a list of all trials between two recordings of each given person."""
    paths = [(person, form.format(person, i)) for person in people for i in range(2)]
    for seed, (_, path) in enumerate(paths):
        write_voice(root / path, seed)
    pairs = [(a, b) for i, a in enumerate(paths) for b in paths[i + 1 :]]
    (root / "list").write_text("".join(f"{int(a[0] == b[0])} {a[1]} {b[1]}\n" for a, b in pairs))
    return root


def source(root: Path, **speaker_of: str) -> TrainedOn:
    """Return training utterances, given as path=speaker with `__` for a slash."""
    paths = [name.replace("__", "/") + ".wav" for name in speaker_of]
    return trained(root, paths, list(speaker_of.values()))


def trained(root: Path, paths: list[str], speakers: list[str]) -> TrainedOn:
    manifest = Manifest(paths=paths, speakers=np.arange(len(paths)), speaker_names=speakers)
    return TrainedOn.of(str(root), manifest)


def shared_counts(root: Path, *sources: TrainedOn) -> dict[str, int]:
    found = find_overlap(read_trials(root, "list"), str(root), sources)
    return {kind: part["shared"] for kind, part in found.items()}


@pytest.mark.parametrize(
    ("trained_on", "speakers"),
    [
        ({"train__x__1": "id10270"}, 1),  # the list names the speaker, independently of the folders
        ({"wav__id10270__x__1": "wav"}, 1),  # sessions or archives mistaken for speakers
        ({"id10270__1": "1"}, 1),  # without speakers, at another depth
        ({"id10270-x-1": "1"}, 1),
        ({"id10270__x__1": "a", "id10271__x__1": "b"}, 2),
        ({"id99999__x__1": "id99999"}, 0),
        ({"id102701__x__1": "id102701"}, 0),
        ({"x__v0__9": "x"}, 0),  # the name of a session is not that of a speaker
    ],
)
def test_find_overlap__speakers_are_told_from_lists_and_paths(
    tmp_path: Path, trained_on: dict[str, str], speakers: int
) -> None:
    root = write_trials(tmp_path, "id10270", "id10271", "id10272")
    found = find_overlap(read_trials(root, "list"), str(root), [source(root, **trained_on)])["speakers"]
    assert (found["shared"], found["compared"], found["all"]) == (speakers, 3, 3)


def test_find_overlap__a_speaker_whose_folder_and_only_session_are_known_counts_once(tmp_path: Path) -> None:
    root = write_trials(tmp_path, "anna", "bert", "carl", form="{0}/of_{0}/{1}.wav")
    assert shared_counts(root, source(root, anna__of_anna__9="anna"))["speakers"] == 1


@pytest.mark.parametrize(("path", "speakers"), [("84__9__1", 1), ("9__84__1", 0), ("84__1", 0)])
def test_find_overlap__mere_numbers_are_speakers_only_at_their_place(
    tmp_path: Path, path: str, speakers: int
) -> None:
    root = write_trials(tmp_path, "84", "85")
    assert shared_counts(root, source(root, **{path: "none"}))["speakers"] == speakers


def test_describe__equal_names_in_another_corpus_are_a_remark(tmp_path: Path) -> None:
    root, other = write_trials(tmp_path / "a", "id00800", "id00801"), tmp_path / "b"
    theirs = trained(other, ["id00800/v/1.wav"], ["id00800"])
    found = find_overlap(read_trials(root, "list"), str(root), [theirs])
    warnings, remarks = describe("list", found)
    assert not warnings and remarks[0].startswith("1 of 2 speakers of list have names of training speakers")
    same = find_overlap(read_trials(root, "list"), str(root), [dataclasses.replace(theirs, root=str(root))])
    assert describe("list", same)[0][0].startswith("1 of 2 speakers of list were in training: id00800.")


def test_describe__names_what_no_path_tells(tmp_path: Path) -> None:
    for i in range(4):
        write_voice(tmp_path / f"{i}.wav", i)
    (tmp_path / "list").write_text("1 0.wav 1.wav\n1 2.wav 3.wav\n0 0.wav 2.wav\n")
    found = find_overlap(read_trials(tmp_path, "list"), str(tmp_path), [source(tmp_path, a="a")])
    assert found["speakers"]["all"] == 0 and found["contents"]["compared"] == 0
    assert describe("list", found)[1] == [
        "list shares none of these with the training: 4 paths of recordings.",
        "list was not compared with the training by: speakers (no path names them), 4 contents of "
        "recordings.",
    ]
    assert find_overlap(read_trials(tmp_path, "list"), str(tmp_path), [])["paths"]["compared"] == 0


@pytest.mark.parametrize("moved", [False, True])
def test_find_overlap__a_path_is_the_same_in_another_format_and_below_another_root(
    tmp_path: Path, moved: bool
) -> None:
    root = write_trials(tmp_path, "anna", "bert")
    theirs = dataclasses.replace(source(root, anna__v0__1="x"), paths=["anna/v0/1.m4a"])
    theirs = dataclasses.replace(theirs, root="/elsewhere" if moved else str(root))
    assert shared_counts(root, theirs)["paths"] == 1
    within = dataclasses.replace(theirs, root=str(root.parent), paths=[f"{root.name}/anna/v0/1.wav"])
    assert shared_counts(root, within)["paths"] == 1


def test_find_overlap__a_part_of_a_recording_is_the_recording(tmp_path: Path) -> None:
    root, copy = write_trials(tmp_path / "a", "id10270", "id10271"), tmp_path / "b"
    copy.mkdir()
    shutil.copy(root / "id10270/v0/1.wav", copy / "renamed.wav")
    assert shared_counts(root, trained(copy, ["renamed.wav#t=0.1,0.3"], ["x"]))["contents"] == 1
    assert shared_counts(root, trained(root, ["id10270/v0/1.wav#t=0.1,0.3"], ["x"]))["paths"] == 1


def test_find_overlap__a_copy_under_another_name_is_found_by_its_content(tmp_path: Path) -> None:
    root = write_trials(tmp_path, "anna", "bert")
    (root / "other").mkdir()
    shutil.copy(root / "anna/v1/1.wav", root / "other/7.wav")
    shutil.copy(root / "bert/v0/1.wav", root / "other/8.wav")
    content = bytearray((root / "other/8.wav").read_bytes())
    content[-9] ^= 1
    (root / "other/8.wav").write_bytes(content)
    theirs = source(root, other__7="p", other__8="q", other__gone="r")
    found = find_overlap(read_trials(root, "list"), str(root), [theirs])
    counts = {"shared": 1, "compared": 4, "all": 4}
    assert found["contents"] == counts | {"examples": ["anna/v1/1.wav (other/7.wav)"]}
    assert describe("list", found)[0] == [
        "1 of 4 contents of recordings of list were in training: anna/v1/1.wav (other/7.wav). Error rates "
        "on it are not test results."
    ]


def test_find_overlap__contents_of_packed_folders_are_compared_with_one_another_alone(tmp_path: Path) -> None:
    root, packed, trained = (tmp_path / name for name in ("files", "packed", "trained"))
    write_trials(root, "anna", "bert")
    pack(root, packed, ["list"])
    (tmp_path / "others").mkdir()
    shutil.copy(root / "anna/v1/1.wav", tmp_path / "others/7.wav")
    (tmp_path / "others/train_list").write_text("p 7.wav\n")
    pack(tmp_path / "others", trained, ["train_list"])
    theirs, trials = source(trained, **{"7": "p"}), read_trials(packed, "list")
    found = find_overlap(trials, str(packed), [theirs])["contents"]
    assert (found["shared"], found["compared"]) == (1, 4) and found["examples"] == ["anna/v1/1.wav (7.wav)"]
    in_files = find_overlap(trials, str(root), [theirs])
    assert in_files["contents"]["compared"] == 0
    assert "4 contents of recordings." in describe("list", in_files)[1][-1]


def test_find_overlap__content_that_cannot_be_compared_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_trials(tmp_path, "anna", "bert")
    for i, name in enumerate(("anna/v1/1.wav", "bert/v0/1.wav", "bert/v0/1.wav")):
        shutil.copy(root / name, root / f"{i}.wav")
    theirs = source(root, **{str(i): "x" for i in range(3)})
    trials = read_trials(root, "list")
    assert find_overlap(trials, str(root), [theirs])["contents"]["shared"] == 2
    monkeypatch.setattr(overlap, "MAX_READ", 2)  # sizes shared by fewer training files come first
    found = find_overlap(trials, str(root), [theirs])["contents"]
    assert (found["shared"], found["compared"]) == (1, 3)
    (root / "0.wav").unlink()  # deleted after the training; its recorded size alone proves nothing
    found = find_overlap(trials, str(root), [theirs])["contents"]
    assert (found["shared"], found["compared"]) == (0, 2)


def test_trained_on__comes_back_with_names_that_are_no_utf8(tmp_path: Path) -> None:
    theirs = TrainedOn(str(tmp_path), ["a\udce9/1.wav", "b/2.wav"], ["a\udce9", "b"], np.array([5, -1]))
    folder = RunFolder(str(tmp_path), "run")
    theirs.write(folder)
    read = TrainedOn.read(folder, str(tmp_path))
    assert read is not None and (read.paths, read.speakers) == (theirs.paths, theirs.speakers)
    assert read.sizes.tolist() == [5, -1]


def test_trained_on__the_lists_of_an_imported_encoder_are_not_its_own(small_run: str, tmp_path: Path) -> None:
    imported = RunFolder(str(tmp_path), "imported")
    shutil.copytree(small_run, imported.root)
    imported.write_json("run.json", {"imported_from": "wespeaker"})
    config = read_config(imported.read("config.yml").decode())
    message = f"The training data of {imported.location} is not known: it was imported from wespeaker."
    assert trained_on(config, imported) == ([], [message])
    tuned = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, init=imported.location))
    found, unknown = trained_on(tuned, RunFolder.at(small_run))
    assert len(found) == 1 and unknown == [message]


def test_trained_on__follows_the_runs_that_a_run_started_from(
    small_run: str, demo_corpus: Path, tmp_path: Path
) -> None:
    folder = RunFolder.at(small_run)
    first = read_config(folder.read("config.yml").decode())
    (own,), unknown = trained_on(first, folder)  # no record, so the current lists without held-out speakers
    assert len(own.paths) == 20 and not unknown and own.sizes.min() > 0

    def config(init: str) -> Config:
        return Config(data=DataConfig(root=str(demo_corpus)), encoder=ThinResNet34.Config(width=2, init=init))

    second = RunFolder(str(tmp_path), "second")
    TrainedOn(str(demo_corpus), ["x.wav"], ["x"], np.array([1])).write(second)
    for init in (small_run, f"{small_run}/checkpoints/step_1.pt"):
        both, unknown = trained_on(config(init), second)
        assert [len(each.paths) for each in both] == [1, 20] and not unknown
    one, unknown = trained_on(config(str(tmp_path / "w.safetensors")), second)
    assert len(one) == 1 and "w.safetensors, from which the run started" in unknown[0]
    lost = dataclasses.replace(first, data=DataConfig(root=str(tmp_path / "gone")))
    nothing, unknown = trained_on(lost, RunFolder(str(tmp_path), "third"))
    assert not nothing and "third is not known: " in unknown[0]
