import time
from types import SimpleNamespace

import pytest

from sslsv.stopwatch import Stopwatch, Watched


def test_section__leaves_to_inner_ones_what_they_take():
    watch = Stopwatch()
    started = time.perf_counter()
    with watch.section("outer"):
        time.sleep(0.05)
        with watch.section("inner"):
            time.sleep(0.1)
        time.sleep(0.05)
    whole = time.perf_counter() - started
    assert sum(watch.seconds.values()) == pytest.approx(whole, rel=0.02)
    assert 0.1 <= watch.seconds["inner"] < 0.1 + 0.09 <= 0.2
    assert watch.seconds["outer"] >= 0.1


def test_watching__times_calls_and_puts_the_functions_back():
    class Thing:
        def method(self) -> str:
            time.sleep(0.03)
            return "done"

    thing, module = Thing(), SimpleNamespace(function=lambda: "of a module")
    before = module.function
    watch = Stopwatch()
    watched = (Watched(thing, "method", "a", afterwards="after"), Watched(module, "function", "b"))
    with watch.watching(watched), watch.section("before"):
        assert thing.method() == "done" and module.function() == "of a module"
        time.sleep(0.03)
    assert "method" not in vars(thing) and module.function is before
    assert watch.seconds["a"] >= 0.03 and watch.seconds["after"] >= 0.03
    assert watch.seconds["before"] < 0.03


def test_watching__puts_the_functions_back_after_an_error():
    thing = SimpleNamespace(function=lambda: 1 / 0)
    before = thing.function
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch.watching([Watched(thing, "function", "a")]):
        thing.function()
    assert thing.function is before and "a" in watch.seconds
