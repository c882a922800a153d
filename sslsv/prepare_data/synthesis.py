"""Source-filter synthesis of speakers, noises, music and rooms: enough physics to learn from."""

from dataclasses import dataclass

import numpy as np
from scipy import signal

from sslsv.data.audio import SAMPLE_RATE, Waveform

# First four formants of vowels of a vocal tract of average length, Hz (after Peterson and Barney, 1952).
_VOWELS_HZ = np.array(
    [
        [270, 2290, 3010, 3600],
        [390, 1990, 2550, 3500],
        [530, 1840, 2480, 3500],
        [660, 1720, 2410, 3500],
        [730, 1090, 2440, 3400],
        [570, 840, 2410, 3300],
        [440, 1020, 2240, 3300],
        [300, 870, 2240, 3300],
        [490, 1350, 1690, 3200],
    ]
)
_BANDWIDTHS_HZ = np.array([60.0, 90.0, 140.0, 200.0])


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What stays the same in all a speaker says."""

    pitch_hz: float
    pitch_range: float  # standard deviation of the pitch within an utterance, relative
    jitter: float  # of single periods, relative
    formant_scale: float  # above 1: a shorter vocal tract
    formant_offsets: tuple[float, ...]  # relative, one for each formant
    tilt: float  # pole of the glottal low-pass, 0 bright .. 1 dark
    breathiness: float  # noise in the source, 0 .. 1


def draw_voice(rng: np.random.Generator) -> Voice:
    """Draw a speaker; pitch and vocal-tract length go together, as they do in people."""
    height = rng.uniform(0.0, 1.0)
    return Voice(
        pitch_hz=float(90.0 * 2.6 ** np.clip(height + rng.normal(0.0, 0.12), 0.0, 1.0)),
        pitch_range=float(rng.uniform(0.04, 0.15)),
        jitter=float(rng.uniform(0.003, 0.02)),
        formant_scale=float(0.82 + 0.38 * np.clip(height + rng.normal(0.0, 0.2), 0.0, 1.0)),
        formant_offsets=tuple(rng.normal(0.0, 0.08, size=4).tolist()),
        tilt=float(rng.uniform(0.6, 0.95)),
        breathiness=float(rng.uniform(0.02, 0.3)),
    )


def speak(voice: Voice, seconds: float, rng: np.random.Generator) -> Waveform:
    """Return an utterance (T,) of vowel-like segments with pauses, peak 1."""
    total = round(seconds * SAMPLE_RATE)
    source = _voice_source(voice, total, rng)
    output = np.zeros(total, dtype=np.float64)
    position = 0
    while position < total - SAMPLE_RATE // 10:
        length = int(rng.uniform(0.09, 0.28) * SAMPLE_RATE)
        end = min(total, position + length)
        formants = _VOWELS_HZ[rng.integers(len(_VOWELS_HZ))] * voice.formant_scale
        formants = formants * (1.0 + np.array(voice.formant_offsets)) * rng.normal(1.0, 0.02, size=4)
        segment = signal.sosfilt(_resonators(formants), source[position:end])
        power = np.sqrt(np.mean(segment**2)) + 1e-9
        output[position:end] += (
            rng.uniform(0.5, 1.0) * segment / power * signal.windows.tukey(end - position, 0.4)
        )
        is_pause = rng.random() < 0.12
        position += int(length * 0.85) + (int(rng.uniform(0.1, 0.35) * SAMPLE_RATE) if is_pause else 0)
    return _to_peak(output)


def draw_room(rng: np.random.Generator, decay_seconds: float) -> Waveform:
    """Return an impulse response (K,): a direct path, then noise that falls 60 dB in `decay_seconds`."""
    length = int((decay_seconds + 0.002) * SAMPLE_RATE)
    direct = int(0.002 * SAMPLE_RATE)
    times = np.arange(length - direct) / SAMPLE_RATE
    tail = rng.normal(size=len(times)) * 10.0 ** (-3.0 * times / decay_seconds)
    tail = signal.lfilter([1.0 - rng.uniform(0.1, 0.6)], [1.0, -rng.uniform(0.1, 0.6)], tail)
    room = np.zeros(length)
    room[direct:] = tail * rng.uniform(0.02, 0.08)
    room[direct] = 1.0
    return _to_peak(room)


def draw_noise(rng: np.random.Generator, seconds: float) -> Waveform:
    """Return noise (T,) of a random colour, with hum or bursts now and then, peak 1."""
    total = round(seconds * SAMPLE_RATE)
    pole = rng.uniform(-0.3, 0.98)
    noise = signal.lfilter([1.0], [1.0, -pole], rng.normal(size=total))
    noise /= np.std(noise)
    times = np.arange(total) / SAMPLE_RATE
    noise *= 1.0 + rng.uniform(0.0, 0.8) * np.sin(2 * np.pi * rng.uniform(0.2, 4.0) * times)
    if rng.random() < 0.5:
        hum_hz = rng.uniform(50.0, 400.0)
        noise += sum(rng.uniform(0.0, 1.0) * np.sin(2 * np.pi * hum_hz * n * times) for n in range(1, 5))
    return _to_peak(noise)


def draw_music(rng: np.random.Generator, seconds: float) -> Waveform:
    """Return plucked chords (T,), peak 1."""
    total = round(seconds * SAMPLE_RATE)
    output = np.zeros(total)
    beat = int(rng.uniform(0.2, 0.6) * SAMPLE_RATE)
    root_hz = rng.uniform(110.0, 330.0)
    for start in range(0, total, beat):
        times = np.arange(min(total - start, 3 * beat)) / SAMPLE_RATE
        for interval in rng.choice([0, 3, 4, 5, 7, 9, 12], size=3, replace=False):
            note_hz = root_hz * 2.0 ** (interval / 12.0)
            tone = sum(np.sin(2 * np.pi * note_hz * n * times) / n**1.5 for n in range(1, 6))
            output[start : start + len(times)] += tone * np.exp(-3.0 * times)
    return _to_peak(output)


def record(
    speech: Waveform, room: Waveform, noise_snr_db: float, level_db: float, rng: np.random.Generator
) -> Waveform:
    """Return speech (T,) as recorded in a room, with a noise floor, its peak at `level_db` of full scale."""
    wet = signal.fftconvolve(speech, room)[: len(speech)]
    floor = rng.normal(size=len(wet)) * np.sqrt(np.mean(wet**2)) * 10.0 ** (-noise_snr_db / 20.0)
    recorded: Waveform = _to_peak(wet + floor) * np.float32(10.0 ** (level_db / 20.0))
    return recorded


def _voice_source(voice: Voice, total: int, rng: np.random.Generator) -> np.ndarray:
    # The pitch wanders slowly: noise through a one-pole low-pass at about 2 Hz, one value for each 10 ms.
    blocks = total // 160 + 2
    wander = signal.lfilter([1.0], [1.0, -0.88], rng.normal(size=blocks))
    wander *= voice.pitch_range / (np.std(wander) + 1e-9)
    contour_hz = voice.pitch_hz * np.exp(np.interp(np.arange(total) / 160.0, np.arange(blocks), wander))
    phase = np.cumsum(contour_hz / SAMPLE_RATE)
    marks = np.flatnonzero(np.diff(np.floor(phase), prepend=0.0) > 0)
    marks = marks + np.rint(
        rng.normal(0.0, voice.jitter, size=len(marks)) * SAMPLE_RATE / voice.pitch_hz
    ).astype(int)
    pulses = np.zeros(total)
    pulses[np.clip(marks, 0, total - 1)] = 1.0
    pulses *= np.sqrt(SAMPLE_RATE / voice.pitch_hz)  # the same power as the breath, at any pitch
    source = pulses + voice.breathiness * rng.normal(size=total)
    return np.asarray(signal.lfilter([1.0 - voice.tilt], [1.0, -voice.tilt], source))


def _resonators(formants_hz: np.ndarray) -> np.ndarray:
    radius = np.exp(-np.pi * _BANDWIDTHS_HZ / SAMPLE_RATE)
    angle = 2 * np.pi * np.minimum(formants_hz, 7000.0) / SAMPLE_RATE
    sections = np.zeros((4, 6))
    sections[:, 3] = 1.0
    sections[:, 4] = -2.0 * radius * np.cos(angle)
    sections[:, 5] = radius**2
    sections[:, 0] = 1.0 + sections[:, 4] + sections[:, 5]  # gain 1 at 0 Hz
    return sections


def _to_peak(waveform: np.ndarray) -> Waveform:
    return np.asarray(waveform / (np.max(np.abs(waveform)) + 1e-9), dtype=np.float32)
