"""Plain WAV files: 16 bits, 16 kHz, mono; crops are read by their place in the file, without libsndfile."""

import mmap
import os
import struct

import numpy as np
import numpy.typing as npt

_HEADER_BYTES = 4096  # the samples begin within them, or the file is read by libsndfile
_PCM = 1
_LARGEST = 0x7FFF_FF00  # bytes of samples; streaming writers leave larger numbers, or 0, for "unknown"


class PlainWav:
    """An open plain WAV file; `open` tells whether a file is one."""

    def __init__(self, descriptor: int, first_byte: int, num_samples: int) -> None:
        self.num_samples = num_samples
        self._descriptor, self._first_byte = descriptor, first_byte

    @classmethod
    def open(cls, path: str) -> "PlainWav | None":
        """Open a file, or return None if it is no plain WAV file (or can't be opened: others say why)."""
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:
            return None
        try:
            place = _find_samples(os.pread(descriptor, _HEADER_BYTES, 0))
            if place is not None:
                first_byte, num_bytes = place
                if os.fstat(descriptor).st_size >= first_byte + num_bytes >= first_byte + 2:
                    return cls(descriptor, first_byte, num_bytes // 2)
        except OSError:  # a folder, a failing disk
            pass
        os.close(descriptor)
        return None

    def read(self, start: int, count: int) -> npt.NDArray[np.int16]:
        """Return samples start .. start + count, which must be there; raises OSError."""
        data = os.pread(self._descriptor, 2 * count, self._first_byte + 2 * start)
        if len(data) < 2 * count:
            raise OSError("the file became shorter while it was read")
        return np.frombuffer(data, dtype="<i2").astype(np.int16, copy=False)

    def mapped(self) -> npt.NDArray[np.int16]:
        """Return all samples without reading them; they stay valid when the file is closed."""
        memory = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        samples = np.frombuffer(memory, dtype="<i2", count=self.num_samples, offset=self._first_byte)
        return samples.astype(np.int16, copy=False)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def missing_bytes(path: str) -> int:
    """How many bytes a WAV file lacks of what its header promises: libsndfile takes one cut off for shorter.

    0 for any other file, and for headers that promise nothing: some writers count their own eight bytes too,
    and those that write into a pipe promise 2 GB or more.
    """
    try:
        with open(path, "rb") as file:
            kind, length = struct.unpack("<4sI", file.read(8))
            missing = int(length) + 8 - os.fstat(file.fileno()).st_size
    except (OSError, struct.error):
        return 0
    return missing if kind == b"RIFF" and missing > 16 and length < 2**31 - 2**16 else 0


def _find_samples(header: bytes) -> tuple[int, int] | None:
    # First byte and number of bytes of the samples; None for any other kind of file.
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        return None
    place, is_plain = 12, False
    while place + 8 <= len(header):
        name, size = struct.unpack_from("<4sI", header, place)
        place += 8
        if name == b"data":
            return (place, size) if is_plain and 0 < size <= _LARGEST else None
        if name == b"fmt ":
            if size < 16 or place + 16 > len(header):
                return None
            tag, channels, rate, _, block_bytes, bits = struct.unpack_from("<HHIIHH", header, place)
            is_plain = (tag, channels, rate, block_bytes, bits) == (_PCM, 1, 16_000, 2, 16)
        place += size + size % 2
    return None
