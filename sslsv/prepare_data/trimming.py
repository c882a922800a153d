"""Silence cut out of recordings by their energy: no model, nothing to download."""

import numpy as np

from sslsv.data.audio import SAMPLE_RATE, Waveform

RANGE_DB = 40.0  # below the loud parts of the recording: what is quieter is no speech
FLOOR_DB = -60.0  # of full scale: what is quieter never is, however quiet the recording
KEPT_SECONDS = 0.2  # on both sides of speech: soft beginnings and ends of words

_FRAME = SAMPLE_RATE // 50  # 20 ms


def trim_silence(waveform: Waveform) -> Waveform:
    """Return a waveform (T,) without the pauses in it, (at most T,); empty if it is silent throughout.

    A frame of 20 ms is speech if its level is less than `RANGE_DB` below the 95th percentile of all frames';
    `KEPT_SECONDS` around it stay. The cuts lie in silence, so what they join is not smoothed.
    """
    if not len(waveform):
        return waveform
    starts = np.arange(0, len(waveform), _FRAME)
    lengths = np.diff(starts, append=len(waveform))
    means = np.add.reduceat(waveform, starts, dtype=np.float64) / lengths
    # Of the level a constant offset is no part.
    powers = np.add.reduceat(np.square(waveform, dtype=np.float64), starts) / lengths - means**2
    threshold = max(np.quantile(powers, 0.95) * 10.0 ** (-RANGE_DB / 10), 10.0 ** (FLOOR_DB / 10))
    is_speech = powers > threshold
    reach = round(KEPT_SECONDS * SAMPLE_RATE / _FRAME)
    is_kept = np.convolve(is_speech, np.ones(2 * reach + 1), mode="full")[reach:-reach] > 0
    return waveform[np.repeat(is_kept, lengths)]
