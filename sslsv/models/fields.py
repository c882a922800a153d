"""Types of settings that several methods share; no torch here (see `registry`)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sslsv.settings import refuse_if, section

CropSeconds = Annotated[float, Field(ge=0.1, description="length of each of the two views, seconds")]
LayerDims = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], Field(description="units of the layers; empty for no such part")
]
Weight = Annotated[float, Field(ge=0, description="factor of this term in the loss")]
Temperature = Annotated[float, Field(gt=0, description="divisor of the cosines; a lower one sharpens")]
Momentum = Annotated[float, Field(ge=0, le=1, description="share that the teacher keeps in a step")]


@section
class RegularizerConfig:
    """Choose a term on the embeddings of the global batch, which any loss may have beside its own."""

    name: Literal["koleo", "variance", "covariance", "sigreg"]
    weight: Weight = 0.1


def _named_once(regularizers: tuple[RegularizerConfig, ...]) -> tuple[RegularizerConfig, ...]:
    names = [each.name for each in regularizers]
    refuse_if(len(set(names)) < len(names), f"it is {names}: name each once, with the sum of its weights")
    return regularizers


Regularizers = Annotated[
    tuple[RegularizerConfig, ...],
    AfterValidator(_named_once),
    Field(description="terms on the embeddings, each a name and a weight"),
]
