"""Types of settings that several methods share; no torch here (see `registry`)."""

from typing import Annotated, Literal

from pydantic import Field

from sslsv.settings import refuse_if, section

CropSeconds = Annotated[float, Field(ge=0.1, description="length of each of the two views, seconds")]
LayerDims = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], Field(description="units of the layers; empty for no such part")
]
Weight = Annotated[float, Field(ge=0, description="factor of this term in the loss")]
Temperature = Annotated[float, Field(gt=0, description="divisor of the cosines; a lower one sharpens")]
Momentum = Annotated[float, Field(ge=0, le=1, description="share that the teacher keeps in a step")]


@section
class SSPS:
    """Take positives from other utterances of a nearby cluster; the defaults are those published."""

    name: Literal["ssps"] = "ssps"
    start_epoch: Annotated[int, Field(ge=0, description="first epoch that clusters and samples")] = 100
    num_clusters: Annotated[int, Field(ge=1, description="of all training utterances")] = 25000
    num_neighbors: Annotated[
        int, Field(ge=0, description="other clusters, next to the own one, to sample from; 0 = the own one")
    ] = 1
    queue_length: Annotated[int, Field(ge=0, description="past positives that may be sampled")] = 25000
    kmeans_iterations: Annotated[int, Field(ge=1, description="in each epoch")] = 10
    reference_seconds: Annotated[float, Field(ge=0.1, description="clean crop that is clustered")] = 4.0

    def __post_init__(self) -> None:
        """Refuse more neighbours than there are."""
        refuse_if(
            self.num_neighbors >= self.num_clusters,
            f"num_neighbors is {self.num_neighbors}, but each of the {self.num_clusters} clusters "
            f"(num_clusters) has only {self.num_clusters - 1} other(s); lower the first or raise the second",
        )


Positives = Annotated[SSPS | None, Field(description="where positives come from; null = the own utterance")]
