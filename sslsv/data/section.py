"""The `data` section of the settings. This file imports neither torch, Ray nor any audio library."""

import os
from collections.abc import Sequence
from dataclasses import field, replace
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from sslsv.registry import settings_class
from sslsv.settings import Location, build, choice, refuse_if, section

# Folders below data.root: noises in a folder per kind, room impulse responses (rirs) at any depth.
NOISE_FOLDER, RIR_FOLDER = BANK_FOLDERS = ("musan_split", "simulated_rirs")
NoiseKind = Literal["noise", "music", "speech"]

# The folders to which the archives unpack; they are read if the folders above are missing.
ORIGINAL_FOLDERS = {NOISE_FOLDER: "musan", RIR_FOLDER: "RIRS_NOISES/simulated_rirs"}
NO_SPEECH = frozenset({*BANK_FOLDERS, "musan", "RIRS_NOISES"})  # folders that hold no training speech

# A speed is an exact ratio of two rates; a larger denominator needs a longer filter.
MAX_SPEED_DENOMINATOR = 20


def _rising(ends: Any) -> Any:
    refuse_if(ends[0] > ends[1], f"it is {ends}: the first must not exceed the second")
    return ends


def _small_fraction(speed: float) -> float:
    nearest = float(Fraction(speed).limit_denominator(MAX_SPEED_DENOMINATOR))
    limit = f"a denominator of at most {MAX_SPEED_DENOMINATOR}"
    refuse_if(nearest != speed, f"it is {speed}: not a fraction with {limit}; the nearest is {nearest!r}")
    return speed


Probability = Annotated[float, Field(ge=0, le=1, description="share of the views that are changed")]
Share = Annotated[float, Field(ge=0, le=1)]
Lists = tuple[Location, ...]
Rising = AfterValidator(_rising)
Range = Annotated[tuple[float, float], Rising]  # of values that are drawn uniformly
Speed = Annotated[float, Field(ge=0.5, le=2), AfterValidator(_small_fraction)]
Augmentations = tuple[Annotated[Any, choice("data.augmentations")], ...]


def augmentation_settings(name: str, **values: Any) -> Any:
    """Return the settings of `data/augmentations/NAME.py`; raises ConfigError for invalid values."""
    return build(settings_class("data.augmentations", name), values)


def room_and_noise() -> tuple[Any, ...]:
    """Return the default settings of reverb and noise, the usual augmentations."""
    return augmentation_settings("reverb"), augmentation_settings("noise")


def channel_of(augment: Sequence[Any]) -> tuple[Any, ...]:
    """Return augmentations that give every recording a channel, using the rooms and noises of training.

    If training has noises of the kind "noise", only these are added, at an SNR of 5 to 15 dB, because babble
    would add other voices. The level changes by -15 to 0 dB.
    """
    flat = [item for each in augment for item in (each.choices if each.name == "one_of" else [each])]
    by_name = {each.name: replace(each, probability=1.0) for each in reversed(flat)}
    if (noise := by_name.get("noise")) and "noise" in noise.kinds:
        by_name["noise"] = replace(noise, kinds=("noise",), snr_db=(5.0, 15.0))
    by_name["gain"] = augmentation_settings("gain", level_db=[-15.0, 0.0])
    return tuple(by_name[name] for name in ("reverb", "noise", "gain") if name in by_name)


@section
class DataConfig:
    """Define where the recordings are and how samples are drawn from them."""

    root: Annotated[
        Location,
        AfterValidator(os.path.expanduser),
        Field(description="folder to which lists and their paths are relative, or URI of a packed folder"),
    ] = "data"
    train_lists: Annotated[
        Lists, Field(min_length=1, description="relative to root; `speaker path` lines, or see docs/data.md")
    ] = ("voxceleb2_train_list",)
    # If train_lists hold clusters instead of speakers, evaluation.held_out_speakers come from these lists.
    held_out_lists: Annotated[Lists, Field(description="lists of held-out speakers; empty: train_lists")] = ()
    # With the same seed, a smaller fraction is a subset of a larger one; held-out speakers stay the same.
    fraction: Annotated[float, Field(gt=0, le=1, description="share of the training utterances used")] = 1.0
    fraction_of: Annotated[
        Literal["utterances", "each_speaker"],
        Field(description="fraction of all utterances, or of each speaker's (at least one)"),
    ] = "utterances"
    # Each sample draws one speed for all its views, because another speed makes another voice.
    speeds: Annotated[tuple[Speed, ...], Field(min_length=1, description="n/d with d up to 20")] = (1.0,)
    speeds_are_classes: Annotated[bool, Field(description="each speed of a speaker is its own class")] = False
    # Other samples have the first speed. At 0 all do, but all classes remain for large-margin fine-tuning.
    speed_probability: Annotated[Share, Field(description="share of samples that draw a speed")] = 1.0
    max_bad_share: Annotated[Share, Field(description="largest tolerated share of bad utterances")] = 0.01
    # Each augmentation has its own random numbers. With an empty list, crops stay unchanged.
    augment: Annotated[Augmentations, Field(description="augmentations of each view, in order")] = field(
        default_factory=room_and_noise
    )
    bank_cache_mb: Annotated[int, Field(ge=0, description="cache of noises and rirs, per data process")] = 256

    def __post_init__(self) -> None:
        refuse_if(
            self.speeds_are_classes and not 1 < len(self.speeds) == len(set(self.speeds)),
            f"speeds_are_classes is true and speeds {list(self.speeds)}; give two or more different speeds, "
            "such as [1.0, 0.9, 1.1]",
        )
        names = [each.name for each in self.augment]
        refuse_if(
            len(set(names)) < len(names),
            f"augment is {names}; two of one name would draw the same numbers: leave one out, or make them "
            "choices of a one_of",
        )

    @property
    def classes_per_speaker(self) -> int:
        """Return the number of classes that the labels have for one speaker."""
        return len(self.speeds) if self.speeds_are_classes else 1
