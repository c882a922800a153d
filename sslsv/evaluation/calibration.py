"""Map scores to log-likelihood ratios: affine calibration by prior-weighted logistic regression.

Fit it to trials of speakers on whom no result is reported. The objective is that of the BOSARIS toolkit
(arXiv 1304.2865). It is convex, and Newton's method finds the optimum in float64.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from sslsv.evaluation.metrics import Floats, checked_trials

# Weight of an L2 penalty: RIDGE / 2 times the squared scale, for scores of standard deviation 1. It is
# negligible if target and nontarget scores overlap, and keeps the optimum finite if they do not.
RIDGE = 1e-10
OVERCONFIDENT = (
    "A threshold separates the validation trials without error, so likelihood ratios and decisions are far "
    "too confident: validate on more speakers."
)
UNINFORMATIVE = (
    "Scores by {} are no higher for the same speaker than for different speakers in the validation trials, "
    "so they are not calibrated."
)


@dataclass(frozen=True)
class Calibration:
    """Map scores to natural log-likelihood ratios: scale * score + offset."""

    scale: float
    offset: float
    is_too_sure: bool = False  # a threshold separates the fitted trials without error

    def apply(self, scores: ArrayLike) -> Floats:
        """Return log-likelihood ratios (T,) of scores (T,)."""
        return np.asarray(self.scale * np.asarray(scores, dtype=np.float64) + self.offset)


def fit_calibration(scores: ArrayLike, targets: ArrayLike, p_target: float = 0.01) -> Calibration:
    """Fit the calibration of scores (T,) with the lowest cost on these trials.

    The cost is the mean over target trials of p_target * log(1 + exp(-x)) plus the mean over nontarget trials
    of (1 - p_target) * log(1 + exp(x)), with x = llr + logit(p_target). `p_target` is the effective prior: it
    includes the costs of errors and sets which operating points matter most. The ratios depend neither on
    scale and offset of the scores nor on the share of target trials.

    The scale is never negative. It is 0, and so is every ratio, if all scores are equal or if higher scores
    mean different speakers. If a threshold separates target from nontarget trials without error, the best
    scale is infinite; a tiny ridge penalty makes it finite, but the ratios are far overconfident. Raises
    ValueError for scores that are not finite, and if one kind of trial is missing.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second; `apply` does not need it

    values, is_target = checked_trials(scores, targets)
    if np.ptp(values) == 0:
        return Calibration(0.0, 0.0)
    # Scores are standardised for the ridge penalty, with equal weight of target and nontarget trials.
    shares = np.where(is_target, 0.5 / is_target.sum(), 0.5 / (~is_target).sum())
    mean = float(values @ shares)
    deviation = math.sqrt((values - mean) ** 2 @ shares)
    standardised = ((values - mean) / deviation)[:, None]
    # The weights sum to 1, so the ridge penalty is relative to the mean cost.
    weights = 2 * shares * np.where(is_target, p_target, 1 - p_target)
    model = LogisticRegression(C=1 / RIDGE, solver="newton-cholesky", tol=1e-14, max_iter=200)
    model.fit(standardised, is_target, sample_weight=weights)
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0] - logit(p_target))
    if slope < 0:
        return Calibration(0.0, 0.0)
    is_too_sure = bool(values[is_target].min() > values[~is_target].max())
    return Calibration(slope / deviation, offset - slope / deviation * mean, is_too_sure)


def posterior(llr: ArrayLike, p_target: float) -> Floats:
    """Return the probability of the same speaker, given log-likelihood ratios (any shape) and a prior."""
    return np.asarray(expit(np.asarray(llr, dtype=np.float64) + logit(p_target)))
