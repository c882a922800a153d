"""Test waiting threads next to other processes; `python -m benchmarks --only neighbours` has the gain."""

import contextlib
import os
import time

import pytest
import torch

from sslsv.cluster import neighbours
from sslsv.cluster.neighbours import passive_waiting, thread_nanoseconds, waiting_share


def num_threads():
    return len(os.listdir("/proc/self/task"))


def test_passive_waiting__more_threads_than_cpus_are_held_and_then_given_back(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    cpus, before = len(os.sched_getaffinity(0)), num_threads()
    with passive_waiting():
        assert num_threads() - before > cpus
    deadline = time.monotonic() + 10
    while num_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_threads() <= before


def test_waiting_share__counts_each_thread_for_as_long_as_it_was_there(monkeypatch):
    looks = iter([{"1": (10, 10), "2": (90, 90)}, {"1": (25, 15), "3": (5, 0)}])
    monkeypatch.setattr(neighbours, "thread_nanoseconds", lambda: next(looks))
    assert waiting_share(0.0) == pytest.approx(5 / 25)


def test_thread_nanoseconds__count_what_this_process_computes():
    before = sum(ran for ran, _ in thread_nanoseconds().values())
    end = time.thread_time() + 0.2
    while time.thread_time() < end:
        pass
    assert sum(ran for ran, _ in thread_nanoseconds().values()) - before >= 0.19e9


def test_watch__tries_again_after_pauses_that_double_until_a_try_has_lasted(monkeypatch):
    crowded, quiet = 0.5, 0.1
    shares, pauses = [quiet, crowded, crowded, crowded, *[quiet] * 40, crowded], []
    monkeypatch.setattr(neighbours, "waiting_share", lambda _: shares.pop(0))
    monkeypatch.setattr(neighbours, "passive_waiting", contextlib.nullcontext)
    monkeypatch.setattr(neighbours.time, "sleep", pauses.append)
    with pytest.raises(IndexError):
        neighbours._watch()
    assert pauses == [8.0, 16.0, 32.0, 8.0]
