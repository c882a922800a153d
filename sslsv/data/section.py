"""The `data` section of the settings; it imports neither torch nor Ray, nor any library of audio."""

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import PlainValidator

from sslsv.registry import settings_class
from sslsv.runs.storage import check_place
from sslsv.settings import build, refuse_if

# Below data.root: noises in one folder for each kind, impulse responses at any depth.
NOISE_FOLDER, RIR_FOLDER = BANK_FOLDERS = ("musan_split", "simulated_rirs")

# A speed is an exact ratio of two rates; its filter grows with the denominator.
MAX_SPEED_DENOMINATOR = 20

_AUGMENTATIONS = "data.augmentations"


def augmentation_settings(name: str, **values: Any) -> Any:
    """Return the settings of the augmentation in `data/augmentations/NAME.py`; ValueError for a wrong one."""
    return build(settings_class(_AUGMENTATIONS, name), values)


def _read_augmentation(raw: Any) -> Any:
    if dataclasses.is_dataclass(raw):
        return raw
    refuse_if(
        not isinstance(raw, dict) or not isinstance(raw.get("name"), str),
        f"the augmentation {raw!r} is no section with a name, such as {{name: noise, snr_db: [0, 15]}}",
    )
    return augmentation_settings(**raw)


AugmentationSettings = Annotated[Any, PlainValidator(_read_augmentation)]  # the `Config` that its name says


def check_augmentation(settings: Any, *ranges: str) -> None:
    """Refuse a probability that is none, and ranges, given by name, whose ends are in the wrong order."""
    probability = settings.probability
    refuse_if(not 0.0 <= probability <= 1.0, f"probability is {probability}; it must be between 0 and 1")
    for name in ranges:
        low, high = getattr(settings, name)
        refuse_if(low > high, f"{name} is ({low}, {high}): the first must not exceed the second")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the recordings are and how samples are drawn from them."""

    # A folder, or the URI of a packed one, that the paths in all lists are relative to.
    root: str = "data"
    # Lists of `speaker path` lines, relative to root or absolute.
    train_lists: tuple[str, ...] = ("voxceleb2_train_list",)
    positives: Literal["same_utterance", "same_speaker"] = "same_utterance"  # same_speaker uses the labels
    max_utterances_per_speaker: int | None = None  # same_speaker: at most so many of each; null = all
    crop_overlap: Literal["any", "disjoint"] = "any"  # may the two crops of one utterance overlap?
    # Each sample draws one for all its views, as a resampled voice is another voice; n/d with d up to 20.
    speeds: tuple[float, ...] = (1.0,)
    max_bad_share: float = 0.01  # unreadable share of the samples so far above which the run stops, 0 to 1
    # Each view passes through these in turn, each with its own random numbers. Empty: crops stay as they are.
    augment: tuple[AugmentationSettings, ...] = field(
        default_factory=lambda: (augmentation_settings("reverb"), augmentation_settings("noise"))
    )
    bank_cache_mb: int = 256  # kept by each data process, MB: spectra of rirs, noises decoded or fetched

    def __post_init__(self) -> None:
        """Refuse empty lists and values out of range."""
        check_place("root", self.root)
        for name in self.train_lists:
            check_place("train_lists", name)
        refuse_if(
            not self.train_lists, "train_lists is empty; name at least one list of `speaker path` lines"
        )
        most = self.max_utterances_per_speaker
        refuse_if(
            most is not None and (most < 2 or self.positives != "same_speaker"),
            f"max_utterances_per_speaker is {most} with positives {self.positives!r}; it needs "
            "'same_speaker' and at least 2 (a pair), or null for no limit",
        )
        refuse_if(
            self.crop_overlap == "disjoint" and self.positives == "same_speaker",
            "crop_overlap is 'disjoint' with positives 'same_speaker', whose crops come from two utterances; "
            "leave it at 'any'",
        )
        self._check_speeds()
        refuse_if(
            not 0 <= self.max_bad_share <= 1, f"max_bad_share is {self.max_bad_share}; it must be from 0 to 1"
        )
        refuse_if(self.bank_cache_mb < 0, f"bank_cache_mb is {self.bank_cache_mb}; it must be 0 or more")
        names = [each.name for each in self.augment]
        twice = sorted({name for name in names if names.count(name) > 1})
        refuse_if(
            bool(twice),
            f"augment names {' and '.join(map(repr, twice))} twice, and both would draw the same numbers; "
            "leave one out, or make them choices of a one_of",
        )

    def _check_speeds(self) -> None:
        given = list(self.speeds)
        refuse_if(
            not given or not all(0.5 <= speed <= 2 for speed in given),
            f"speeds is {given}; give one or more factors from 0.5 to 2, such as [0.9, 1.0, 1.1]",
        )
        for speed in given:
            near = Fraction(speed).limit_denominator(MAX_SPEED_DENOMINATOR)
            refuse_if(
                float(near) != speed,
                f"speeds is {given}; {speed} is no fraction with a denominator of at most "
                f"{MAX_SPEED_DENOMINATOR}, the nearest one is {float(near)!r} ({near})",
            )
