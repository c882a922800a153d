"""The benchmark that kills sweeps: it counts no kill that did not happen."""

import pytest

from benchmarks.sweep_restarts import draw_moments, run_killed


def test_run_killed__a_sweep_that_ends_before_its_kill_is_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"ended \(code 2\) before kill 1; choose another --seed"):
        run_killed(tmp_path, [str(tmp_path / "no_space.py")], [300.0])


def test_draw_moments__come_after_the_beginning_and_together_before_the_end():
    for seed in range(100):
        moments = draw_moments(seed, kills=3, beginning=10.0, seconds=70.0)
        assert all(moment >= 12.0 for moment in moments)
        assert sum(moment - 10.0 for moment in moments) <= 0.9 * 60.0
