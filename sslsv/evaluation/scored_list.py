"""A trial list with all that was computed for it: what an evaluation writes down and a report shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sslsv.data.lists import Trials


@dataclass(frozen=True, kw_only=True)
class ScoredList:
    """Scored trials; those with a missing or unreadable recording are left out beforehand."""

    name: str  # of the list file
    trials: Trials  # every recording in it has an embedding
    speakers: npt.NDArray[np.int64]  # (R,), who speaks in recording i
    embeddings: npt.NDArray[np.float32]  # (R, D), not normalised
    scores: dict[
        str, npt.NDArray[np.float64]
    ]  # scoring name: (J,), higher = more alike; the first is principal
    summary: dict[str, Any]  # what evaluation.json says of the list
