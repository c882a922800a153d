"""Test embeddings of the corpus between epochs: all utterances once, in order, for any number of workers."""

from pathlib import Path

import pytest
import soundfile
import torch
import torch.distributed as dist

from sslsv.build import build_model
from sslsv.config import Config
from sslsv.data.lists import read_train_lists
from sslsv.data.section import DataConfig
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.training import corpus as corpus_module
from sslsv.training.corpus import TrainingCorpus
from tests.conftest import batches_without_ray

LISTS = ("voxceleb1_train_list", "voxceleb2_train_list")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, without_ray: None) -> None:
    monkeypatch.setattr(corpus_module, "BLOCK_CROPS", 4)


def embed(root: Path, **settings) -> tuple[torch.Tensor, TrainingCorpus]:
    data = DataConfig(root=str(root), train_lists=LISTS, speeds=(0.9, 1.1))
    config = Config(data=data, encoder=ThinResNet34.Config(width=2, embedding_dim=8, stem_time_stride=2))
    corpus = TrainingCorpus(read_train_lists(root, LISTS), config, torch.device("cpu"))
    model, modes = build_model(config, corpus.size), set()
    model.encoder.register_forward_hook(lambda encoder, *_: modes.add(encoder.training))
    rows = corpus.embed(model, seconds=0.5, **settings)
    assert modes == {False} and model.training and not rows.requires_grad
    return rows, corpus


@pytest.mark.parametrize("measured", [1000, 4])
def test_hours__are_exact_where_there_are_few_utterances_and_near_elsewhere(
    measured: int, demo_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "NUM_MEASURED", measured)
    manifest = read_train_lists(demo_corpus, LISTS)
    config = Config(data=DataConfig(root=str(demo_corpus), train_lists=LISTS))
    exact = sum(soundfile.info(demo_corpus / path).duration for path in manifest.paths) / 3600
    found = TrainingCorpus(manifest, config, torch.device("cpu")).hours()
    assert found == pytest.approx(exact, rel=0.5 if measured == 4 else 1e-6)


def test_embed__gives_a_row_for_each_utterance_in_the_order_of_the_lists(demo_corpus: Path) -> None:
    rows, corpus = embed(demo_corpus)
    assert rows.shape == (corpus.size.num_utterances, 8) and rows.dtype == torch.float32
    assert corpus.size.num_speakers == corpus.manifest.num_speakers
    assert len(rows) % 4 != 0 or len(torch.unique(rows, dim=0)) == len(rows)
    again, _ = embed(demo_corpus)
    assert torch.equal(rows, again)
    augmented, _ = embed(demo_corpus, clean=False)
    assert not torch.allclose(rows, augmented)


def test_embed__crops_of_one_kind_are_shared_once(demo_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, share_maker = list[object](), corpus_module.share_maker
    monkeypatch.setattr(
        corpus_module, "share_maker", lambda maker: shared.append(maker) or share_maker(maker)
    )
    rows, corpus = embed(demo_corpus)
    model = build_model(corpus.config, corpus.size)
    again = corpus.embed(model, seconds=0.5)
    assert len(shared) == 1 and again.shape == rows.shape
    corpus.embed(model, seconds=1.0)
    assert len(shared) == 2


@pytest.mark.parametrize("are_classes", [False, True])
def test_size__counts_a_speaker_once_for_each_of_their_classes(demo_corpus: Path, are_classes: bool) -> None:
    manifest = read_train_lists(demo_corpus, LISTS)
    data = DataConfig(speeds=(1.0, 0.9, 1.1), speeds_are_classes=are_classes)
    size = TrainingCorpus(manifest, Config(data=data), torch.device("cpu")).size
    assert size == (len(manifest), manifest.num_speakers * (3 if are_classes else 1))


def _rank(rank: int, folder: str, root: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    batches_without_ray(setattr)
    corpus_module.BLOCK_CROPS = 4
    rows, _ = embed(Path(root))
    torch.save(rows, f"{folder}/rows_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_embed__two_workers_have_the_rows_of_one_bit_for_bit(demo_corpus: Path, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path), str(demo_corpus)), nprocs=2)
    expected, _ = embed(demo_corpus)
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"rows_{rank}.pt"), expected)
