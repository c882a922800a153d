import os

import numpy as np
import pytest
import soundfile

from sslsv.evaluation.embedding import EmbeddingStore, embed_files, embedding_by
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.runs.folder import RunFolder


@pytest.fixture(scope="module")
def encoder(small_run):
    return SpeakerEncoder.load(small_run)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i}.wav") for i in range(3)]
    for path, seconds in zip(paths, (1.0, 1.5, 0.4), strict=True):
        soundfile.write(path, rng.standard_normal(int(16000 * seconds)) * 0.1, 16000)
    return paths


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path / "runs"), "a")


def counting_store(encoder, folder):
    asked = []

    def embed(paths, root):
        asked.append([os.path.basename(path) for path in paths])
        return embed_files(encoder, paths, root)

    return EmbeddingStore(encoder, folder, embed), asked


def test_store__makes_each_embedding_once_and_gives_it_back_equal(encoder, folder, files):
    store, asked = counting_store(encoder, folder)
    first, bad = store.get(files[:2], "/")
    assert not bad and asked == [["0.wav", "1.wav"]]
    again, asked = counting_store(encoder, folder)
    rows, _ = again.get([files[2], files[0]], "/")
    assert asked == [["2.wav"]]
    assert np.array_equal(rows[1], first[0])


def test_store__a_changed_file_is_embedded_anew(encoder, folder, files):
    before, _ = counting_store(encoder, folder)[0].get(files, "/")
    soundfile.write(files[1], np.random.default_rng(9).standard_normal(20000) * 0.1, 16000)
    store, asked = counting_store(encoder, folder)
    after, _ = store.get(files, "/")
    assert asked == [["1.wav"]]
    assert np.array_equal(before[[0, 2]], after[[0, 2]]) and not np.allclose(before[1], after[1])
    assert np.array_equal(counting_store(encoder, folder)[0].get(files, "/")[0], after)


def test_store__unreadable_files_are_named_and_tried_again(encoder, folder, files):
    with open(files[1], "w") as file:
        file.write("no audio")
    store, asked = counting_store(encoder, folder)
    rows, bad = store.get(files, "/")
    assert list(bad) == [1] and "1.wav" in bad[1] and not rows[1].any()
    store.get(files, "/")
    assert asked == [["0.wav", "1.wav", "2.wav"], ["1.wav"]]


def test_embedding_by__one_gpu_is_not_shared(encoder):
    with pytest.raises(ValueError, match="leave out --workers"), embedding_by(encoder, 9, 2, "cuda:1"):
        pass


def test_embedding_by__few_recordings_are_embedded_here_by_threads_that_watch_their_neighbours(
    encoder, files, monkeypatch
):
    watches = []
    monkeypatch.setattr("sslsv.evaluation.embedding.watch_neighbours", lambda: watches.append(1))
    with embedding_by(encoder, 3, None, None) as embed:
        rows, bad = embed(files, "/")
    assert watches == [1] and len(rows) == 3 and not bad


def test_embedding_by__no_process_starts_where_nothing_is_to_be_embedded(encoder, folder, files, monkeypatch):
    stored, _ = counting_store(encoder, folder)[0].get(files, "/")
    monkeypatch.setattr("sslsv.cluster.connect.connection", None)
    with embedding_by(encoder, 10_000, None, None) as embed:
        rows, _ = EmbeddingStore(encoder, folder, embed).get(files, "/")
        assert np.array_equal(rows, stored)
        with pytest.raises(TypeError):
            embed(files, "/")


@pytest.mark.slow
def test_embedding_by__give_every_recording_its_own_row_whatever_order_they_take(
    tmp_path, small_run, ray_session
):
    rng = np.random.default_rng(1)
    names = [f"{i:02d}.wav" for i in range(40)]
    for i, name in enumerate(names):
        samples = 0.1 * rng.standard_normal(5000 + 800 * (i * 7 % 5))
        soundfile.write(tmp_path / name, samples, 16_000, subtype="PCM_16")
    (tmp_path / names[5]).write_text("no audio")
    encoder = SpeakerEncoder.load(small_run)
    expected, bad = embed_files(encoder, names, str(tmp_path))
    for count in (2, None):
        with embedding_by(encoder, 10_000, count, None) as embed:
            rows, bad_too = embed(names, str(tmp_path))
        assert bad_too == bad and list(bad) == [5]
        np.testing.assert_allclose(rows, expected, atol=1e-5)
