import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from sslsv.data.audio import low_pass, open_audio
from sslsv.data.speed import SpedUp

SPEEDS = [Fraction(9, 10), Fraction(11, 10), Fraction(19, 20), Fraction(1, 2), Fraction(2), Fraction(13, 7)]


@pytest.fixture(scope="module")
def noise_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speed") / "a.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 20000), 16000)
    return path


@pytest.mark.parametrize("speed", SPEEDS)
def test_read__equals_polyphase_resampling(noise_file: Path, speed: Fraction) -> None:
    up, down = speed.denominator, speed.numerator
    with SpedUp(open_audio(noise_file), speed) as recording:
        found = recording.read_int16(0, recording.num_samples)
    with open_audio(noise_file) as file:
        samples = file.read_int16(0, file.num_samples).astype(np.float64)
    expected = resample_poly(samples, up, down, window=low_pass(up, down).astype(np.float64))
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 0.51  # rounding to 16 bits and float32


@pytest.mark.parametrize("speed", SPEEDS)
def test_read__crop_is_the_crop_of_the_whole(noise_file: Path, speed: Fraction) -> None:
    with SpedUp(open_audio(noise_file), speed) as recording:
        whole = recording.read_int16(0, recording.num_samples).astype(int)
        for start, count in [(0, 1), (1, 160), (5003, 4001), (recording.num_samples - 777, 777)]:
            crop = recording.read_int16(start, count)
            assert np.abs(crop - whole[start : start + count]).max() <= 1  # float32 sums have another order


@pytest.mark.slow
def test_read__number_of_threads_changes_no_bit(noise_file: Path) -> None:
    code = (
        "import hashlib, sys\n"
        "from fractions import Fraction\n"
        "from sslsv.data.audio import open_audio\n"
        "from sslsv.data.speed import SpedUp, _phases\n"
        "from sslsv.data.augmentations.base import mean_square\n"
        "for speed in (Fraction(9, 10), Fraction(13, 7)):\n"
        "    up, down = speed.denominator, speed.numerator\n"
        "    with SpedUp(open_audio(sys.argv[1]), speed) as recording:\n"
        "        samples = recording.read_int16(0, recording.num_samples)\n"
        "    print(hashlib.sha256(samples.tobytes()).hexdigest(), mean_square(samples.astype('float32')))\n"
    )
    found = set()
    for threads in ("1", "2", "5"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", code, str(noise_file)]
        found.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(found) == 1
