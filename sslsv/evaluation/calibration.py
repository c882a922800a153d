"""Scores to log-likelihood ratios: affine calibration by prior-weighted logistic regression.

Fit on trials of speakers that nothing is reported on. The objective is that of the BOSARIS toolkit (arXiv
1304.2865); it is convex, and Newton's method finds the optimum in float64.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from sslsv.evaluation.metrics import Floats, Labels, checked_trials

# Half of this times the squared scale is added to the cost, for scores of deviation 1. It is too small to
# matter where the scores of target and nontarget trials overlap, and enough for a finite optimum elsewhere.
RIDGE = 1e-10
MAX_STEPS = 200
TOO_SURE = (
    "The validation trials are told apart without error, so ratios and decisions are far too sure: validate "
    "on more speakers."
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
    a ridge of 1e-10 makes it finite, and the ratios are far too sure all the same. Raises ValueError for
    scores that are not finite and trials of one kind.
    """
    _logit(p_target)  # This refuses what is no prior.
    values, is_target = checked_trials(scores, targets)
    if np.ptp(values) == 0:
        return Calibration(0.0, 0.0)
    # Both kinds weigh the same in the unit that the ridge refers to, however many there are of each.
    shares = np.where(is_target, 0.5 / is_target.sum(), 0.5 / (~is_target).sum())
    mean = float(values @ shares)
    deviation = math.sqrt((values - mean) ** 2 @ shares)
    slope, offset = _least_cost((values - mean) / deviation, is_target, p_target)
    if slope < 0:
        return Calibration(0.0, 0.0)
    is_too_sure = bool(values[is_target].min() > values[~is_target].max())
    return Calibration(slope / deviation, offset - slope / deviation * mean, is_too_sure)


def posterior(llr: ArrayLike, p_target: float) -> Floats:
    """Return the probability of the same speaker (any shape) of log-likelihood ratios at a prior."""
    return np.asarray(expit(np.asarray(llr, dtype=np.float64) + _logit(p_target)))


def _least_cost(units: Floats, is_target: Labels, p_target: float) -> tuple[float, float]:
    """Find slope and offset of least cost for scores (T,) of deviation 1, by Newton's method."""
    rows = np.stack((units, np.ones(len(units))))
    signs = np.where(is_target, -1.0, 1.0)
    weights = np.where(is_target, p_target / is_target.sum(), (1 - p_target) / (~is_target).sum())
    ridge = np.array([RIDGE, 0])

    def cost_at(point: Floats) -> float:
        costs = np.logaddexp(0, signs * (point @ rows + _logit(p_target)))
        return float(weights @ costs + 0.5 * ridge @ point**2)

    point = np.zeros(2)
    cost = cost_at(point)
    for _ in range(MAX_STEPS):
        wrong = expit(signs * (point @ rows + _logit(p_target)))
        gradient = rows @ (weights * signs * wrong) + ridge * point
        curvature = (rows * (weights * wrong * (1 - wrong))) @ rows.T + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        gain = float(gradient @ step)
        if gain <= 1e-13 * cost:
            point -= step  # The cost no longer shows this step, but it doubles the correct digits.
            break
        length = 1.0
        while (tried := cost_at(point - length * step)) > cost - 0.1 * length * gain and length > 1e-9:
            length /= 2
        point, cost = point - length * step, tried
    return float(point[0]), float(point[1])


def _logit(probability: float) -> float:
    if not 0 < probability < 1:
        raise ValueError(f"p_target is {probability}; it must be between 0 and 1.")
    return math.log(probability / (1 - probability))
