"""Scores to log-likelihood ratios: affine calibration and fusion by prior-weighted logistic regression.

Fit on trials of speakers that nothing is reported on. What is minimised is that of the BOSARIS toolkit (arXiv
1304.2865); it is convex, and Newton's method finds the optimum in float64.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from sslsv.evaluation.error_curve import Floats, checked_targets

# Factor of half the squared scales, of scores of deviation 1: too small to matter where the scores of target
# and nontarget trials overlap, and enough for a finite optimum where they don't.
RIDGE = 1e-10
MAX_STEPS = 200


@dataclass(frozen=True)
class Calibration:
    """llr = scale * score + offset, in natural logarithms; with several scales, those of a fusion."""

    scale: float | tuple[float, ...]
    offset: float

    def __post_init__(self) -> None:
        """Refuse what maps no score to a number."""
        if not np.size(self.scale) or not np.isfinite([*np.atleast_1d(self.scale), self.offset]).all():
            raise ValueError(
                f"scale {self.scale} and offset {self.offset} are no calibration; both must be finite."
            )

    def apply(self, scores: ArrayLike) -> Floats:
        """Log-likelihood ratios (T,) of scores (T,), or (K, T) for a fusion of K."""
        values = np.asarray(scores, dtype=np.float64)
        if not isinstance(self.scale, tuple):
            return np.asarray(self.scale * values + self.offset)
        if values.ndim != 2 or len(values) != len(self.scale):
            raise ValueError(
                f"scores have shape {values.shape}; this fusion needs ({len(self.scale)}, T), one row each."
            )
        return np.asarray(np.asarray(self.scale) @ values + self.offset)

    def to_dict(self) -> dict[str, float | list[float]]:
        """What JSON can hold; `from_dict` makes the same calibration of it, to the last bit."""
        return {
            "scale": list(self.scale) if isinstance(self.scale, tuple) else self.scale,
            "offset": self.offset,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Calibration":
        """The calibration that `to_dict` was called on. Raises ValueError for anything else."""
        try:
            scale, offset = saved["scale"], saved["offset"]
            numbers = tuple(map(float, scale)) if isinstance(scale, list) else float(scale)
            return cls(numbers, float(offset))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{saved!r} is no saved calibration; it must hold a number or a list 'scale' and a number "
                "'offset'."
            ) from error


def fit_calibration(scores: ArrayLike, targets: ArrayLike, p_target: float = 0.01) -> Calibration:
    """The calibration of scores (T,), or the fusion of scores (K, T), that costs least on these trials.

    Cost is the mean over target trials of p_target * log(1 + exp(-x)) plus that over nontargets of
    (1 - p_target) * log(1 + exp(x)), x = llr + logit(p_target). `p_target` is the effective prior: it takes
    costs of errors in, and says which operating points matter most. Neither the scale and offset of scores
    nor the share of target trials changes the ratios.

    Scores that never change get the scale 0. A single score's scale is never negative: for scores that are
    higher for different speakers it is 0, and so is every ratio. In a fusion scales may be negative, since a
    score may correct another. Where a threshold separates the two kinds without error the best scale is
    infinite; a ridge of 1e-10 makes it finite, and the ratios are far too sure all the same. Raises
    ValueError for scores that are not finite and trials of one kind.
    """
    if not 0 < p_target < 1:
        raise ValueError(f"p_target is {p_target}; it must be between 0 and 1.")
    rows, is_target = _checked(scores, targets)
    # Both kinds weigh the same in the unit that the ridge refers to, however many there are of each.
    shares = np.where(is_target, 0.5 / is_target.sum(), 0.5 / (~is_target).sum())
    means = rows @ shares
    is_constant = np.ptp(rows, axis=1) == 0
    centred = np.where(is_constant[:, None], 0, rows - means[:, None])
    deviations = np.where(is_constant, 1, np.sqrt(centred**2 @ shares))
    slopes, offset = _least_cost(centred / deviations[:, None], is_target, p_target)
    if is_constant.all() or (len(slopes) == 1 and slopes[0] < 0):
        slopes, offset = np.zeros_like(slopes), 0.0
    scales = slopes / deviations
    offset -= float(scales @ means)
    return Calibration(float(scales[0]) if np.ndim(scores) == 1 else tuple(scales.tolist()), offset)


def posterior(llr: ArrayLike, p_target: float) -> Floats:
    """Probability of the same speaker (any shape) from log-likelihood ratios and the prior probability."""
    if not 0 < p_target < 1:
        raise ValueError(f"p_target is {p_target}; it must be between 0 and 1.")
    return np.asarray(expit(np.asarray(llr, dtype=np.float64) + _logit(p_target)))


def _least_cost(units: Floats, is_target: NDArray[np.bool_], p_target: float) -> tuple[Floats, float]:
    """Slopes (K,) and offset of least cost for scores (K, T) of deviation 1, by Newton's method."""
    rows = np.vstack((units, np.ones(units.shape[1])))
    signs = np.where(is_target, -1.0, 1.0)
    weights = np.where(is_target, p_target / is_target.sum(), (1 - p_target) / (~is_target).sum())
    ridge = np.append(np.full(len(units), RIDGE), 0)

    def cost_at(point: Floats) -> float:
        costs = np.logaddexp(0, signs * (point @ rows + _logit(p_target)))
        return float(weights @ costs + 0.5 * ridge @ point**2)

    point = np.zeros(len(rows))
    cost = cost_at(point)
    for _ in range(MAX_STEPS):
        wrong = expit(signs * (point @ rows + _logit(p_target)))
        gradient = rows @ (weights * signs * wrong) + ridge * point
        curvature = (rows * (weights * wrong * (1 - wrong))) @ rows.T + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        gain = float(gradient @ step)
        if gain <= 1e-13 * cost:
            point -= step  # too little for the cost to show, but twice as many digits
            break
        length = 1.0
        while (tried := cost_at(point - length * step)) > cost - 0.1 * length * gain and length > 1e-9:
            length /= 2
        point, cost = point - length * step, tried
    return point[:-1], float(point[-1])


def _checked(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores (K, T) as float64 and labels (T,), or a sentence that says why they can't be fitted."""
    rows = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    labels = np.asarray(targets)
    if rows.ndim != 2 or not len(rows) or rows.shape[1:] != labels.shape:
        raise ValueError(
            f"scores have shape {np.shape(scores)} and targets {labels.shape}; scores must be (T,), or "
            "(K, T) for a fusion, and targets (T,)."
        )
    is_target = checked_targets(labels)
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=0))
    if len(wrong):
        raise ValueError(
            f"The scores of {len(wrong)} of {len(labels)} trials are not finite, the first is number "
            f"{wrong[0]}; look at the embeddings, the model may have diverged."
        )
    return rows, is_target


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
