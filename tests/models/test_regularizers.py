from dataclasses import replace

import pytest
import torch

from benchmarks.world_size import SIZE, noise_batch, relative_error, small_settings
from sslsv import registry
from sslsv.config import Config
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.models.base import Model
from sslsv.models.fields import RegularizerConfig
from sslsv.settings import ConfigError, apply_overrides
from tests.models.networks import PROGRESS

NAMES = ("koleo", "variance", "covariance", "sigreg")
ALL = tuple(RegularizerConfig(name=name, weight=0.1 * (i + 1)) for i, name in enumerate(NAMES))


def regularized(name: str, regularizers: tuple[RegularizerConfig, ...]) -> Model:
    torch.manual_seed(30)
    encoder = ThinResNet34(ThinResNet34.Config(width=2, embedding_dim=16))
    config = replace(small_settings(name), regularizers=regularizers)
    return registry.find("models", name)(config, encoder, SIZE).double()


def step(model: Model) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    output = model(noise_batch(model, torch.Generator().manual_seed(31)), PROGRESS)
    output.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.loss.detach(), gradients, output.metrics


@pytest.mark.parametrize("name", registry.names("models"))
def test_regularized__adds_weighted_terms_of_the_embeddings_and_their_gradient(name: str) -> None:
    plain_loss, plain, _ = step(regularized(name, ()))
    loss, gradients, metrics = step(regularized(name, ALL))
    added = sum(each.weight * metrics[f"embedding_{each.name}"].item() for each in ALL)
    assert loss.item() - plain_loss.item() == pytest.approx(added, rel=1e-9)
    # The embedding layer is the last one before the terms, so its gradient must differ.
    assert any(relative_error({n: gradients[n]}, {n: plain[n]}) > 1e-3 for n in plain if "encoder" in n)


def test_regularizers__named_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="model.regularizers is .*: name each once"):
        apply_overrides(Config(), ["model.regularizers=[{name: koleo}, {name: koleo, weight: 2}]"])
