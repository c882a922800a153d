"""Waveforms as 16-bit samples."""

import numpy as np
import numpy.typing as npt

FULL_SCALE = 32768.0  # of int16 samples; 1 in waveforms

Samples = npt.NDArray[np.int16]
Waveform = npt.NDArray[np.float32]


def to_int16(waveform: Waveform, full_scale: float = 1.0) -> Samples:
    """Round a waveform to int16; one that exceeds full scale is made quieter, not clipped."""
    samples = np.empty(len(waveform), dtype=np.int16)
    round_to_int16(np.array(waveform), samples, full_scale)
    return samples


def round_to_int16(waveform: Waveform, samples: Samples, full_scale: float = 1.0) -> None:
    """`to_int16` into `samples`, for which the waveform is used up."""
    highest, lowest = float(waveform.max(initial=0.0)), float(waveform.min(initial=0.0))
    unit = FULL_SCALE / full_scale
    is_too_loud = highest * unit >= FULL_SCALE - 0.5 or lowest * unit < -FULL_SCALE - 0.5
    scale = (FULL_SCALE - 1) / max(highest, -lowest) if is_too_loud else unit
    if scale != 1.0:
        waveform *= np.float32(scale)
    samples[:] = np.rint(waveform, out=waveform)
