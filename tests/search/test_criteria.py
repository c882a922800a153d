"""Orders of a criterion against orders of the EER, counted by hand."""

import pytest

from sslsv.search.criteria import rank_criteria, rank_criterion

PSEUDO, RANKME = "label_free/pseudo_eer", "label_free/rankme"


@pytest.mark.parametrize(
    ("criterion", "values", "eers", "tau", "regret"),
    [
        (PSEUDO, [1, 2, 3, 4, 5, 6], [10, 11, 20, 30, 40, 41], 1.0, 0.0),
        (RANKME, [6, 5, 4, 3, 2, 1], [10, 11, 20, 30, 40, 41], 1.0, 0.0),  # higher ranks are better
        # Order by criterion: trials 2, 0, 1, 3; by EER: 0, 1, 2, 3.  Of six pairs two disagree: (6 - 4) / 6.
        (PSEUDO, [2.0, 3.0, 1.0, 4.0], [10.0, 12.0, 15.0, 20.0], 1 / 3, 5.0),
        (PSEUDO, [4, 3, 2, 1], [10, 20, 30, 40], -1.0, 30.0),
        (PSEUDO, [1, 1, 2], [10, 14, 20], 2 / 6**0.5, 2.0),  # equally best ones share their regret
        (PSEUDO, [1, 1, 1], [10, 14, 21], None, 5.0),  # a constant has no order
    ],
)
def test_rank_criterion__by_hand(criterion, values, eers, tau, regret):
    found = rank_criterion(criterion, values, eers)
    assert (found.tau, found.regret) == (pytest.approx(tau), regret)


def test_rank_criteria__compares_at_the_same_epoch_and_leaves_out_what_is_not_there():
    records = [{"eer": 10.0 + i, PSEUDO: 1.0 + i, RANKME: None} for i in range(4)]
    found = rank_criteria({4: records, 12: records[:2], 36: [*records[:3], {"eer": 1.0}]})
    assert [(r.criterion, r.epoch, r.trials) for r in found] == [(PSEUDO, 4, 4), (PSEUDO, 36, 3)]
    assert all(r.tau == pytest.approx(1.0) for r in found)
