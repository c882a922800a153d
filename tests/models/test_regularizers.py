import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks/ is not part of the installed package
from benchmarks import gradient_accumulation as accumulation  # noqa: E402
from benchmarks.world_size import SIZE, noise_batch, relative_error, small_settings  # noqa: E402
from sslsv import registry  # noqa: E402
from sslsv.config import Config  # noqa: E402
from sslsv.encoders.thin_resnet34 import ThinResNet34  # noqa: E402
from sslsv.models.base import REGULARIZERS, Model, Progress  # noqa: E402
from sslsv.models.fields import RegularizerConfig  # noqa: E402
from sslsv.models.regularizers import NUM_DIRECTIONS, regularizer_terms  # noqa: E402
from sslsv.models.terms import koleo, sigreg, variance_and_covariance  # noqa: E402
from sslsv.settings import ConfigError, apply_overrides  # noqa: E402
from sslsv.training.cached_gradients import ChunkReplay, backward_in_chunks  # noqa: E402
from tests.models.lightly_losses import lightly_loss  # noqa: E402

torch.set_num_threads(1)
PROGRESS = Progress(step=3, total_steps=10, epoch=0, total_epochs=1)
NAMES = ("koleo", "variance", "covariance", "sigreg")
ALL = tuple(RegularizerConfig(name=name, weight=0.1 * (i + 1)) for i, name in enumerate(NAMES))


def regularized(name: str, regularizers: tuple[RegularizerConfig, ...]) -> Model:
    torch.manual_seed(30)
    encoder = ThinResNet34(ThinResNet34.Config(width=4, embedding_dim=16))
    config = replace(small_settings(name), regularizers=regularizers)
    return registry.find("models", name)(config, encoder, SIZE).double()


def step(model: Model) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    output = model(noise_batch(model, torch.Generator().manual_seed(31)), PROGRESS)
    output.loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.loss.detach(), gradients, output.metrics


def test_regularizer_terms__are_means_over_views_of_the_terms_alone() -> None:
    views = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    terms = regularizer_terms(NAMES, views, PROGRESS.generator())
    pairs = [variance_and_covariance(rows) for rows in views]
    expected = {
        "koleo": sum(koleo(rows) for rows in views) / 3,
        "variance": sum(variance for variance, _ in pairs) / 3,
        "covariance": sum(covariance for _, covariance in pairs) / 3,
        "sigreg": sum(sigreg(rows, PROGRESS.generator(), NUM_DIRECTIONS) for rows in views) / 3,
    }
    assert tuple(terms) == NAMES
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=1e-12), name


def test_koleo__of_a_view_is_that_of_lightly() -> None:
    rows = torch.randn(9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = lightly_loss("koleo_loss", "KoLeoLoss")()(rows).item()
    assert regularizer_terms(["koleo"], rows[None], PROGRESS.generator())["koleo"].item() == pytest.approx(
        theirs, rel=1e-9
    )


@pytest.mark.parametrize(
    "name",
    ["simclr", "combiner", "byol", "moco", "cpc", "supervised", "lejepa", "simsiam", "swav", "deepcluster"],
)
def test_regularized__adds_weighted_terms_of_the_embeddings_and_their_gradient(name: str) -> None:
    plain_loss, plain, _ = step(regularized(name, ()))
    loss, gradients, metrics = step(regularized(name, ALL))
    added = sum(each.weight * metrics[f"embedding_{each.name}"].item() for each in ALL)
    assert loss.item() - plain_loss.item() == pytest.approx(added, rel=1e-9)
    # The embedding's own layer is the last one before the terms: its gradient must differ.
    assert any(relative_error({n: gradients[n]}, {n: plain[n]}) > 1e-3 for n in plain if "encoder" in n)


@pytest.mark.parametrize("name", registry.names("models"))
def test_regularized__without_any_the_output_is_left_alone(name: str) -> None:
    kind = registry.find("models", name)
    assert kind.Config().regularizers == ()
    model, output = regularized(name, ()), object()
    assert model.regularized(output, torch.zeros(2, 1, 4), PROGRESS) is output


def test_regularized__draws_are_not_those_of_the_methods_loss() -> None:
    draws = {torch.randn(2, generator=PROGRESS.generator(each)) for each in (0, REGULARIZERS)}
    assert len({tuple(each.tolist()) for each in draws}) == 2


@pytest.mark.parametrize("num_chunks", [2, 8])
def test_regularized__in_chunks_is_the_undivided_batch(num_chunks: int) -> None:
    results = []
    for chunks in (1, num_chunks):
        torch.manual_seed(1)
        config = registry.find("models", "simclr").Config(
            temperature=0.1, projector_dims=(8,), regularizers=ALL
        )
        model = registry.find("models", "simclr")(config, accumulation.PlainEncoder()).double()
        batch = {"views": accumulation.views()}
        if chunks == 1:
            output = model(batch, PROGRESS)
            output.loss.backward()
        else:
            output = backward_in_chunks(
                ChunkReplay(model),
                batch,
                PROGRESS,
                accumulation.BATCH // chunks,
                scaler=torch.amp.GradScaler("cpu", enabled=False),
                autocast=contextlib.nullcontext,
                seed_chunk=torch.manual_seed,
            )
        results.append((output.loss.item(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-9)
    assert relative_error(results[1][1], results[0][1]) < 1e-9


def test_regularizers__are_read_from_yaml_and_overridden_by_name() -> None:
    config = apply_overrides(Config(), ["model.regularizers=[{name: koleo, weight: 0.1}]"])
    assert config.model.regularizers == (RegularizerConfig(name="koleo", weight=0.1),)
    config = apply_overrides(config, ["model.regularizers.koleo.weight=0.5"])
    assert config.model.regularizers[0].weight == 0.5


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("[{name: koleo, weight: 1}, {name: koleo, weight: 2}]", "model.regularizers is .*: name each once"),
        ("[{name: kolio, weight: 1}]", r"model.regularizers\[0\].name is 'kolio'; it should be 'koleo'"),
        ("[{name: koleo, weight: -1}]", r"model.regularizers\[0\].weight is -1"),
    ],
)
def test_regularizers__mistakes_are_sentences(given: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        apply_overrides(Config(), [f"model.regularizers={given}"])
