"""Settings of the evaluation section: what chooses the best checkpoint, what is only measured."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from sslsv.runs.folder import check_place
from sslsv.setting_checks import check_test_lists
from sslsv.settings import at_least, refuse_if

# Values that may choose. Alignment may not: it is best when all embeddings are alike.
LowerIsBetter = Literal["eer", "min_dcf", "label_free/pseudo_eer"]
HigherIsBetter = Literal["label_free/lidar", "label_free/rankme"]
Criterion = Literal[LowerIsBetter, HigherIsBetter]

MAX_UTTERANCES = 4096  # 4 views of 2 s of each are 1 GB, and distances between all are 16 million


def is_better(criterion: Criterion, value: float, than: float) -> bool:
    """Whether a value of the criterion is strictly better than another."""
    return value < than if criterion in get_args(LowerIsBetter) else value > than


@dataclass(frozen=True, kw_only=True)
class LabelFreeConfig:
    """The probe: training utterances, heard without their labels at every validation."""

    utterances: int = 256  # drawn once; 0 = none. RankMe and LiDAR compare only at the same number
    views: int = 4  # of each utterance, every one in its own room, noise and level
    crop_seconds: float = 2.0  # of a view; utterances long enough for crops that do not overlap are preferred

    def __post_init__(self) -> None:
        """Refuse probes that can't be measured."""
        refuse_if(
            not (self.utterances == 0 or 2 <= self.utterances <= MAX_UTTERANCES),
            f"utterances is {self.utterances}; it must be 0 (no label-free values) or from 2 to "
            f"{MAX_UTTERANCES}, because their views stay in memory",
        )
        at_least(2, self, "views")
        refuse_if(self.crop_seconds < 0.1, f"crop_seconds is {self.crop_seconds}; it must be 0.1 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Trials that choose the checkpoint (validation) and trials that are only reported (test)."""

    every_epochs: int = 1  # epochs between two validations
    held_out_speakers: int = 0  # training speakers set aside for validation trials; 0 = none
    held_out_is_shifted: bool = False  # each validation utterance gets its own room, noise and level
    validation: str | None = None  # own list of validation trials instead, `1|0 enrol test` per line
    label_free: LabelFreeConfig = field(default_factory=LabelFreeConfig)
    criterion: Criterion | None = (
        None  # chooses the best checkpoint; null = eer if there are validation trials
    )
    test: tuple[str, ...] = ()  # lists of test trials; they never choose anything
    test_every_epochs: int = 0  # epochs between two looks at the test trials; 0 = only at the end
    batch_seconds: float = 120.0  # audio in one forward pass, seconds: memory against speed
    allow_validation_on_test: bool = False  # permit one list for both; the report then says so

    def __post_init__(self) -> None:
        """Refuse two kinds of validation, a criterion without values, and test lists that share a name."""
        check_place("validation", self.validation or "")
        for name in self.test:
            check_place("test", name)
        at_least(1, self, "every_epochs")
        at_least(0, self, "held_out_speakers", "test_every_epochs")
        refuse_if(self.batch_seconds <= 0, f"batch_seconds is {self.batch_seconds}; it must be above 0")
        refuse_if(
            self.held_out_speakers == 1,
            "held_out_speakers is 1; nontarget trials need 2 or more, and 0 means none",
        )
        refuse_if(
            self.validation is not None and self.held_out_speakers > 0,
            f"validation ({self.validation!r}) and held_out_speakers ({self.held_out_speakers}) are both "
            "given; keep one: held_out_speakers=0 or validation=null",
        )
        refuse_if(
            self.held_out_is_shifted and self.held_out_speakers == 0,
            "held_out_is_shifted is true, but held_out_speakers is 0; own lists are heard as they are, so "
            "set it to false, or hold speakers out",
        )
        is_label_free = self.criterion is not None and self.criterion.startswith("label_free/")
        refuse_if(
            is_label_free and self.label_free.utterances == 0,
            f"criterion is {self.criterion!r}, but label_free.utterances is 0, so it is not computed; "
            "give it utterances, such as 256, or choose another criterion",
        )
        refuse_if(
            self.criterion is not None and not is_label_free and not self.has_validation_trials,
            f"criterion is {self.criterion!r}, but there are no validation trials; set held_out_speakers or "
            "validation, or choose by a value without labels, such as 'label_free/pseudo_eer'",
        )
        check_test_lists(self.test)

    @property
    def has_validation_trials(self) -> bool:
        """Whether there are trials, listed or made from held-out speakers, that may choose."""
        return self.validation is not None or self.held_out_speakers > 0

    @property
    def chosen_by(self) -> Criterion | None:
        """The value that chooses the best checkpoint; None: there is no best one, only a last one."""
        return self.criterion or ("eer" if self.has_validation_trials else None)
