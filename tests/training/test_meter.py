import pytest
import torch

from sslsv.data.stream import Plan
from sslsv.runs.checkpoint import Position
from sslsv.training import meter as meter_module
from sslsv.training.meter import Meter
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    return clock


def meter(**position):
    return Meter(Plan(num_utterances=40, batch_size=8, seed=0), 10, Position(**position))


def test_record__averages_the_steps_since_the_last_record():
    m = meter()
    for value in (1.0, 3.0):
        m.add({"loss": torch.tensor(value)})
    assert m.record()["loss"] == pytest.approx(2.0)
    m.add({"loss": torch.tensor(7.0)})
    record = m.record()
    assert record["loss"] == pytest.approx(7.0)
    assert (record["step"], record["epoch"]) == (3, 0.6)


def test_record__waiting_counts_as_waiting_and_pauses_as_nothing(clock):
    m = meter()
    with m.spent_on("pause"):
        clock.sleep(0.2)
    with m.spent_on("waiting"):
        clock.sleep(0.2)
    m.add({"loss": torch.tensor(1.0)})
    record = m.record()
    assert record["data_wait_share"] > 0.999  # the pause does not count as training time
    assert record["samples_per_second"] == pytest.approx(8 / 0.2, rel=1e-3)


def test_seconds__go_on_after_a_restart():
    assert meter(step=4, seconds=100.0).seconds == pytest.approx(100.0, abs=1.0)
