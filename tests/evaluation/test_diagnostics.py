import itertools
import math

import numpy as np
import pytest
import torch

from sslsv.evaluation import diagnostics
from sslsv.evaluation.metrics import ErrorCurve
from sslsv.models.terms import feature_std


def isotropic(rows: int = 3000, dims: int = 32) -> torch.Tensor:
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_feature_std__is_one_when_isotropic_and_zero_when_collapsed() -> None:
    assert feature_std(isotropic()).item() == pytest.approx(1, abs=0.02)
    assert feature_std(torch.ones(50, 8) * torch.arange(1, 51)[:, None]).item() < 1e-6
    assert feature_std(torch.randn(1, 8)).item() == 0


def test_effective_rank__is_the_exponential_of_the_entropy() -> None:
    embeddings = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert diagnostics.effective_rank(embeddings).item() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_alignment__known_angles() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    found = [diagnostics.alignment(a, b).item() for b in (3 * a, -a, a.flip(1))]
    assert found == pytest.approx([0, 4, 2], abs=1e-6)


def test_uniformity__equals_the_loop_over_pairs_and_is_zero_when_collapsed() -> None:
    z = isotropic(7, 3)
    unit = z / z.norm(dim=1, keepdim=True)
    terms = [math.exp(-2 * (a - b).square().sum().item()) for a, b in itertools.permutations(unit, 2)]
    assert diagnostics.uniformity(z).item() == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-10)
    assert diagnostics.uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-5)


def some_views(utterances: int, views: int, dims: int, noise: float) -> torch.Tensor:
    """Return views: isotropic voices, and isotropic noise around each."""
    noises = isotropic(utterances * views, dims).view(utterances, views, dims)
    voices = torch.randn(utterances, 1, dims, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return voices + noise * noises


def slow_lidar(views: np.ndarray, delta: float, eps: float) -> float:
    """Compute LiDAR by the paper's sums, with the symmetric inverse root."""
    count, num_views, dims = views.shape
    mean = views.mean((0, 1))
    between, within = np.zeros((dims, dims)), np.zeros((dims, dims))
    for utterance in views:
        own = utterance.mean(0)
        between += np.outer(own - mean, own - mean) / count
        for view in utterance:
            within += np.outer(view - own, view - own) / (count * num_views)
    within += delta * (np.trace(between) + np.trace(within)) / dims * np.eye(dims)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ between @ root)
    shares = eigenvalues / eigenvalues.sum() + eps
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize(("utterances", "views", "dims"), [(40, 3, 8), (9, 2, 5), (2, 7, 3)])
def test_lidar__equals_the_sums_of_the_paper(utterances: int, views: int, dims: int) -> None:
    skewed = some_views(utterances, views, dims, 0.5) * torch.arange(1, dims + 1) + 3
    expected = slow_lidar(skewed.numpy(), 1e-2, 1e-7)
    assert diagnostics.lidar(skewed, delta=1e-2).item() == pytest.approx(expected, rel=1e-8)


def test_lidar__is_one_when_collapsed() -> None:
    one_direction = some_views(4000, 2, 8, 0.3)[:, :, :1] * torch.arange(1.0, 9.0, dtype=torch.float64)
    assert diagnostics.lidar(one_direction).item() == pytest.approx(1, rel=1e-3)
    constant = torch.full((30, 3, 8), 0.1, dtype=torch.float64)
    assert diagnostics.lidar(constant).item() == pytest.approx(1, rel=1e-3)


def test_pseudo_trial_eer__equals_the_loop_over_trials() -> None:
    views = some_views(12, 3, 4, 0.8)
    scores, targets = [], []
    for i, j in itertools.product(range(12), range(12)):
        for a, b in itertools.combinations(range(3), 2) if i == j else [(0, 1)]:
            scores.append(torch.nn.functional.cosine_similarity(views[i, a], views[j, b], dim=0).item())
            targets.append(i == j)
    assert diagnostics.pseudo_trial_eer(views) == pytest.approx(ErrorCurve.of(scores, targets).eer())


def test_label_free_report__is_of_all_views_and_all_pairs_in_any_precision() -> None:
    views = some_views(20, 3, 8, 0.5)
    report = diagnostics.label_free_report(views.float())
    assert report.keys() == {"rankme", "lidar", "alignment", "uniformity", "feature_std", "pseudo_eer"}
    pairs = [diagnostics.alignment(views[:, a], views[:, b]).item() for a, b in [(0, 1), (0, 2), (1, 2)]]
    assert report["alignment"] == pytest.approx(sum(pairs) / 3, rel=1e-6)
    assert report["rankme"] == pytest.approx(diagnostics.effective_rank(views.flatten(0, 1)).item(), rel=1e-6)


def test_collapse_report__names_values_and_bounds_the_rows() -> None:
    embeddings = isotropic(1000, 16)
    report = diagnostics.collapse_report(embeddings, max_rows=100)
    assert set(report) == {"feature_std", "effective_rank", "uniformity"}
    assert report["effective_rank"] == pytest.approx(diagnostics.effective_rank(embeddings[::10]).item())
