import numpy as np
import pytest
from scipy.stats import multivariate_normal

from sslsv.evaluation import plda as plda_module
from sslsv.evaluation.plda import Plda, check_speakers, fit_plda

DIM = 5


def draw_embeddings(num_speakers=300, dim=DIM, seed=0):
    """Return embeddings (N, D) drawn from the model, with 1 to 8 recordings per speaker, and the speakers."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), rng.integers(1, 9, size=num_speakers))
    root_b, root_w = rng.normal(size=(2, dim, dim)) / np.sqrt(dim)
    voices = rng.normal(size=(num_speakers, dim)) @ root_b
    rows = 6.0 + voices[speakers] + 0.7 * rng.normal(size=(len(speakers), dim)) @ root_w
    return rows, speakers


def covariances(plda: Plda) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return B, W and the mean of the normalised embeddings."""
    back = np.linalg.inv(plda.basis)
    return back.T @ np.diag(plda.between) @ back, back.T @ back, plda.centre @ back


@pytest.mark.parametrize("lda_dim", [None, 2])
def test_scores__are_ratios_of_gaussian_densities(lda_dim):
    rows, speakers = draw_embeddings()
    plda = fit_plda(rows, speakers, lda_dim)
    between, within, mean = covariances(plda)
    dim = lda_dim or DIM
    assert plda.lda.shape == (DIM, dim)
    total = between + within
    same_speaker = np.block([[total, between], [between, total]])
    apart = multivariate_normal(mean, total)
    found = plda.normalised(rows)
    enrol, test = np.arange(40), np.arange(40)[::-1] + 5
    expected = [
        multivariate_normal(np.tile(mean, 2), same_speaker).logpdf(np.concatenate([found[i], found[j]]))
        - apart.logpdf(found[i])
        - apart.logpdf(found[j])
        for i, j in zip(enrol, test, strict=True)
    ]
    assert plda.scores(rows, enrol, test) == pytest.approx(expected, abs=1e-6)
    order = np.random.default_rng(0).permutation(len(rows))
    again = fit_plda(rows[order], speakers[order], lda_dim).scores(rows, test, enrol)
    assert again == pytest.approx(expected, abs=1e-4)


def test_two_covariances__finds_the_model_that_data_were_drawn_from():
    rng = np.random.default_rng(1)
    b, w = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[0.5, -0.2], [-0.2, 0.4]])
    speakers = np.repeat(np.arange(4000), 3)  # few recordings, so B is not the covariance of the means
    rows = rng.multivariate_normal([3.0, -1.0], b, 4000)[speakers]
    rows = rows + rng.multivariate_normal([0.0, 0.0], w, len(speakers))
    basis, centre, between = plda_module._two_covariances(*plda_module._statistics(rows, speakers))
    back = np.linalg.inv(basis)
    assert back.T @ np.diag(between) @ back == pytest.approx(b, abs=0.1)
    assert back.T @ back == pytest.approx(w, abs=0.02)
    assert centre @ back == pytest.approx([3.0, -1.0], abs=0.1)


@pytest.mark.parametrize(
    ("speakers", "lda_dim", "sentence"),
    [
        (np.arange(40), None, r"40 training utterances are of 40 speaker\(s\): the lists do not name"),
        (np.repeat(np.arange(4), 2), None, "needs at least 5 more training utterances than speakers.*8 of 4"),
        (np.repeat(np.arange(4), 10), 4, "--lda-dim is 4; it must be from 1 to 3"),
    ],
)
def test_check_speakers__says_what_plda_lacks(speakers, lda_dim, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_speakers(speakers, DIM, lda_dim)


def test_fit_plda__collapsed_embeddings_are_told():
    with pytest.raises(ValueError, match="collapsed"):
        fit_plda(np.ones((40, DIM)), np.repeat(np.arange(8), 5))
