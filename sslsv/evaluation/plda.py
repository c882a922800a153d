"""Score trials with PLDA (probabilistic linear discriminant analysis), which is fitted with speaker labels.

An embedding is modelled as the speaker's voice plus a deviation of the recording, both Gaussian, with
covariances B and W (the two-covariance model, Bruemmer and de Villiers, Odyssey 2010). Embeddings are first
scaled to unit length, projected by LDA, and scaled to equal length again, which makes them more Gaussian
(Garcia-Romero and Espy-Wilson, Interspeech 2011). Scores are log-likelihood ratios.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh
from scipy.sparse import coo_array

from sslsv.evaluation.scoring import Floats, Indices, unit_rows
from sslsv.settings import refuse_if

ITERATIONS = 20  # EM iterations; few are needed for tens of utterances per speaker
TILE_ROWS = 10_000  # trials scored at a time


@dataclass(frozen=True)
class Plda:
    """Score pairs of embeddings by the likelihood of one speaker relative to that of two speakers."""

    mean: Floats  # (D,) mean of the unit-length training embeddings
    lda: Floats  # (D, P) projection to a space in which the covariance within speakers is I
    basis: Floats  # (P, P) from LDA space to coordinates in which W is I and B is diagonal
    centre: Floats  # (P,) mean of the voices in the coordinates of `basis`
    between: Floats  # (P,) diagonal of B

    def normalised(self, embeddings: ArrayLike) -> Floats:
        """Return embeddings (N, P) projected by LDA and scaled to length sqrt(P)."""
        rows = unit_rows(embeddings).astype(np.float64)
        return _of_length_sqrt_dim((rows - self.mean) @ self.lda)

    def scores(self, embeddings: ArrayLike, enrol: ArrayLike, test: ArrayLike) -> Floats:
        """Return natural log-likelihood ratios (T,) of rows `enrol[t]` and `test[t]` of embeddings (N, D)."""
        rows = self.normalised(embeddings) @ self.basis - self.centre
        first, second, b = np.asarray(enrol), np.asarray(test), self.between
        # In each coordinate both embeddings have variance 1 + b; for one speaker their covariance is b.
        constant = np.sum(np.log1p(b) - 0.5 * np.log1p(2 * b))
        terms = -0.5 * np.square(rows) @ (b**2 / ((1 + 2 * b) * (1 + b)))
        weighted, scores = rows * (b / (1 + 2 * b)), np.empty(len(first))
        for start in range(0, len(first), TILE_ROWS):
            part = slice(start, start + TILE_ROWS)
            i, j = first[part], second[part]
            scores[part] = constant + terms[i] + terms[j] + np.einsum("tp,tp->t", weighted[i], rows[j])
        return scores


def check_speakers(speakers: ArrayLike, dim: int, lda_dim: int | None = None) -> None:
    """Raise ValueError if PLDA can't be fitted to embeddings of `dim` dimensions of `speakers` (N,)."""
    num_utterances, num_speakers = np.size(speakers), len(np.unique(speakers))
    refuse_if(
        num_speakers < 2 or num_speakers == num_utterances,
        f"PLDA learns from speakers with several recordings, and the {num_utterances} training utterances "
        f"are of {num_speakers} speaker(s): the lists do not name speakers. Score without --scoring plda",
    )
    refuse_if(
        num_utterances - num_speakers < dim,
        f"PLDA of {dim}-dimensional embeddings needs at least {dim} more training utterances than speakers, "
        f"and there are {num_utterances} of {num_speakers} speakers. Score without --scoring plda",
    )
    max_dim = min(dim, num_speakers - 1)
    refuse_if(
        lda_dim is not None and not 1 <= lda_dim <= max_dim,
        f"--lda-dim is {lda_dim}; it must be from 1 to {max_dim}: at most the embedding dimension ({dim}), "
        f"and less than the number of training speakers ({num_speakers})",
    )


def fit_plda(embeddings: ArrayLike, speakers: ArrayLike, lda_dim: int | None = None) -> Plda:
    """Fit PLDA to training embeddings (N, D) of `speakers` (N,) by expectation-maximisation.

    `lda_dim` None keeps min(D, number of speakers - 1) dimensions. Raises ValueError as `check_speakers`
    does, and for embeddings that are not finite or do not differ between recordings.
    """
    rows = unit_rows(embeddings).astype(np.float64)
    check_speakers(speakers, rows.shape[1], lda_dim)
    labels = np.unique(np.asarray(speakers), return_inverse=True)[1]
    mean = rows.mean(axis=0)
    rows = rows - mean
    counts, means, scatter = _statistics(rows, labels)
    within, between = scatter / (len(rows) - len(counts)), (means * counts[:, None]).T @ means / len(rows)
    try:
        lda = eigh(between, within)[1][:, ::-1][:, : lda_dim or min(rows.shape[1], len(counts) - 1)]
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "the embeddings of a speaker do not differ in every dimension, so PLDA can't be fitted; the "
            "model may have collapsed. Score without --scoring plda"
        ) from error
    rows = _of_length_sqrt_dim(rows @ lda)
    return Plda(mean, lda, *_two_covariances(*_statistics(rows, labels)))


def _two_covariances(counts: Floats, means: Floats, scatter: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the maximum-likelihood basis, centre and diagonal of B; see `Plda`.

    Every iteration uses coordinates in which W is I and B is diagonal, so that no matrix is inverted.
    """
    num_speakers, dim = means.shape
    num_rows, n = counts.sum(), counts[:, None]
    basis, centre = np.eye(dim), means.mean(axis=0)
    means = means - centre
    between, within = means.T @ means / num_speakers, scatter / (num_rows - num_speakers)
    for _ in range(ITERATIONS):
        b, axes = _diagonal(between, within)
        basis, centre, means, scatter = basis @ axes, centre @ axes, means @ axes, axes.T @ scatter @ axes
        variances = b / (1 + n * b)  # posterior variances of each speaker's voice
        voices = n * variances * means
        shift, residuals = voices.mean(axis=0), means - voices
        between = (voices - shift).T @ (voices - shift) / num_speakers + np.diag(variances.mean(axis=0))
        within = (scatter + (n * residuals).T @ residuals + np.diag((n * variances).sum(axis=0))) / num_rows
        centre, means = centre + shift, means - shift
    b, axes = _diagonal(between, within)
    return basis @ axes, centre @ axes, b


def _diagonal(between: Floats, within: Floats) -> tuple[Floats, Floats]:
    variances, axes = eigh(between, within)
    return np.maximum(variances, 0), axes


def _statistics(rows: Floats, labels: Indices) -> tuple[Floats, Floats, Floats]:
    # Returns each speaker's count (S,) and mean (S, P), and the scatter (P, P) of rows around the means.
    counts = np.bincount(labels).astype(np.float64)
    means = coo_array((np.ones(len(rows)), (labels, np.arange(len(rows))))) @ rows / counts[:, None]
    deviations = rows - means[labels]
    return counts, means, deviations.T @ deviations


def _of_length_sqrt_dim(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.sqrt(rows.shape[1]) * rows / np.maximum(lengths, 1e-12), dtype=np.float64)
