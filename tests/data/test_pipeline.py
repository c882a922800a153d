import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sslsv.data.audio import AudioError
from sslsv.data.lists import read_train_lists
from sslsv.data.pipeline import _local_until_ready, train_batches
from sslsv.data.section import DataConfig
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker
from tests.data.batches import plain_batches


def plan_and_maker(root: Path) -> tuple[Plan, ViewMaker]:
    manifest = read_train_lists(root, ("voxceleb2_train_list",))
    maker = ViewMaker(
        manifest, (("views", 2, 0.5, False), ("local", 3, 0.25, True)), DataConfig(root=str(root)), 9
    )
    return Plan(len(manifest), 8, seed=9), maker


def stream_and_own(total: int, meet: int):
    """Return a stream that starts when `own` waits at batch `meet`, `own` itself, and what was closed."""
    begun, delivers, closed = threading.Event(), threading.Event(), []

    def stream():
        try:
            begun.wait(10)
            for number in range(total):
                delivers.set()
                yield "stream", number
        finally:
            closed.append("stream")

    def own():
        try:
            for number in range(total):
                if number == meet:
                    begun.set(), delivers.wait(10), time.sleep(0.2)
                yield "own", number
        finally:
            closed.append("own")

    return stream(), own(), closed


def test_earliest__own_batches_come_until_the_stream_delivers_and_none_twice() -> None:
    stream, own, closed = stream_and_own(total=6, meet=2)
    batches = list(_local_until_ready(stream, own))
    assert batches == [(maker, number) for number, maker in enumerate(3 * ["own"] + 3 * ["stream"])]
    assert closed == ["own", "stream"]
    stream, own, closed = stream_and_own(total=3, meet=2)  # all batches are made in this process
    assert [number for _, number in _local_until_ready(stream, own)] == [0, 1, 2] and "stream" in closed


def test_earliest__nothing_is_made_here_from_the_first_batch_of_the_stream_on() -> None:
    has_begun, made = threading.Event(), []

    def stream():
        has_begun.wait(10)
        for number in range(6):
            yield number
            time.sleep(0.05)  # slower than a trainer that takes no time

    def own():
        for number in range(6):
            made.append(number)
            if number == 3:
                has_begun.set(), time.sleep(0.02)
            yield number

    assert list(_local_until_ready(stream(), own())) == [0, 1, 2, 3, 4, 5]
    assert made == [0, 1, 2, 3]


def test_earliest__closed_early_it_closes_a_stream_that_has_not_been_asked_for() -> None:
    stream, own, closed = stream_and_own(total=6, meet=0)
    batches = _local_until_ready(stream, own)
    next(batches)
    batches.close()
    assert "stream" in closed


def test_earliest__an_error_of_the_stream_is_raised() -> None:
    def stream():
        raise AudioError("no such file")
        yield

    with pytest.raises(AudioError, match="no such file"):
        for _ in _local_until_ready(stream(), (time.sleep(0.05) for _ in range(100))):
            pass


@pytest.mark.slow
def test_train_batches__equal_plain_batches_bit_for_bit(demo_corpus: Path, ray_session: None) -> None:
    plan, maker = plan_and_maker(demo_corpus)
    for steps, ranks in (((1, 10), {}), ((6, 9), {"rank": 1, "world_size": 2})):
        batches = list(train_batches(plan, maker, *steps, utterances_per_block=8, data_tasks=2, **ranks))
        expected = list(plain_batches(plan, maker, *steps, **ranks))
        for batch, reference in zip(batches, expected, strict=True):
            assert batch.keys() == reference.keys()
            for name, column in reference.items():
                assert batch[name].dtype == column.dtype and torch.equal(batch[name], column)
    assert batches[0]["views"].dtype == torch.int16 and batches[0]["local"].shape == (4, 3, 4000)
    batches[0]["views"].add_(1)  # writable, unlike memory of the object store


@pytest.mark.slow
def test_train_batches__closing_early_frees_the_tasks(demo_corpus: Path, ray_session: None) -> None:
    import ray

    plan, maker = plan_and_maker(demo_corpus)
    batches = train_batches(plan, maker, 0, 4000, data_tasks=2)
    assert next(batches)["sample"].tolist() == list(np.arange(8))
    batches.close()
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 4


@pytest.mark.slow
def test_train_batches__ray_does_not_spin_while_made_batches_wait(
    demo_corpus: Path, ray_session: None
) -> None:
    manifest = read_train_lists(demo_corpus, ("voxceleb2_train_list",))
    maker = ViewMaker(manifest, (("views", 2, 2.0, False),), DataConfig(root=str(demo_corpus)), 9)
    plan = Plan(len(manifest), 16, seed=9)
    # Blocks of 66 MB: the object store holds only a few, so the tasks must wait.
    batches = train_batches(plan, maker, 0, 4000, data_tasks=2, utterances_per_block=512)
    next(batches)
    time.sleep(8)
    before = time.process_time()
    time.sleep(2)
    assert time.process_time() - before < 0.6  # CPU seconds of an idle process; 2.0 if Ray spins
    batches.close()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_train_batches__need_no_more_of_a_cpu_than_their_tasks_are_given(
    demo_corpus: Path, ray_session: None
) -> None:
    import ray

    @ray.remote(num_cpus=3.5)  # of 4 CPUs, as training workers may occupy
    class Holder:
        def is_there(self) -> bool:
            return True

    holder = Holder.remote()
    assert ray.get(holder.is_there.remote())
    plan, maker = plan_and_maker(demo_corpus)
    assert len(list(train_batches(plan, maker, 0, 6, data_tasks=1, cpus_per_task=0.5))) == 6
    ray.kill(holder)


@pytest.mark.slow
def test_train_batches__an_error_in_a_data_process_keeps_its_own_words(
    demo_corpus: Path, ray_session: None, tmp_path: Path
) -> None:
    root = shutil.copytree(demo_corpus, tmp_path / "corpus")
    plan, maker = plan_and_maker(root)
    for file in (root / "voxceleb2").rglob("*.wav"):
        file.write_text("nothing")
    with pytest.raises(AudioError, match="^21 recordings in a row cannot be read; the first: ") as caught:
        next(train_batches(plan, maker, 0, 3, data_tasks=1))
    assert type(caught.value) is AudioError and "retry" not in str(caught.value)
