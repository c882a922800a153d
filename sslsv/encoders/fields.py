"""Setting types shared by several encoders; importing them does not import torch."""

from typing import Annotated, Literal

from pydantic import Field

from sslsv.settings import Location, refuse_if, section

EmbeddingDim = Annotated[int, Field(ge=1, description="size of an embedding")]
Kind = Annotated[
    Literal["log_mel", "kaldi", "speechbrain"],
    Field(
        description="log_mel: frames centred on samples 0, 160 ..., as in torchaudio's MelSpectrogram; "
        "kaldi: complete frames only, minus their mean, as in Kaldi's fbank; speechbrain: as in its Fbank"
    ),
]
NumMels = Annotated[int, Field(ge=1, description="mel bands of the spectrogram")]
LowHz = Annotated[float, Field(ge=0, description="lower end of the lowest band, Hz")]
PreEmphasis = Annotated[
    float, Field(ge=0, lt=1, description="share of the previous sample to subtract; 0.97 is usual")
]
FullScale = Annotated[float, Field(gt=0, description="value of the loudest sample: 1, or 32768 (16 bits)")]
Normalization = Annotated[
    Literal["instance", "mean", "none"],
    Field(description="per band and utterance: mean 0 and variance 1, mean 0 only, or unchanged"),
]


@section
class Features:
    """Hold the settings of spectrograms; the defaults are those of Fast ResNet-34's published recipes."""

    kind: Kind = "log_mel"
    num_mels: NumMels = 40
    low_hz: LowHz = 0.0
    high_hz: Annotated[float, Field(gt=0, le=8000, description="upper end of the top band, Hz")] = 8000.0
    window: Annotated[Literal["hamming", "hann", "povey"], Field(description="window of 25 ms")] = "hamming"
    pre_emphasis: PreEmphasis = 0.0
    full_scale: FullScale = 1.0
    normalization: Normalization = "instance"

    def __post_init__(self) -> None:
        refuse_if(
            self.low_hz >= self.high_hz,
            f"low_hz is {self.low_hz:g} and high_hz {self.high_hz:g}: the bands lie between them, so give a "
            "lower low_hz",
        )


@section
class WideFeatures(Features):
    """Hold the settings of spectrograms with 80 bands, as used with ECAPA-TDNN for DINO and SDPN."""

    num_mels: NumMels = 80


@section
class KaldiFeatures(WideFeatures):
    """Hold the settings of Kaldi's filterbank energies, as in wespeaker (3D-Speaker: window povey)."""

    kind: Kind = "kaldi"
    low_hz: LowHz = 20.0
    pre_emphasis: PreEmphasis = 0.97
    full_scale: FullScale = 32768.0
    normalization: Normalization = "mean"


@section
class EncoderConfig:
    """Hold the settings that every encoder has."""

    init: Annotated[Location | None, Field(description="run, checkpoint or export to start from")] = None
    frozen: Annotated[bool, Field(description="fixed weights and statistics, no dropout")] = False
    rate_scale: Annotated[float, Field(gt=0, description="factor of the learning rate for the encoder")] = 1.0

    def source(self) -> str | None:
        """Return the run or file of initial weights, or None; raises ValueError for frozen random weights."""
        refuse_if(
            self.frozen and self.init is None,
            "encoder.frozen is true, but random weights would stay as they are, because encoder.init is not "
            "given; give it, or set encoder.frozen to false",
        )
        return self.init
