"""Scores to log-likelihood ratios: affine calibration by prior-weighted logistic regression.

Fit on trials of speakers that nothing is reported on. The objective is that of the BOSARIS toolkit (arXiv
1304.2865); it is convex, and Newton's method finds the optimum in float64.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from sslsv.evaluation.metrics import Floats, checked_trials

# Half of this times the squared scale is added to the cost, for scores of deviation 1. It is too small to
# matter where the scores of target and nontarget trials overlap, and enough for a finite optimum elsewhere.
RIDGE = 1e-10
TOO_SURE = (
    "The validation trials are told apart without error, so ratios and decisions are far too sure: validate "
    "on more speakers."
)
TELLS_NOTHING = (
    "Scores by {} are no higher for the same speaker than for different ones, in the validation trials: so "
    "they are not calibrated."
)


@dataclass(frozen=True)
class Calibration:
    """Map scores to natural log-likelihood ratios: scale * score + offset."""

    scale: float
    offset: float
    is_too_sure: bool = False  # a threshold separates the trials that it was fitted on

    def apply(self, scores: ArrayLike) -> Floats:
        """Return log-likelihood ratios (T,) of scores (T,)."""
        return np.asarray(self.scale * np.asarray(scores, dtype=np.float64) + self.offset)


def fit_calibration(scores: ArrayLike, targets: ArrayLike, p_target: float = 0.01) -> Calibration:
    """Fit the calibration of scores (T,) that costs least on these trials.

    Cost is the mean over target trials of p_target * log(1 + exp(-x)) plus that over nontargets of
    (1 - p_target) * log(1 + exp(x)), x = llr + logit(p_target). `p_target` is the effective prior: it takes
    costs of errors in, and says which operating points matter most. Neither the scale and offset of scores
    nor the share of target trials changes the ratios.

    The scale is never negative: for scores that never change, or are higher for different speakers, it is 0,
    and so is every ratio. Where a threshold separates the two kinds without error the best scale is infinite;
    a tiny ridge makes it finite, and the ratios are far too sure. Raises ValueError for scores that are not
    finite and trials of one kind.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second, and applying one does not need it

    values, is_target = checked_trials(scores, targets)
    if np.ptp(values) == 0:
        return Calibration(0.0, 0.0)
    # Both kinds weigh the same in the unit that the ridge refers to, however many there are of each.
    shares = np.where(is_target, 0.5 / is_target.sum(), 0.5 / (~is_target).sum())
    mean = float(values @ shares)
    deviation = math.sqrt((values - mean) ** 2 @ shares)
    units = ((values - mean) / deviation)[:, None]
    # The weights sum to 1: so the ridge is that of the mean cost.
    weights = 2 * shares * np.where(is_target, p_target, 1 - p_target)
    model = LogisticRegression(C=1 / RIDGE, solver="newton-cholesky", tol=1e-14, max_iter=200)
    model.fit(units, is_target, sample_weight=weights)
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0] - logit(p_target))
    if slope < 0:
        return Calibration(0.0, 0.0)
    is_too_sure = bool(values[is_target].min() > values[~is_target].max())
    return Calibration(slope / deviation, offset - slope / deviation * mean, is_too_sure)


def posterior(llr: ArrayLike, p_target: float) -> Floats:
    """Return the probability of the same speaker (any shape) of log-likelihood ratios at a prior."""
    return np.asarray(expit(np.asarray(llr, dtype=np.float64) + logit(p_target)))
