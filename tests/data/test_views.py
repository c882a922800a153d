import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import AudioError, read_whole
from sslsv.data.lists import Manifest, read_train_lists, read_trials
from sslsv.data.recordings import open_recordings
from sslsv.data.section import DataConfig, augmentation_settings
from sslsv.data.stream import Plan
from sslsv.data.views import ChannelSimulator, ViewMaker

GROUPS = (("views", 2, 1.0, False),)


def maker_of(root: Path, **settings: object) -> ViewMaker:
    groups = settings.pop("view_groups", GROUPS)
    seed = settings.pop("seed", 5)
    manifest = read_train_lists(root, ("voxceleb2_train_list",))
    return ViewMaker(manifest, groups, DataConfig(root=str(root), **settings), seed)


def ramp_corpus(root: Path, lengths: list[int], speakers: list[int] | None = None) -> Manifest:
    # Sample t of every file has the value t, so a crop shows its position.
    for i, length in enumerate(lengths):
        soundfile.write(root / f"{i}.wav", (np.arange(length) % 32768).astype(np.int16), 16000)
    ids = np.array(speakers if speakers is not None else range(len(lengths)))
    return Manifest(
        paths=[f"{i}.wav" for i in range(len(lengths))],
        speakers=ids,
        speaker_names=[str(i) for i in set(ids)],
    )


def dry_maker(root: Path, manifest: Manifest, groups: tuple = GROUPS, **settings: object) -> ViewMaker:
    """Return a view maker without augmentation, unless the settings have some."""
    return ViewMaker(manifest, groups, DataConfig(root=str(root), **{"augment": (), **settings}), 1)


def sample(maker: ViewMaker, epoch: int, utterance: int) -> tuple[dict[str, np.ndarray], int]:
    """Return the views of one sample, and the unreadable utterance that was replaced, or -1."""
    row = {"sample": 0, "epoch": epoch, "utterance": utterance}
    batch = maker.make_batch({name: np.array([value]) for name, value in row.items()})
    return {name: batch[name][0] for name, *_ in maker.view_groups}, int(batch["bad_utterance"][0])


def test_make__same_bits_in_any_order_batch_and_copy(demo_corpus: Path) -> None:
    groups = (("views", 2, 1.0, False), ("local", 3, 0.5, False))
    choice = augmentation_settings("one_of", choices=["noise", {"name": "reverb", "probability": 0.5}])
    augment = (
        *(augmentation_settings(name, probability=0.7) for name in ("reverb", "noise", "gain")),
        choice,
    )
    maker = maker_of(demo_corpus, speeds=(0.9, 1.0, 1.1), view_groups=groups, augment=augment)
    rows = Plan(32, 8, seed=5).rows(2, 6)
    full = maker.make_batch(rows)
    assert full["views"].dtype == np.int16 and full["views"].shape == (32, 2, 16000)
    assert set(full["bad_utterance"]) == {-1}
    for part in ([5], [30, 2, 9], list(range(31, -1, -1))):
        batch = pickle.loads(pickle.dumps(maker)).make_batch({name: rows[name][part] for name in rows})
        for name, column in batch.items():
            assert np.array_equal(column, full[name][part])


def test_make__epoch_utterance_view_and_seed_all_matter(demo_corpus: Path) -> None:
    maker = maker_of(demo_corpus)
    views = sample(maker, 0, 1)[0]["views"]
    assert not np.array_equal(views[0], views[1])
    for other in (sample(maker, 1, 1), sample(maker, 0, 2), sample(maker_of(demo_corpus, seed=6), 0, 1)):
        assert not np.array_equal(other[0]["views"], views)


def test_make__a_crop_is_a_piece_of_the_file_or_repeats_a_short_one(tmp_path: Path) -> None:
    maker = dry_maker(tmp_path, ramp_corpus(tmp_path, [30000, 8000]))
    for view in sample(maker, 0, 0)[0]["views"]:
        assert np.array_equal(np.diff(view.astype(int)), np.ones(15999))
    for view in sample(maker, 0, 1)[0]["views"]:
        assert np.array_equal(view, np.tile(np.arange(8000), 2))


def test_make__disjoint_crops_do_not_overlap(tmp_path: Path) -> None:
    manifest, data = ramp_corpus(tmp_path, [32000, 32767, 20000]), DataConfig(root=str(tmp_path), augment=())
    maker = ViewMaker(manifest, GROUPS, data, 1, are_disjoint=True)
    for epoch in range(30):
        starts = [sorted(int(view[0]) for view in sample(maker, epoch, i)[0]["views"]) for i in range(3)]
        assert starts[0] == [0, 16000]
        assert starts[1][1] - starts[1][0] >= 16000
        assert starts[2] == [0, 4000]


def test_make__one_speed_for_all_views_of_a_sample(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(48000) / 16000)
    soundfile.write(tmp_path / "0.wav", tone, 16000)
    manifest = Manifest(paths=["0.wav"], speakers=np.array([0]), speaker_names=["a"])
    maker = dry_maker(tmp_path, manifest, speeds=(0.9, 1.0, 1.1))
    seen = set()
    for epoch in range(20):
        views = sample(maker, epoch, 0)[0]["views"]
        peaks_hz = [int(np.argmax(np.abs(np.fft.rfft(view * np.hanning(16000))))) for view in views]
        assert peaks_hz[0] == peaks_hz[1]
        seen.add(peaks_hz[0])
    assert seen == {900, 1000, 1100}


def test_make__bad_utterance_is_replaced_and_named(tmp_path: Path) -> None:
    manifest = ramp_corpus(tmp_path, [20000] * 6, speakers=[0, 0, 0, 1, 1, 1])
    for i in (3, 4, 5):
        soundfile.write(tmp_path / f"{i}.wav", np.full(20000, -i, dtype=np.int16), 16000)
    maker = dry_maker(tmp_path, manifest)
    (tmp_path / "4.wav").write_text("nothing")
    # Any utterance may replace it, the same one for both views and at every call.
    replaced, again = ([sample(maker, epoch, 4) for epoch in range(10)] for _ in range(2))
    for (views, bad), (same, _) in zip(replaced, again, strict=True):
        assert bad == 4 and np.array_equal(views["views"], same["views"])
    assert len({int(np.sign(views["views"][0][0])) for views, _ in replaced}) == 2
    path, reason = maker.explain("utterances", 4)
    assert path == str(tmp_path / "4.wav") and reason.startswith(path) and "not recognised" in reason
    assert "can be now" in maker.explain("utterances", 3)[1]


def test_make__nothing_readable_ends_with_a_sentence(tmp_path: Path) -> None:
    maker = dry_maker(tmp_path, ramp_corpus(tmp_path, [20000] * 3))
    (tmp_path / "list").touch()  # an empty folder would look like a lost mount and cause a wait
    for i in range(3):
        (tmp_path / f"{i}.wav").unlink()
    with pytest.raises(AudioError, match="21 recordings in a row cannot be read; .*does not exist"):
        sample(maker, 0, 1)


def test_make_batch__bad_noise_is_replaced_and_named(demo_corpus: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(demo_corpus, tmp_path / "corpus"))
    (root / "musan_split/noise/demo/0001.wav").write_bytes(b"")
    maker = maker_of(root, augment=(augmentation_settings("noise", kinds=["noise"]),))
    batch = maker.make_batch(Plan(32, 32, seed=5).rows(0, 1))
    assert set(batch["bad_utterance"]) == {-1} and set(batch["bad_bank_file"]) == {-1, 1}
    path = str(root / "musan_split/noise/demo/0001.wav")
    found, reason = maker.explain("bank_files", 1)
    assert found == path and reason.startswith(f"{path} (0 bytes) is not audio: ")
    assert "can be now" in maker.explain("bank_files", 0)[1]


def test_explain__silence_is_a_fault_of_a_rir(demo_corpus: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(demo_corpus, tmp_path / "corpus"))
    maker = maker_of(root, augment=(augmentation_settings("reverb"),))
    path = Path(maker.explain("bank_files", 2)[0])
    soundfile.write(path, np.zeros(900), 16000)
    assert maker.explain("bank_files", 2) == (str(path), f"{path} is silent: it is not an impulse response.")


def test_make_batch__clean_views_of_the_form_of_augmented_ones_are_their_crops(tmp_path: Path) -> None:
    manifest = ramp_corpus(tmp_path, [32000])
    groups = (("views", 1, 0.5, False), ("clean", 1, 0.5, True), ("long", 1, 1.0, True))
    views, _ = sample(dry_maker(tmp_path, manifest, groups), 0, 0)
    assert np.array_equal(views["views"], views["clean"])
    assert views["long"][0, 0] not in views["views"][0, :1]


def test_make_batch__clean_views_are_crops_at_the_speed_of_their_sample(tmp_path: Path) -> None:
    manifest = ramp_corpus(tmp_path, [30000])
    groups = (("views", 2, 1.0, False), ("clean", 2, 1.0, True))
    gain = (augmentation_settings("gain", level_db=[-6.0206, -6.0206]),)
    batch, _ = sample(dry_maker(tmp_path, manifest, groups, augment=gain), 0, 0)
    slopes = [np.diff(view.astype(float)).mean() for view in (*batch["views"], *batch["clean"])]
    assert np.allclose(slopes, [0.5, 0.5, 1.0, 1.0], atol=1e-3)
    fast = dry_maker(tmp_path, manifest, groups, augment=gain, speeds=(2.0,))
    for view in sample(fast, 0, 0)[0]["clean"]:
        assert np.allclose(np.diff(view.astype(float))[100:12000].mean(), 2.0, atol=0.01)


def test_make_batch__tells_utterances_and_only_if_asked_speakers(tmp_path: Path) -> None:
    manifest = ramp_corpus(tmp_path, [20000] * 4, speakers=[0, 0, 1, 1])
    columns = {"sample": [8, 9, 10], "epoch": [2, 2, 2], "utterance": [3, 0, 2]}
    rows = {name: np.array(values) for name, values in columns.items()}
    for i in (1, 2, 3):
        soundfile.write(tmp_path / f"{i}.wav", np.full(20000, i, dtype=np.int16), 16000)
    (tmp_path / "0.wav").write_text("nothing")
    data = DataConfig(root=str(tmp_path), augment=())
    batch = ViewMaker(manifest, GROUPS, data, 1).make_batch(rows)
    utterances = batch["utterance"].tolist()  # utterance 0 is replaced; id and speaker are the replacement's
    assert utterances[::2] == [3, 2] and utterances[1] in (1, 2, 3) and batch["sample"].tolist() == [8, 9, 10]
    assert batch["views"][:, 0, 0].tolist() == utterances
    assert batch["bad_utterance"].tolist() == [-1, 0, -1] and "speaker" not in batch
    labelled = ViewMaker(manifest, GROUPS, data, 1, needs_labels=True).make_batch(rows)
    assert labelled.pop("speaker").tolist() == manifest.speakers[utterances].tolist()
    assert all(np.array_equal(labelled[name], batch[name]) for name in batch)


def speakers_and_views(root: Path, **settings: object) -> tuple[np.ndarray, np.ndarray]:
    manifest = ramp_corpus(root, [32700] * 4, speakers=[0, 0, 1, 1])
    count = np.arange(24)
    rows = {"sample": count, "epoch": count // 4, "utterance": count % 4}
    data = DataConfig(root=str(root), augment=(), **settings)
    batch = ViewMaker(manifest, GROUPS, data, 1, needs_labels=True).make_batch(rows)
    return batch["speaker"], batch["views"]


def test_make_batch__speeds_as_classes_are_those_that_are_heard(tmp_path: Path) -> None:
    speeds = (1.0, 2.0, 0.5)
    plain, views = speakers_and_views(tmp_path, speeds=speeds)
    classes, same_views = speakers_and_views(tmp_path, speeds=speeds, speeds_are_classes=True)
    assert plain.tolist() == [0, 0, 1, 1] * 6 and np.array_equal(views, same_views)
    # The slope of the ramp is the speed.
    slopes = np.diff(views[:, 0].astype(float))[:, 100:-100].mean(axis=1)
    indices = [int(np.argmin(np.abs(np.array(speeds) - slope))) for slope in slopes]
    assert classes.tolist() == (plain + 2 * np.array(indices)).tolist() and set(indices) == {0, 1, 2}


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_make_batch__speed_probability_is_the_share_that_draws_a_speed(tmp_path: Path, probability: float):
    settings = {"speeds": (1.0, 2.0), "speeds_are_classes": True}
    always, views = speakers_and_views(tmp_path, **settings)
    classes, some_views = speakers_and_views(tmp_path, **settings, speed_probability=probability)
    is_same = classes == always
    assert np.array_equal(views[is_same], some_views[is_same]) and set(classes[~is_same]) <= {0, 1}
    num_fast, num_fast_always = ((column > 1).sum() for column in (classes, always))
    assert 0 < num_fast < num_fast_always if probability else num_fast == 0


def simulator_of(root: Path, seed: int = 1) -> ChannelSimulator:
    return ChannelSimulator(open_recordings(root), DataConfig(root=str(root)), seed)


def test_simulator__is_repeatable_and_differs_by_version_path_and_seed(demo_corpus: Path) -> None:
    first, second = read_trials(demo_corpus, "trials").paths[:2]
    simulator = simulator_of(demo_corpus)
    waveform = simulator.read(first, 0)
    assert waveform.dtype == np.float32 and waveform.shape == read_whole(demo_corpus / first).shape
    assert np.array_equal(simulator_of(demo_corpus).read(first, 0), waveform)
    others = [simulator.read(first, 1), simulator.read(second, 0)]
    for other in [*others, simulator_of(demo_corpus, seed=2).read(first, 0)]:
        length = min(len(other), len(waveform))
        assert not np.array_equal(other[:length], waveform[:length])
