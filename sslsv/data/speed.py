"""Speed perturbation: play a recording faster or slower, which changes tempo and pitch together."""

from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sslsv.data.audio import Recording, Samples, low_pass

# Matrices this small are multiplied in one thread; several threads would change the last bits.
_ROWS = 32
_MIN_COLUMNS = 40


class SpedUp(Recording):
    """Read an open recording at `speed` times its speed (above 1: faster); `close` closes the recording.

    Polyphase resampling by a fraction of small integers, like `scipy.signal.resample_poly` with the filter
    `low_pass`, but ten times as fast by matrix products. The result is rounded to 16 bits.
    """

    def __init__(self, recording: Recording, speed: Fraction) -> None:
        self._recording = recording
        self._up, self._down = speed.denominator, speed.numerator
        self.path = recording.path
        self.num_samples = -(-recording.num_samples * self._up // self._down)

    def close(self) -> None:
        self._recording.close()

    def _read(self, start: int, count: int) -> Samples:
        phases, reach = _phases(self._up, self._down)
        width, num_columns = phases.shape
        step = num_columns // self._up * self._down  # input samples for `num_columns` output samples
        group = start // self._up
        offset = start - group * self._up
        num_blocks = -(-(offset + count) // (_ROWS * num_columns))
        first = group * self._down - reach
        window = np.zeros(num_blocks * _ROWS * step + width - step, dtype=np.float32)
        begin, end = max(first, 0), min(first + len(window), self._recording.num_samples)
        window[begin - first : end - first] = self._recording.read_int16(begin, end - begin)
        size = window.itemsize  # A `sliding_window_view` would take a quarter longer.
        rows = np.lib.stride_tricks.as_strided(
            window, (num_blocks, _ROWS, width), (_ROWS * step * size, step * size, size), writeable=False
        )
        out = (np.ascontiguousarray(rows) @ phases).reshape(-1)[offset : offset + count]
        samples: Samples = np.clip(np.rint(out), -32768, 32767).astype(np.int16)
        return samples


@lru_cache(maxsize=64)
def _phases(up: int, down: int) -> tuple[npt.NDArray[np.float32], int]:
    # Returns a matrix that maps a row of input samples to a group of output samples, and `reach`: the row
    # begins `reach` input samples before the group.
    taps = low_pass(up, down) * np.float32(up)
    half = len(taps) // 2
    num_groups = -(-_MIN_COLUMNS // up)
    reach = -(-half // up)
    column = np.arange(num_groups * up)
    row = np.arange(num_groups * down + 2 * reach)[:, None]
    tap = column * down - (row - reach) * up + half
    is_inside = (tap >= 0) & (tap < len(taps))
    return np.where(is_inside, taps[np.clip(tap, 0, len(taps) - 1)], np.float32(0)), reach
