"""Rules of the data section."""

from collections.abc import Sequence
from fractions import Fraction

from sslsv.settings import refuse_if

# A speed is an exact resampling ratio (data/views.py); what it costs grows with the denominator.
MAX_SPEED_DENOMINATOR = 20


def check_speeds(speeds: Sequence[float]) -> None:
    """Refuse speeds out of range, and those that resampling would have to round."""
    refuse_if(
        not speeds or not all(0.5 <= speed <= 2 for speed in speeds),
        f"speeds is {list(speeds)}; give one or more factors from 0.5 to 2, such as [0.9, 1.0, 1.1]",
    )
    for speed in speeds:
        near = Fraction(speed).limit_denominator(MAX_SPEED_DENOMINATOR)
        refuse_if(
            float(near) != speed,
            f"speeds is {list(speeds)}; {speed} is no fraction with a denominator of at most "
            f"{MAX_SPEED_DENOMINATOR}, the nearest one is {float(near)!r} ({near})",
        )


def check_positives(positives: str, crop_overlap: str, most_per_speaker: int | None) -> None:
    """Refuse what pairs of one utterance or of one speaker can't have."""
    refuse_if(
        most_per_speaker is not None and (most_per_speaker < 2 or positives != "same_speaker"),
        f"max_utterances_per_speaker is {most_per_speaker} with positives {positives!r}; it needs "
        "'same_speaker' and at least 2 (a pair), or null for no limit",
    )
    refuse_if(
        crop_overlap == "disjoint" and positives == "same_speaker",
        "crop_overlap is 'disjoint' with positives 'same_speaker', whose crops come from two utterances; "
        "leave it at 'any'",
    )
