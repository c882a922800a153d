import numpy as np
import pytest
import ray
import soundfile

from sslsv.cluster.connect import Cluster
from sslsv.evaluation import embedding_workers
from sslsv.evaluation.embedding_workers import fitting_processes, workers
from sslsv.evaluation.embeddings import embed_files
from sslsv.evaluation.speaker_encoder import SpeakerEncoder


@pytest.mark.parametrize(
    ("has_gpu", "free", "count"),
    [
        (False, [{"CPU": 4.0}, {"CPU": 4.0}], 8),  # one per CPU of the cluster, not of the head
        (False, [{"CPU": 1.0}, {"CPU": 0.25}], 2),  # others hold the rest
        (True, [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}], 3),
        (False, [], 0),
    ],
)
def test_fitting_processes__are_those_of_the_whole_cluster_that_have_room(has_gpu, free, count):
    machines = {str(i): machine for i, machine in enumerate(free)}
    everything = {"a": {"CPU": 4.0, "GPU": 2.0}, "b": {"CPU": 4.0, "GPU": 1.0}}
    assert fitting_processes(has_gpu, Cluster(everything, machines, set(), 0, False)) == count


@pytest.mark.slow
def test_workers__give_every_recording_its_own_row_whatever_order_they_take(tmp_path, small_run, ray_session):
    rng = np.random.default_rng(1)
    names = [f"{i:02d}.wav" for i in range(40)]
    for i, name in enumerate(names):
        samples = 0.1 * rng.standard_normal(5000 + 800 * (i * 7 % 5))
        soundfile.write(tmp_path / name, samples, 16_000, subtype="PCM_16")
    (tmp_path / names[5]).write_text("no audio")
    encoder = SpeakerEncoder.load(small_run)
    expected, bad = embed_files(encoder, names, str(tmp_path))
    for count in (2, None):
        with workers(encoder, None, count) as embed:
            rows, bad_too = embed(names, str(tmp_path))
        assert bad_too == bad and list(bad) == [5]
        np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.slow
def test_workers__leave_their_room_to_the_next_encoders(tmp_path, small_run, ray_session, monkeypatch):
    monkeypatch.setattr(embedding_workers, "CPUS", 1.9)  # two of them hold nearly all
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(8000), 16_000, subtype="PCM_16")
    encoder = SpeakerEncoder.load(small_run)
    for _ in range(2):
        with workers(encoder, None, 2) as embed:
            embed(["a.wav"], str(tmp_path))
            assert ray.available_resources().get("CPU", 0) < 1
        assert ray.available_resources()["CPU"] == 4
