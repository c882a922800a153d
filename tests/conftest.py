"""Define shared fixtures: a small synthetic corpus, a run on it, and one Ray session."""

import os
import shutil
import sys
import tempfile

# Set before the first import of ray: no token file, no usage report, no progress bars.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("WANDB_MODE", "disabled")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import torch

from sslsv.prepare_data.demo import DemoOptions, make_demo_corpus

if TYPE_CHECKING:
    from sslsv.config import Config
    from tests.object_storage import ObjectStorage

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # benchmarks/ and tests/ are not part of the installed package

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a corpus (read-only) of 8 + 2 training and 3 trial speakers, 2 recordings of 2 utterances each."""
    root = tmp_path_factory.mktemp("demo_corpus")
    make_demo_corpus(root, DemoOptions(speakers=8, eval_speakers=3, recordings=2, utterances=2, bank_files=3))
    return root


@pytest.fixture(scope="session")
def packed_demo_corpus(tmp_path_factory: pytest.TempPathFactory, demo_corpus: Path) -> Path:
    """Pack the demo corpus into shards (read-only)."""
    from sslsv.prepare_data.pack import pack

    out = tmp_path_factory.mktemp("packed_demo") / "packed"
    assert pack(demo_corpus, out, shard_mb=1, jobs=1)
    return out


@pytest.fixture(scope="session")
def object_storage() -> "Iterator[ObjectStorage]":
    """Start an S3-compatible server with an empty bucket; processes started by tests use it too."""
    from tests.object_storage import ObjectStorage

    storage = ObjectStorage()
    with mock.patch.dict(os.environ, storage.environment):
        storage.create_bucket()
        yield storage
    storage.close()


@pytest.fixture(scope="session")
def small_config(demo_corpus: Path) -> "Config":
    """Return settings of a tiny SimCLR on the demo corpus, validated each epoch on 3 held-out speakers."""
    from sslsv.config import Config
    from sslsv.settings import apply_overrides, parse_yaml

    text = f"""
    data: {{root: {demo_corpus}}}
    encoder: {{width: 2, embedding_dim: 16}}
    model: {{crop_seconds: 0.3, temperature: 0.1}}
    optimizer.schedule.name: cosine
    train: {{epochs: 4, batch_size: 5, log_every_steps: 3}}
    evaluation: {{held_out_speakers: 3, label_free: {{utterances: 0}}}}
    run: {{tensorboard: false}}
    """
    return apply_overrides(Config(), parse_yaml(text))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, small_config: "Config") -> str:
    """Make a run (read-only) with a tiny encoder and three checkpoints, of which the second is the best."""
    import dataclasses

    from sslsv.config import to_yaml
    from sslsv.models.base import CorpusSize
    from sslsv.runs.checkpoint import write_checkpoint
    from sslsv.runs.folder import RunFolder
    from sslsv.settings import apply_overrides
    from sslsv.training.state import build_state, checkpoint_of

    config = apply_overrides(small_config, ["evaluation.test=[trials]", "run.keep_checkpoints=3"])
    folder = RunFolder(str(tmp_path_factory.mktemp("runs")), "small")
    folder.write("config.yml", to_yaml(config).encode())
    state = build_state(config, CorpusSize(), torch.device("cpu"))
    for step in (1, 2, 3):
        state = dataclasses.replace(state, step=step, best_step=min(step, 2), best_value=10.0)
        with torch.no_grad():
            for weights in state.model.parameters():
                weights.add_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(step)) / 50)
        write_checkpoint(folder, checkpoint_of(state, config))
    return folder.location


def batches_without_ray(set_attribute: Callable[[object, str, object], None]) -> None:
    """Make training build its batches in its own process."""
    from sslsv.training import corpus, loop
    from tests.data.batches import plain_batches

    def batches(plan, maker, first, last, *, rank, world_size, **resources):
        return plain_batches(plan, maker, first, last, rank=rank, world_size=world_size)

    set_attribute(corpus, "train_batches", batches)
    for module in (corpus, loop):
        set_attribute(module, "share_maker", lambda maker: maker)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make training build its batches in the test's process."""
    batches_without_ray(monkeypatch.setattr)


@pytest.fixture
def ray_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a home folder without a token, also for Ray's logs; Ray requires tokens in this test."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # pytest's folders are too deep for a socket path
    monkeypatch.setenv("HOME", folder)
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.delenv("RAY_AUTH_MODE")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start a local Ray with 4 logical CPUs, so that data tasks have CPUs next to a training worker."""
    import ray

    # The path of a socket is limited to 107 characters; pytest's folders are too deep.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    search_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=512 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": search_path}},
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
