import torch

from sslsv.ops.whitening import IterNorm


def test_iternorm__whitens_within_groups_only() -> None:
    generator = torch.Generator().manual_seed(8)
    mixing = torch.eye(8, dtype=torch.float64) + 0.3 * torch.randn(
        8, 8, generator=generator, dtype=torch.float64
    )
    x = torch.randn(4000, 8, generator=generator, dtype=torch.float64) @ mixing + 3
    y = IterNorm(8, num_groups=2, iterations=12).double()(x).detach()
    covariance = torch.cov(y.T, correction=0)
    identity = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(y.mean(0), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-10)
    for group in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(covariance[group, group], identity, rtol=0, atol=1e-3)
    assert covariance[:4, 4:].abs().max() > 0.01


def test_iternorm__matrix_is_the_inverse_square_root_of_the_covariance() -> None:
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x = x * torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)
    # Nine steps converge; after about twelve, this iteration amplifies rounding errors.
    norm = IterNorm(4, num_groups=1, iterations=9, momentum=1.0).double()
    norm(x)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0) + 1e-5 * torch.eye(4))
    expected = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    torch.testing.assert_close(norm.running_whitening[0], expected, rtol=1e-8, atol=1e-8)


def test_iternorm__running_statistics_serve_single_rows() -> None:
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(10))
    norm = IterNorm(8, num_groups=2, momentum=1.0)
    trained = norm(x)
    norm.eval()
    torch.testing.assert_close(norm(x[:1]), trained[:1], rtol=1e-4, atol=1e-5)


def test_iternorm__gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(IterNorm(4, num_groups=2).double(), (x,))
