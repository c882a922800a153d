from types import SimpleNamespace

import pytest

from sslsv.training import stopwatch
from sslsv.training.stopwatch import Stopwatch, Watched
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_section__leaves_to_inner_ones_what_they_take(clock):
    watch = Stopwatch()
    with watch.section("outer"):
        clock.sleep(0.05)
        with watch.section("inner"):
            clock.sleep(0.1)
        clock.sleep(0.05)
    assert sum(watch.seconds.values()) == pytest.approx(clock.now - clock.tick_seconds)
    assert watch.seconds == {"outer": pytest.approx(0.1, abs=1e-5), "inner": pytest.approx(0.1, abs=1e-5)}


def test_watching__times_calls_and_puts_the_functions_back(clock):
    class Thing:
        def method(self) -> str:
            clock.sleep(0.03)
            return "done"

    thing, module = Thing(), SimpleNamespace(function=lambda: "of a module")
    before = module.function
    watch = Stopwatch()
    watched = (Watched(thing, "method", "a", afterwards="after"), Watched(module, "function", "b"))
    with watch.watching(watched), watch.section("before"):
        assert thing.method() == "done" and module.function() == "of a module"
        clock.sleep(0.03)
    assert "method" not in vars(thing) and module.function is before
    assert watch.seconds["a"] >= 0.03 and watch.seconds["after"] >= 0.03
    assert watch.seconds["before"] < 1e-5


def test_watching__puts_the_functions_back_after_an_error():
    thing = SimpleNamespace(function=lambda: 1 / 0)
    before = thing.function
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch.watching([Watched(thing, "function", "a")]):
        thing.function()
    assert thing.function is before and "a" in watch.seconds
