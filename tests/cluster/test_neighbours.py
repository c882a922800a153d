"""Waiting threads beside other processes; what it gains is measured by `python -m benchmarks --only neighbours`."""

import contextlib
import os
import time

import pytest
import torch

from sslsv.cluster import neighbours
from sslsv.cluster.neighbours import passive_waiting, thread_seconds, waiting_shares


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


def test_waiting_shares__of_the_time_in_which_threads_ran_or_could_have(monkeypatch):
    times = iter([(1.0, 1.0), (2.0, 2.0), (4.0, 2.0), (4.0, 2.0)])
    monkeypatch.setattr(neighbours, "thread_seconds", lambda: next(times))
    monkeypatch.setattr(neighbours, "LOOK_SECONDS", 0.0)
    shares = waiting_shares()
    assert [next(shares) for _ in range(3)] == [0.5, 0.0, 0.0]


def test_thread_seconds__count_what_this_process_computes():
    before, _ = thread_seconds()
    end = time.thread_time() + 0.2
    while time.thread_time() < end:
        pass
    assert thread_seconds()[0] - before >= 0.19


def test_watch__waits_passively_from_the_first_crowded_look_to_the_first_quiet_one(monkeypatch):
    left, seen = [0.0, 0.1, 0.2, 0.1, 0.01, 0.1, 0.3], []

    @contextlib.contextmanager
    def noted():
        seen.append(("from", len(left)))
        yield
        seen.append(("to", len(left)))

    monkeypatch.setattr(neighbours, "waiting_shares", lambda: iter(lambda: left.pop(0) if left else -1, -1))
    monkeypatch.setattr(neighbours, "passive_waiting", noted)
    with pytest.raises(StopIteration):
        neighbours._watch()
    assert seen == [("from", 4), ("to", 2), ("from", 0)]
