import math

import pytest
import torch

from sslsv import diagnostics

torch.set_num_threads(1)


def isotropic(rows: int = 3000, dims: int = 32) -> torch.Tensor:
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_feature_std__is_one_when_isotropic_and_zero_when_collapsed() -> None:
    assert diagnostics.feature_std(isotropic()).item() == pytest.approx(1, abs=0.02)
    assert diagnostics.feature_std(torch.ones(50, 8) * torch.arange(1, 51)[:, None]).item() < 1e-6
    assert diagnostics.feature_std(torch.randn(1, 8)).item() == 0


def test_mean_cosine__equals_the_loop_over_pairs() -> None:
    z = isotropic(6, 4) + 0.5
    cosines = [
        torch.nn.functional.cosine_similarity(z[i], z[j], dim=0).item()
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    assert diagnostics.mean_cosine(z).item() == pytest.approx(sum(cosines) / len(cosines), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 16])
def test_effective_rank__counts_equal_directions(rank: int) -> None:
    orthogonal = torch.linalg.qr(isotropic(64, 16))[0]
    embeddings = orthogonal[:, :rank] @ torch.linalg.qr(isotropic(16, 16))[0][:rank]
    assert diagnostics.effective_rank(embeddings).item() == pytest.approx(rank, rel=1e-4)


def test_effective_rank__is_the_exponential_of_the_entropy() -> None:
    embeddings = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert diagnostics.effective_rank(embeddings).item() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_alignment__known_angles() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert diagnostics.alignment(a, 3 * a).item() == pytest.approx(0, abs=1e-6)
    assert diagnostics.alignment(a, -a).item() == pytest.approx(4)
    assert diagnostics.alignment(a, a.flip(1)).item() == pytest.approx(2)


def test_uniformity__equals_the_loop_over_pairs_and_is_zero_when_collapsed() -> None:
    z = isotropic(7, 3)
    unit = z / z.norm(dim=1, keepdim=True)
    terms = [
        math.exp(-2 * (unit[i] - unit[j]).square().sum().item()) for i in range(7) for j in range(7) if i != j
    ]
    assert diagnostics.uniformity(z).item() == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-10)
    assert diagnostics.uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-5)


def test_collapse_report__names_values_and_bounds_the_rows() -> None:
    embeddings = isotropic(1000, 16)
    report = diagnostics.collapse_report(embeddings, 2 * embeddings, max_rows=100)
    assert set(report) == {"feature_std", "mean_cosine", "effective_rank", "uniformity", "alignment"}
    assert all(isinstance(value, float) for value in report.values())
    assert report["alignment"] == pytest.approx(0, abs=1e-12)
    assert report["effective_rank"] == pytest.approx(diagnostics.effective_rank(embeddings[::10]).item())
    assert "alignment" not in diagnostics.collapse_report(embeddings)


def test_collapse_report__one_row_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 4\).*at least 2 rows"):
        diagnostics.collapse_report(torch.randn(1, 4))
