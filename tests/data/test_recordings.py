import pickle
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data import recordings
from sslsv.data.audio import AudioError, open_audio
from sslsv.data.lists import read_train_lists
from sslsv.data.recordings import Packed, Recordings, open_recordings, segment_name, split_segment
from sslsv.data.section import DataConfig, augmentation_settings
from sslsv.data.views import ViewMaker
from sslsv.evaluation.trials import open_list
from sslsv.prepare_data.pack import pack
from tests.codecs import speech, write_codec
from tests.object_storage import ObjectStorage

LIST = "voxceleb2_train_list"


@pytest.fixture(scope="module")
def mixed_corpus(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the demo corpus with recordings, noises and rooms in other formats, and with unreadable files."""
    root = Path(shutil.copytree(demo_corpus, tmp_path_factory.mktemp("mixed") / "corpus"))
    rng = np.random.default_rng(0)
    lines = (root / LIST).read_text().splitlines()
    forms = [(44100, 2, "PCM_24", "wav"), (16000, 1, "FLOAT", "wav"), (48000, 2, "PCM_16", "flac")]
    for i, (rate, channels, subtype, suffix) in enumerate(forms):
        for folder in ("voxceleb2/other", "musan_split/noise/other"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            audio = rng.uniform(-0.4, 0.4, (3 * rate, channels))
            soundfile.write(root / folder / f"{i}.{suffix}", audio, rate, subtype=subtype)
        lines.append(f"other{i} voxceleb2/other/{i}.{suffix}")
    room = rng.normal(size=3000) * 10.0 ** (-np.arange(3000) / 1000) * 300
    soundfile.write(root / "simulated_rirs/loud.wav", room, 16000, subtype="FLOAT")
    (root / "voxceleb2/other/bad.wav").write_text("nothing")
    (root / "musan_split/music/demo/0000.wav").write_bytes(b"")
    lines.append("other9 voxceleb2/other/bad.wav")
    (root / LIST).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def packed_corpus(mixed_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "packed"
    assert pack(mixed_corpus, out, shard_mb=1, jobs=2)
    return out


@pytest.fixture(scope="module")
def stored_corpus(packed_corpus: Path, object_storage: ObjectStorage) -> str:
    """Put the packed corpus into object storage."""
    return object_storage.upload(packed_corpus)


@pytest.fixture(params=["folder", "file URI", "object storage"])
def packed_root(request: pytest.FixtureRequest, packed_corpus: Path) -> str:
    if request.param == "object storage":
        return str(request.getfixturevalue("stored_corpus"))
    return f"file://{packed_corpus}" if request.param == "file URI" else str(packed_corpus)


@pytest.mark.parametrize("is_augmented", [True, False])
def test_packed__training_gets_the_very_same_samples(
    mixed_corpus: Path, packed_root: str, is_augmented: bool
) -> None:
    manifest = read_train_lists(packed_root, (LIST,))
    assert manifest.paths == read_train_lists(mixed_corpus, (LIST,)).paths
    noise = augmentation_settings("noise", speech_files=[1, 3])
    augment = (augmentation_settings("reverb"), noise) if is_augmented else ()
    size = len(manifest)
    rows = {name: np.arange(size) for name in ("sample", "utterance")}
    rows["epoch"] = np.full(size, 3)
    batches = []
    for root in (str(mixed_corpus), packed_root):
        data = DataConfig(root=root, augment=augment, speeds=(0.9, 1.0, 1.1))
        maker = ViewMaker(manifest, (("views", 2, 1.0, False), ("local", 1, 0.3, False)), data, seed=4)
        batches.append(pickle.loads(pickle.dumps(maker)).make_batch(rows))
    for name, column in batches[0].items():
        assert np.array_equal(column, batches[1][name]), name
    assert set(batches[0]["bad_utterance"]) == {-1, size - 1}
    assert not is_augmented or batches[0]["bad_bank_file"].max() >= 0


def test_packed__lists_in_object_storage_are_read_and_missed_by_name(
    mixed_corpus: Path, stored_corpus: str
) -> None:
    trials = [open_list(root, "trials", is_lenient=False) for root in (str(mixed_corpus), stored_corpus)]
    assert trials[0].trials.paths == trials[1].trials.paths
    assert np.array_equal(trials[0].trials.enrol, trials[1].trials.enrol)
    assert trials[1].file == f"{stored_corpus}/trials"
    with pytest.raises(FileNotFoundError, match=f"The list {stored_corpus}/other does not exist"):
        read_train_lists(stored_corpus, ("other",))


def test_packed__finds_what_the_folder_has_and_says_what_its_files_say(
    mixed_corpus: Path, packed_corpus: Path
) -> None:
    packed = Packed(str(packed_corpus))
    for folder in ("musan_split/noise", "musan_split", "simulated_rirs", "nowhere"):
        assert open_recordings(mixed_corpus).find(folder) == packed.find(folder)
    with packed.open(packed.find("voxceleb2")[0]) as recording:
        mapped = recording.mapped()
        assert np.shares_memory(mapped, recording.read_int16(0, 100)) and not mapped.flags.writeable
    with pytest.raises(AudioError) as of_file:
        open_audio(mixed_corpus / "voxceleb2/other/bad.wav")
    with pytest.raises(AudioError) as of_pack:
        packed.open("voxceleb2/other/bad.wav")
    assert str(of_file.value) == str(of_pack.value)
    assert set(packed.errors) == {"voxceleb2/other/bad.wav", "musan_split/music/demo/0000.wav"}
    with pytest.raises(AudioError, match="nobody.wav is not in the packed folder"):
        packed.open("nobody.wav")
    assert not packed.has("nobody.wav")


def test_packed__object_storage_is_asked_for_the_crop_alone(
    packed_corpus: Path, stored_corpus: str, object_storage: ObjectStorage
) -> None:
    local, packed = open_recordings(packed_corpus), open_recordings(stored_corpus)
    name = packed.find("voxceleb2")[0]
    packed.open(name).read_int16(0, 1)  # opens the shard
    object_storage.requests.clear()
    with packed.open(name) as recording:
        assert recording.mapped() is None
        crop = recording.read_int16(500, 3200)
    assert np.array_equal(crop, local.open(name).read_int16(500, 3200))
    assert [request.num_bytes for request in object_storage.requests] == [2 * 3200]


def test_packed__a_refused_read_names_the_recording(
    stored_corpus: str, object_storage: ObjectStorage
) -> None:
    packed = Packed(stored_corpus)
    name = packed.find("voxceleb2")[0]
    recording = packed.open(name)
    object_storage.refuses = lambda environ: "HTTP_RANGE" in environ
    try:
        with pytest.raises(AudioError, match=f"{name} cannot be read: .*ACCESS_DENIED"):
            recording.read_int16(0, 100)
    finally:
        object_storage.refuses = lambda environ: False


def test_open_recordings__damage_is_named(packed_corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "packed"
    shutil.copytree(packed_corpus, copy)
    with (copy / "shard-00001.int16").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"shard-00001.int16 has \d+ bytes, but the index says \d+ bytes"):
        open_recordings(copy)
    (copy / "shard-00001.int16").unlink()
    with pytest.raises(ValueError, match="shard-00001.int16 has 0 bytes"):
        open_recordings(copy)
    (copy / "index.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="index.parquet cannot be read"):
        open_recordings(copy)
    with pytest.raises(FileNotFoundError, match="not a packed folder.*prepare_data pack FOLDER --out PACKED"):
        Packed(str(tmp_path))


def test_folder__that_is_gone_is_waited_for_and_no_bad_recording(tmp_path, demo_corpus, monkeypatch):
    (tmp_path / "corpus").symlink_to(demo_corpus)
    folder = Recordings(tmp_path / "corpus")
    name = folder.find("voxceleb2")[0]
    whole = folder.read_whole(name)
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    start = time.monotonic()
    threading.Timer(0.7, (tmp_path / "elsewhere").rename, [tmp_path / "corpus"]).start()
    assert (folder.read_whole(name) == whole).all()
    assert time.monotonic() - start > 0.6
    (tmp_path / "corpus").unlink()
    monkeypatch.setattr(recordings, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(FileNotFoundError, match="data.root, .*corpus, has been gone"):
        folder.open(name)
    with pytest.raises(AudioError, match="gone.wav does not exist"):  # absolute, like paths in Kaldi folders
        folder.open("/gone.wav")


@pytest.mark.parametrize(
    ("start", "stop", "name"),
    [(0.5, 2.25, "a.wav#t=0.5,2.25"), (3, -1, "a.wav#t=3,"), (10, 3600.1234, "a.wav#t=10,3600.1234")],
)
def test_segment_name__is_split_into_what_made_it(start: float, stop: float, name: str) -> None:
    assert segment_name("a.wav", start, stop) == name
    assert split_segment(name) == ("a.wav", (start, stop if stop >= 0 else None))
    assert split_segment("b#t=x.wav") == ("b#t=x.wav", None)


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("wav", "FLOAT")])
def test_segment__has_the_samples_of_its_time(tmp_path: Path, suffix: str, subtype: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    soundfile.write(tmp_path / f"a.{suffix}", noise, 16_000, subtype=subtype)
    files, name = open_recordings(tmp_path), f"a.{suffix}"
    whole = files.read_whole(name)
    for times, part in (("0.5,1.25", whole[8000:20_000]), ("1.5,", whole[24_000:]), ("1,9", whole[16_000:])):
        assert files.has(f"{name}#t={times}") and np.array_equal(files.read_whole(f"{name}#t={times}"), part)
        with files.open(f"{name}#t={times}") as recording:
            assert recording.num_samples == len(part)
            assert np.array_equal(recording.read_int16(100, 50), np.rint(part[100:150] * 32768))
    with pytest.raises(AudioError, match=r"ends before its segment begins, at 2 s"):
        files.open(f"{name}#t=2,3")


@pytest.mark.parametrize("name", ["a.m4a", "a.mp3"])
def test_segment__is_slow_if_its_file_is(tmp_path: Path, name: str) -> None:
    write_codec(tmp_path, name, speech(1))
    with open_recordings(tmp_path).open(f"{name}#t=0.25,0.5") as segment:
        assert segment.is_slow == (name == "a.m4a")


def test_segment__of_a_packed_folder_is_packed_as_such(demo_corpus: Path, tmp_path: Path) -> None:
    path = read_train_lists(demo_corpus, (LIST,)).paths[0]
    kaldi = tmp_path / "root" / "kaldi"
    shutil.copytree(demo_corpus / "voxceleb2", tmp_path / "root" / "voxceleb2")
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text(f"rec {path}\n")
    (kaldi / "segments").write_text("x rec 0.25 0.75\ny rec 1 -1\n")
    (kaldi / "utt2spk").write_text("x ann\ny ann\n")
    (kaldi / "trials").write_text("x y target\n")
    assert pack(kaldi.parent, tmp_path / "packed", ["kaldi"], jobs=1)
    names = [f"{path}#t=0.25,0.75", f"{path}#t=1,"]
    files, packed = open_recordings(kaldi.parent), open_recordings(tmp_path / "packed")
    assert read_train_lists(tmp_path / "packed", ["kaldi"]).paths == names
    for name in names:
        assert np.array_equal(files.read_whole(name), packed.read_whole(name))
    assert {file.name for file in (tmp_path / "packed/kaldi").iterdir()} == {
        *("wav.scp", "segments", "utt2spk", "trials")
    }
