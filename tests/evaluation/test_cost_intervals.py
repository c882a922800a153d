import numpy as np
import pytest

from sslsv.evaluation.cost_intervals import cost_bootstrap
from sslsv.evaluation.metrics import act_dcf, act_dcf_key, cllr
from tests.evaluation.test_intervals import simulated, slow_bootstrap


@pytest.mark.parametrize("num_speakers", [2, 3, 12])
def test_cost_bootstrap__is_that_of_repeated_trials(num_speakers):
    scores, targets, enrol, test = simulated(1, num_speakers)
    trials = 3 * scores - 4, targets, enrol, test
    intervals = cost_bootstrap(*trials, replicates=50, confidence=0.9, seed=3)
    expected = slow_bootstrap(trials, 50, seed=3, metrics={"cllr": cllr, act_dcf_key(): act_dcf})
    assert intervals.keys() == expected.keys()
    for name, interval in intervals.items():
        assert interval.low == pytest.approx(expected[name].low, abs=1e-10)
        assert interval.high == pytest.approx(expected[name].high, abs=1e-10)


def test_cost_bootstrap__of_ratios_that_say_nothing_has_no_width():
    _, targets, enrol, test = simulated(2)
    found = cost_bootstrap(np.zeros(len(targets)), targets, enrol, test, p_targets=(0.05,), replicates=20)
    assert (found["cllr"].low, found["cllr"].high) == pytest.approx((1, 1))
    assert (found[act_dcf_key(0.05)].low, found[act_dcf_key(0.05)].high) == pytest.approx((1, 1))


def test_cost_bootstrap__says_what_is_wrong():
    with pytest.raises(ValueError, match="contradict their targets"):
        cost_bootstrap([0.9, 0.1, 0.8], [1, 0, 1], [0, 0, 1], [0, 0, 1])
    with pytest.raises(ValueError, match="at least 1 replicate"):
        cost_bootstrap([0.9, 0.1, 0.8], [1, 0, 1], [0, 0, 1], [0, 1, 1], replicates=0)
