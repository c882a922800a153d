"""Types of settings that several methods share; no torch here (see `registry`)."""

from typing import Annotated

from pydantic import Field

CropSeconds = Annotated[float, Field(ge=0.1, description="length of each of the two views, seconds")]
LayerDims = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], Field(description="units of the layers; empty for no such part")
]
Weight = Annotated[float, Field(ge=0, description="factor of this term in the loss")]
Temperature = Annotated[float, Field(gt=0, description="divisor of the cosines; a lower one sharpens")]
Momentum = Annotated[float, Field(ge=0, le=1, description="share that the teacher keeps in a step")]

# What DINO and its kin share: views of two lengths, and a head that ends in unit vectors.
LongSeconds = Annotated[float, Field(ge=0.1, description="length of a long view, seconds")]
ShortSeconds = Annotated[float, Field(ge=0.1, description="length of a short view, seconds")]
NumShort = Annotated[int, Field(ge=1, description="short views of each utterance")]
HeadDims = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(min_length=1, description="units of the head's layers; the last one is the bottleneck"),
]
NumPrototypes = Annotated[int, Field(ge=1, description="prototypes that embeddings are compared with")]
TensorClipNorm = Annotated[float, Field(gt=0, description="largest L2 norm of each tensor's gradient")]
