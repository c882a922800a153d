"""Setting types shared by several methods; importing them does not import torch."""

import math
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from sslsv.settings import refuse_if, section

LayerDims = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], Field(description="units of each layer; empty = no layers")
]
Weight = Annotated[float, Field(ge=0, description="factor of this term in the loss")]
Temperature = Annotated[float, Field(gt=0, description="divisor of the cosines; lower values sharpen")]
Momentum = Annotated[float, Field(ge=0, le=1, description="share of its weights a teacher keeps per step")]
ShortSeconds = Annotated[float, Field(ge=0.1, description="length of a short view, seconds")]
BalanceIterations = Annotated[int, Field(ge=0, description="Sinkhorn iterations on targets; 0 = none")]
NumPrototypes = Annotated[int, Field(ge=2, description="number of prototypes")]


@section
class SSPS:
    """Take positives from other utterances of nearby clusters; the defaults are those published."""

    name: Literal["ssps"] = "ssps"
    start_epoch: Annotated[int, Field(ge=0, description="first epoch with sampled positives")] = 100
    num_clusters: Annotated[int, Field(ge=1, description="clusters of all utterances")] = 25000
    sampling: Annotated[
        Literal["clusters", "nearest"],
        Field(description="utterances in the queue to sample: of a cluster, or most similar to the anchor"),
    ] = "clusters"
    num_neighbors: Annotated[
        int, Field(ge=0, description="nearest clusters (0 = the anchor's own) or utterances to sample from")
    ] = 1
    queue_length: Annotated[int, Field(ge=1, description="past positives kept for sampling")] = 25000
    kmeans_iterations: Annotated[int, Field(ge=1, description="k-means iterations per epoch")] = 10
    reference_seconds: Annotated[float, Field(ge=0.1, description="length of clean crops, seconds")] = 4.0

    def __post_init__(self) -> None:
        refuse_if(
            self.sampling == "nearest" and self.num_neighbors == 0,
            'num_neighbors is 0 and sampling "nearest"; give the number of utterances to sample from',
        )
        refuse_if(
            self.sampling == "clusters" and self.num_neighbors >= self.num_clusters,
            f"num_neighbors is {self.num_neighbors}, but each of the {self.num_clusters} clusters "
            f"(num_clusters) has only {self.num_clusters - 1} other(s); lower the first or raise the second",
        )


Positives = Annotated[SSPS | None, Field(description="source of positives; null = the same utterance")]


@section
class MarginSchedule:
    """Set how a margin rises from none to its full value."""

    name: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    rise_epochs: Annotated[tuple[float, float], Field(description="start and end of the rise")] = (0.0, 50.0)

    def __post_init__(self) -> None:
        start, end = self.rise_epochs
        refuse_if(
            not 0 <= start < end,
            f"rise_epochs is {[start, end]}; give a start of 0 or more and a larger end",
        )
        refuse_if(
            self.name == "constant" and (start, end) != (0.0, 50.0),
            f"rise_epochs is {[start, end]}, but nothing rises: name is constant; set it to linear, cosine "
            "or exponential, or leave rise_epochs out",
        )


@section
class MarginConfig:
    """Choose the margin by which positives must beat negatives in a contrastive loss (see `margins`)."""

    name: Literal["none", "am", "aam", "sphereface", "curricularface", "magface", "adaface"] = "none"
    value: Annotated[float, Field(ge=0, description="am: cosine; sphereface: factor; others: radians")] = 0.1
    schedule: MarginSchedule = field(default_factory=MarginSchedule)
    lowest_value: Annotated[float, Field(ge=0, description="magface: margin at lowest norm, radians")] = 0.01
    # Norms depend on the encoder; those of ECAPA-TDNN without a projector lie far outside 10 to 110.
    norm_range: Annotated[
        tuple[float, float] | None,
        Field(description="magface: norms of lowest and full margin; null = a batch's 5 and 95 % quantiles"),
    ] = (10.0, 110.0)
    norm_weight: Annotated[float, Field(ge=0, description="magface: factor of the norm regulariser")] = 0.0
    concentration: Annotated[float, Field(gt=0, description="adaface: h, factor of norms' z-score")] = 0.333

    def __post_init__(self) -> None:
        refuse_if(
            self.name == "sphereface" and self.value < 1,
            f"value is {self.value}; sphereface multiplies the angle by it: give 1 (none) or more, such as 2",
        )
        is_angle = self.name in ("aam", "curricularface", "magface", "adaface")
        refuse_if(
            is_angle and self.value >= math.pi / 2,
            f"value is {self.value}; it is an angle for {self.name}: give less than 1.57 radians",
        )
        refuse_if(
            self.name == "magface" and self.lowest_value > self.value,
            f"lowest_value is {self.lowest_value}, above value ({self.value}); lower it, or raise value",
        )
        refuse_if(
            self.norm_range is not None and not 0 < self.norm_range[0] < self.norm_range[1],
            f"norm_range is {self.norm_range}; give a number above 0 and then a larger one, or null",
        )


@section
class GateConfig:
    """Exclude utterances with a high loss, because their label is likely wrong (see `gates`)."""

    name: Annotated[
        Literal["none", "fixed", "mixture"],
        Field(description="fixed: by `threshold`; mixture: by two Gaussians fitted to the log losses"),
    ] = "none"
    start_epoch: Annotated[int, Field(ge=0, description="first epoch that excludes utterances")] = 4
    threshold: Annotated[float, Field(gt=0, description="fixed: highest cross entropy to keep")] = 3.0
    # Early in training, the loss is low for few, easy utterances; training on these alone causes collapse.
    min_kept: Annotated[float, Field(ge=0, le=1, description="mixture: minimum share to keep")] = 0.0

    def __post_init__(self) -> None:
        refuse_if(
            self.name == "mixture" and self.start_epoch < 1,
            "start_epoch is 0, but mixture uses the losses of the previous epoch; give 1 or more",
        )


@section
class CorrectionConfig:
    """Relabel utterances that the gate excludes with the class predicted for their clean crop."""

    start_epoch: Annotated[int, Field(ge=0, description="first epoch that corrects labels")] = 8
    threshold: Annotated[float, Field(gt=0, le=1, description="probability to exceed; 1 = never")] = 0.5
    temperature: Annotated[float, Field(gt=0, description="divisor of cosines; lower is more certain")] = 0.1


@section
class RegularizerConfig:
    """Choose a term on the embeddings of the global batch that is added to the method's own loss."""

    name: Literal["koleo", "variance", "covariance", "sigreg"]
    weight: Weight = 0.1


def _refuse_duplicates(regularizers: tuple[RegularizerConfig, ...]) -> tuple[RegularizerConfig, ...]:
    names = [each.name for each in regularizers]
    refuse_if(len(set(names)) < len(names), f"it is {names}: name each once, with the sum of its weights")
    return regularizers


@section
class MethodConfig:
    """Hold the settings that all methods have; each method's `Config` derives from this class."""

    name: str
    regularizers: Annotated[
        tuple[RegularizerConfig, ...],
        AfterValidator(_refuse_duplicates),
        Field(description="extra loss terms on the embeddings, each with a name and a weight"),
    ] = ()
    groups_utterances: ClassVar[bool] = False  # True: clusters utterances, so several `speeds` are refused


@section
class TwoViewConfig(MethodConfig):
    """Hold the settings of methods that pass two views of one length through an encoder and a projector."""

    crop_seconds: Annotated[float, Field(ge=0.1, description="length of each of two views, seconds")] = 2.0
    projector_dims: LayerDims = (2048, 2048, 512)


@section
class PredictorConfig(TwoViewConfig):
    """Hold the settings of methods that predict the projection of one view from that of the other."""

    predictor_dims: LayerDims = (4096, 512)

    def __post_init__(self) -> None:
        refuse_if(
            not self.predictor_dims or self.projector_dims[-1:] != self.predictor_dims[-1:],
            f"predictor_dims is {self.predictor_dims} and projector_dims {self.projector_dims}; both must "
            "end with the same number of units",
        )


@section
class PrototypeConfig(MethodConfig):
    """Hold the settings of methods whose student predicts a teacher's prototypes (DINO, SDPN)."""

    long_seconds: Annotated[float, Field(ge=0.1, description="length of a long view, seconds")] = 4.0
    short_seconds: ShortSeconds = 2.0
    num_short: Annotated[int, Field(ge=1, description="short views of each utterance")] = 4
    head_dims: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(min_length=1, description="units of the head's layers; the last one is the bottleneck"),
    ] = (2048, 2048, 256)
    num_prototypes: NumPrototypes = 65536
    student_temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.04
    teacher_momentum: Momentum = 0.996  # initial value; it rises to 1 along half a cosine
    tensor_clip_norm: Annotated[float, Field(gt=0, description="maximum gradient norm of each tensor")] = 3.0

    def __post_init__(self) -> None:
        student = self.student_temperature
        for name in ("teacher_temperature", "first_teacher_temperature"):
            teacher = getattr(self, name, 0.0)
            refuse_if(
                teacher > student,
                f"{name} is {teacher}, above student_temperature ({student}), so the teacher would be the "
                "less certain of the two; lower it",
            )
