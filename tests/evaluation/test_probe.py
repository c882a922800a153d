import dataclasses
import shutil

import numpy as np
import pytest
import soundfile
import torch
import torch.multiprocessing
from torch import nn

from sslsv.build import build_model
from sslsv.config import Config, EvaluationConfig, LabelFreeConfig
from sslsv.data.audio import read_whole
from sslsv.data.lists import Manifest, read_train_lists
from sslsv.data.recordings import open_recordings
from sslsv.data.section import DataConfig
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.probe import Probe, choose
from sslsv.evaluation.verification import Embedder
from sslsv.models.base import CorpusSize

LISTS = ("voxceleb2_train_list",)


def config_of(root, **values) -> Config:
    settings = {"utterances": 9, "views": 3, "crop_seconds": 0.5} | values
    return Config(
        data=DataConfig(root=str(root), train_lists=LISTS),
        encoder=ThinResNet34.Config(width=2, embedding_dim=16),
        evaluation=EvaluationConfig(label_free=LabelFreeConfig(**settings)),
    )


@pytest.fixture
def config(demo_corpus) -> Config:
    return config_of(demo_corpus)


def manifest_of(config: Config) -> Manifest:
    return read_train_lists(config.data.root, config.data.train_lists)


def embedder_of(config: Config) -> Embedder:
    return Embedder(build_model(config, CorpusSize()), torch.device("cpu"), "fp32", batch_seconds=2.0)


class Listener(nn.Module):
    """Embed a waveform by the function `hear`, and keep the waveforms."""

    def __init__(self, hear, dim: int) -> None:
        super().__init__()
        self.hear, self.heard = hear, []
        self.embedding_dim = dim

    def embed(self, waveforms):
        self.heard.append(waveforms)
        return self.hear(waveforms)


def encoder_inputs(config: Config, manifest: Manifest) -> tuple[torch.Tensor, Probe]:
    """Return the waveforms (N, Q, T) that the encoder receives."""
    listener = Listener(lambda x: torch.randn(len(x), 16), 16)
    probe = Probe(manifest, config)
    probe.measure(Embedder(listener, torch.device("cpu"), "fp32", 2.0))
    waveforms = torch.cat(listener.heard)
    return waveforms.unflatten(0, (-1, config.evaluation.label_free.views)), probe


def test_probe__lists_that_leave_some_utterances_out_share_the_others(config):
    manifest = manifest_of(config)
    chosen = [manifest.paths[i] for i in Probe(manifest, config).utterances]
    fewer = manifest.of_utterances(np.flatnonzero(np.array(manifest.paths) != chosen[0]))
    assert chosen[1:] == [fewer.paths[i] for i in Probe(fewer, config).utterances][:-1]


def test_measure__is_the_same_for_every_probe_and_every_time(config):
    embedder, manifest = embedder_of(config), manifest_of(config)
    first, second = Probe(manifest, config), Probe(manifest, config)
    values = first.measure(embedder)
    assert values == first.measure(embedder) == second.measure(embedder)
    assert all(key.startswith("label_free/") and np.isfinite(value) for key, value in values.items())
    other = Probe(manifest, dataclasses.replace(config, seed=config.seed + 1))
    assert other.utterances != first.utterances and other.measure(embedder) != values


def test_probe__views_are_crops_apart_each_in_a_channel_of_its_own(config):
    manifest = manifest_of(config)
    waveforms, probe = encoder_inputs(config, manifest)
    assert waveforms.shape == (9, 3, 8000) and waveforms.dtype == torch.int16
    assert len(set(probe.utterances)) == 9 and probe.describe() == {"utterances": 9, "views": 3}

    assert probe.maker.crops_are_disjoint
    dry = dataclasses.replace(config, data=dataclasses.replace(config.data, augment=()))
    crops, _ = encoder_inputs(dry, manifest)
    assert all(len({int(view.abs().max()) for view in views}) == 3 for views in crops)  # levels


def test_choose__prefers_utterances_that_are_long_enough_in_the_given_order(config):
    paths, recordings = manifest_of(config).paths, open_recordings(config.data.root)
    order = list(range(16))
    lengths = [len(recordings.read_whole(path)) for path in paths[:16]]

    enough = sorted(lengths)[8]
    long = [u for u in order if lengths[u] >= enough]
    rest = sorted((u for u in order if u not in long), key=lambda u: -lengths[u])
    assert choose(recordings, paths, order, 3, enough) == (long[:3], {})
    assert choose(recordings, paths, order, 10, enough)[0] == (long + rest)[:10]
    assert choose(recordings, paths, order, 1, 10**9)[0] == [int(np.argmax(lengths[:8]))]  # 8 are opened


@pytest.fixture
def damaged(demo_corpus, tmp_path):
    """Make a corpus with one empty and one truncated recording; return it and its manifest."""
    root = shutil.copytree(demo_corpus, tmp_path / "damaged")
    manifest = read_train_lists(root, LISTS)
    empty, cut = root / manifest.paths[2], root / manifest.paths[5]
    empty.write_bytes(b"")
    soundfile.write(cut, read_whole(cut), 16_000, format="FLAC")  # opening would repair a WAV header
    cut.write_bytes(cut.read_bytes()[:2000])
    return root, manifest


def test_measure__leaves_out_and_names_what_cannot_be_read(damaged):
    root, manifest = damaged
    config = config_of(root, utterances=100)
    probe = Probe(manifest, config)
    assert 2 not in probe.utterances and 5 in probe.utterances
    values = probe.measure(embedder_of(config))
    assert {probe.maker.explain("utterances", u)[0] for u in (2, 5)} == set(probe.bad_recordings)
    assert all(path in reason for path, reason in probe.bad_recordings.items())
    # Neither recording gives a row, so the values equal those of a list without them.
    assert probe._embed(embedder_of(config)).shape[0] == len(manifest) - 2
    assert np.isfinite(list(values.values())).all()


def test_measure__refuses_weights_that_are_no_numbers(config):
    embedder = embedder_of(config)
    with torch.no_grad():
        next(embedder.model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite.*learning_rate"):
        Probe(manifest_of(config), config).measure(embedder)


def _two_ranks(rank: int, folder: str, root: str, expected: dict[str, float]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    config = config_of(root, utterances=100)
    if rank == 0:
        probe = Probe(manifest_of(config), config)
    torch.distributed.barrier()  # workers make the probe without waiting for each other, because one may fail
    if rank == 1:
        probe = Probe(manifest_of(config), config)
    values = probe.measure(embedder_of(config))
    assert values == pytest.approx(expected, rel=1e-5)
    assert len(probe.bad_recordings) == 2

    def lacks_memory_on_one(waveforms):
        if rank == 1:
            raise torch.OutOfMemoryError
        return torch.randn(len(waveforms), 16)

    with pytest.raises(ValueError, match="more memory than cpu has"):
        probe.measure(Embedder(Listener(lacks_memory_on_one, 16), torch.device("cpu"), "fp32", 2.0))
    torch.distributed.destroy_process_group()


def test_measure__two_ranks_share_the_work_get_the_values_of_one_and_fail_together(damaged, tmp_path):
    root, manifest = damaged
    config = config_of(root, utterances=100)
    expected = Probe(manifest, config).measure(embedder_of(config))
    torch.multiprocessing.spawn(_two_ranks, (str(tmp_path), str(root), expected), nprocs=2)
