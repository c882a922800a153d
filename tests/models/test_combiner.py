from typing import Any

import pytest
import torch

from sslsv.models.barlow_twins import BarlowTwins
from sslsv.models.combiner import Combiner
from sslsv.models.simclr import SimCLR
from sslsv.models.two_view import TwoViewModel
from sslsv.models.vicreg import VICReg
from tests.models.networks import PROGRESS, batch, small

Term = Combiner.Config.Term
# A term, and the method that has the same loss with these settings.
SAME: dict[str, tuple[Term, type[TwoViewModel], dict[str, Any]]] = {
    "nt_xent": (Term(name="nt_xent", temperature=0.1), SimCLR, {"temperature": 0.1}),
    "info_nce": (Term(name="info_nce", temperature=0.1), SimCLR, {"temperature": 0.1, "form": "asymmetric"}),
    "vicreg": (Term(name="vicreg", covariance_weight=0.7), VICReg, {"covariance_weight": 0.7}),
    "barlow_twins": (Term(name="barlow_twins", scale=0.5), BarlowTwins, {"scale": 0.5}),
}


def loss_and_gradients(model: TwoViewModel) -> list[torch.Tensor]:
    loss = model(batch(model), PROGRESS).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("place", ["embedding_terms", "projection_terms"])
@pytest.mark.parametrize("name", SAME)
def test_combiner__one_term_of_weight_1_is_that_method_bit_for_bit(name: str, place: str) -> None:
    term, kind, settings = SAME[name]
    dims = (12, 6) if place == "projection_terms" else ()
    terms = {"embedding_terms": (), "projection_terms": ()} | {place: (term,)}
    found = loss_and_gradients(small(Combiner, projector_dims=dims, **terms))
    expected = loss_and_gradients(small(kind, projector_dims=dims, **settings))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_combiner__the_loss_is_the_weighted_sum_of_its_terms() -> None:
    model = small(
        Combiner,
        projector_dims=(12, 6),
        embedding_terms=(Term(name="info_nce", weight=2.0), Term(name="barlow_twins", weight=0.5)),
        projection_terms=(Term(name="vicreg", weight=3.0),),
    )
    output = model(batch(model), PROGRESS)
    terms = {name: value.item() for name, value in output.metrics.items()}
    expected = 2 * terms["embedding_info_nce"] + 0.5 * terms["embedding_barlow_twins"]
    assert output.loss.item() == pytest.approx(expected + 3 * terms["projection_vicreg"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"projection_terms": ()}, "nothing would train the projector"),
        ({"projection_terms": (), "embedding_terms": ()}, "give one of them a loss"),
        ({"embedding_terms": (Term(name="vicreg"), Term(name="vicreg"))}, "each loss may occur only once"),
    ],
)
def test_combiner_config__impossible_sums_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Combiner.Config(**settings)
