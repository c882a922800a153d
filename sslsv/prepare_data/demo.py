"""Write a synthetic corpus in VoxCeleb's layout, to try everything within minutes and without a download.

Its speakers differ in pitch, vocal tract, glottal tilt and breath, its recordings in room, noise and level.
The corpus shows that a method learns; error rates on it say nothing about real speech.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy import signal

from sslsv.data.audio import SAMPLE_RATE, Waveform, to_int16
from sslsv.prepare_data.disk import write_audio, write_whole

_LAYOUT_VERSION = 1  # increase it when the same options give other files
_VOICE, _NOISE, _MUSIC, _ROOM, _TRIALS = range(5)  # streams of random numbers
# First four formants of vowels of a vocal tract of average length, Hz (after Peterson and Barney, 1952).
_VOWELS_HZ = np.array(
    [[270, 2290, 3010, 3600], [390, 1990, 2550, 3500], [530, 1840, 2480, 3500], [660, 1720, 2410, 3500]]
    + [[730, 1090, 2440, 3400], [570, 840, 2410, 3300], [440, 1020, 2240, 3300], [300, 870, 2240, 3300]]
    + [[490, 1350, 1690, 3200]]
)
_BANDWIDTHS_HZ = np.array([60.0, 90.0, 140.0, 200.0])


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Hold the size of a demo corpus; the same options give the same files, bit for bit."""

    speakers: int = 40  # in voxceleb2_train_list; voxceleb1_train_list has a quarter as many other speakers
    eval_speakers: int = 10  # in the trials, never in the train lists
    recordings: int = 3  # per speaker, each with its own room, noise floor and level
    utterances: int = 2  # per recording
    bank_files: int = 8  # per kind of noise, and per size of room
    seed: int = 1717


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare_data demo`."""
    parser.add_argument("folder", type=Path, help="folder of the corpus; becomes data.root")
    for option in fields(DemoOptions):
        name = f"--{option.name.replace('_', '-')}"
        parser.add_argument(name, type=int, default=option.default, help="(%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write the corpus, unless the same corpus exists already; return 0."""
    chosen = DemoOptions(**{option.name: getattr(options, option.name) for option in fields(DemoOptions)})
    is_new = make_demo_corpus(options.folder, chosen)
    print(f"{options.folder}: the demo corpus {'is written' if is_new else 'exists already'}.")
    return 0


def make_demo_corpus(root: Path, options: DemoOptions) -> bool:
    """Write a demo corpus; return False if it exists already, with the same options.

    Raises FileExistsError for a folder that holds anything else, ValueError for numbers out of range.
    """
    if options.speakers >= 1080:  # a quarter as many ids of voxceleb1 must fit below id10270
        raise ValueError(f"--speakers is {options.speakers}, but there are ids for 1079 only: give fewer.")
    if min(options.speakers, options.eval_speakers, options.recordings) < 2 or options.utterances < 1:
        raise ValueError("--speakers, --eval-speakers and --recordings must be 2 or more, --utterances 1.")
    marker, facts = root / "demo_corpus.json", {"layout_version": _LAYOUT_VERSION, **asdict(options)}
    existing = json.loads(marker.read_text()) if marker.is_file() else {}
    if existing == {**facts, "is_complete": True}:
        return False
    if existing != {**facts, "is_complete": False} and root.exists() and any(root.iterdir()):
        message = "is not empty and is not a demo corpus with these options: choose another, or delete it."
        raise FileExistsError(f"{root} {message}")
    # The marker shows if a run was interrupted; its corpus is then written again.
    write_whole(marker, json.dumps({**facts, "is_complete": False}).encode())
    voices = iter(range(10**6))
    lists = {"voxceleb2": (options.speakers, 12), "voxceleb1": (max(2, options.speakers // 4), 10001)}
    for dataset, (count, first_id) in lists.items():
        paths = _write_speakers(root / dataset, count, first_id, voices, options)
        lines = [f"{path.split('/')[0]} {dataset}/{path}\n" for path in paths]
        (root / f"{dataset}_train_list").write_text("".join(lines), encoding="utf-8")
    paths = _write_speakers(root / "voxceleb1", options.eval_speakers, 10270, voices, options)
    (root / "trials").write_text("".join(_trial_lines(paths, options.seed)), encoding="utf-8")
    _write_bank(root, voices, options)
    write_whole(marker, json.dumps({**facts, "is_complete": True}).encode())
    return True


def _write_speakers(
    folder: Path, count: int, first_id: int, voices: Iterator[int], options: DemoOptions
) -> list[str]:
    paths = []
    for speaker in range(first_id, first_id + count):
        number = next(voices)
        rng = np.random.default_rng([options.seed, _VOICE, number])
        voice = Voice(rng)
        for recording in range(options.recordings):
            room = draw_room(rng, decay_seconds=rng.uniform(0.1, 0.5))
            noise_snr_db, level_db = rng.uniform(20.0, 35.0), rng.uniform(-20.0, -3.0)
            for utterance in range(1, options.utterances + 1):
                speech = speak(voice, rng.uniform(2.5, 5.0), rng)
                paths.append(f"id{speaker:05d}/video{number:04d}_{recording}/{utterance:05d}.wav")
                spoken = record(speech, room, noise_snr_db, level_db, rng)
                write_audio(folder / paths[-1], to_int16(spoken))
    return paths


def _trial_lines(paths: list[str], seed: int) -> list[str]:
    rng = np.random.default_rng([seed, _TRIALS])
    first, second = np.triu_indices(len(paths), k=1)
    speakers = np.array([path.split("/")[0] for path in paths])
    videos = np.array([path.split("/")[1] for path in paths])
    is_target = speakers[first] == speakers[second]
    # Two utterances of one recording share its room and noise, so the trial would be too easy.
    targets = np.flatnonzero(is_target & (videos[first] != videos[second]))
    nontargets = rng.permutation(np.flatnonzero(~is_target))[: len(targets)]
    chosen = rng.permutation(np.concatenate([targets, nontargets]))
    return [f"{int(is_target[i])} {paths[first[i]]} {paths[second[i]]}\n" for i in chosen]


def _write_bank(root: Path, voices: Iterator[int], options: DemoOptions) -> None:
    for number in range(options.bank_files):
        keys = ((_NOISE, number), (_MUSIC, number), (_VOICE, next(voices)))
        noise, music, voice = (np.random.default_rng([options.seed, *key]) for key in keys)
        sounds = {
            "noise": draw_noise(noise, 6.0),
            "music": draw_music(music, 6.0),
            "speech": speak(Voice(voice), 6.0, voice),
        }
        for kind, sound in sounds.items():
            write_audio(root / "musan_split" / kind / f"demo/{number:04d}.wav", to_int16(0.5 * sound))
    sizes = {"smallroom": (0.1, 0.3), "mediumroom": (0.3, 0.6), "largeroom": (0.6, 1.0)}
    for size_number, (size, decays) in enumerate(sizes.items()):
        for number in range(options.bank_files):
            rng = np.random.default_rng([options.seed, _ROOM, size_number, number])
            room = draw_room(rng, decay_seconds=rng.uniform(*decays))
            name = f"Room{number + 1:03d}"
            write_audio(root / "simulated_rirs" / size / name / f"{name}-00001.wav", to_int16(0.9 * room))


class Voice:
    """Draw a speaker at random; pitch and vocal-tract length are correlated, as in people."""

    def __init__(self, rng: np.random.Generator) -> None:
        height = rng.uniform(0.0, 1.0)
        self.pitch_hz = 90.0 * 2.6 ** np.clip(height + rng.normal(0.0, 0.12), 0.0, 1.0)
        self.pitch_range = rng.uniform(0.04, 0.15)  # standard deviation within an utterance, relative
        self.jitter = rng.uniform(0.003, 0.02)  # standard deviation of single periods, relative
        # Above 1: a shorter vocal tract.
        self.formant_scale = 0.82 + 0.38 * np.clip(height + rng.normal(0.0, 0.2), 0.0, 1.0)
        self.formant_offsets = rng.normal(0.0, 0.08, size=4)  # relative
        self.tilt = rng.uniform(0.6, 0.95)  # pole of the glottal low-pass, 0 bright .. 1 dark
        self.breathiness = rng.uniform(0.02, 0.3)  # noise in the source, 0 .. 1


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
        formants = formants * (1.0 + voice.formant_offsets) * rng.normal(1.0, 0.02, size=4)
        segment = signal.sosfilt(_resonators(formants), source[position:end])
        power = np.sqrt(np.mean(segment**2)) + 1e-9
        envelope = signal.windows.tukey(end - position, 0.4)
        output[position:end] += rng.uniform(0.5, 1.0) * segment / power * envelope
        is_pause = rng.random() < 0.12
        position += int(length * 0.85) + (int(rng.uniform(0.1, 0.35) * SAMPLE_RATE) if is_pause else 0)
    return _to_peak(output)


def _voice_source(voice: Voice, total: int, rng: np.random.Generator) -> np.ndarray:
    # The pitch drifts slowly: noise through a one-pole low-pass at about 2 Hz, one value per 10 ms.
    blocks = total // 160 + 2
    drift = signal.lfilter([1.0], [1.0, -0.88], rng.normal(size=blocks))
    drift *= voice.pitch_range / (np.std(drift) + 1e-9)
    contour_hz = voice.pitch_hz * np.exp(np.interp(np.arange(total) / 160.0, np.arange(blocks), drift))
    phase = np.cumsum(contour_hz / SAMPLE_RATE)
    marks = np.flatnonzero(np.diff(np.floor(phase), prepend=0.0) > 0)
    shifts = rng.normal(0.0, voice.jitter, size=len(marks)) * SAMPLE_RATE / voice.pitch_hz
    marks = marks + np.rint(shifts).astype(int)
    pulses = np.zeros(total)
    pulses[np.clip(marks, 0, total - 1)] = 1.0
    pulses *= np.sqrt(SAMPLE_RATE / voice.pitch_hz)  # power 1 at any pitch, like the breath noise
    source = pulses + voice.breathiness * rng.normal(size=total)
    return np.asarray(signal.lfilter([1.0 - voice.tilt], [1.0, -voice.tilt], source))


def _resonators(formants_hz: np.ndarray) -> np.ndarray:
    radius = np.exp(-np.pi * _BANDWIDTHS_HZ / SAMPLE_RATE)
    angle = 2 * np.pi * np.minimum(formants_hz, 7000.0) / SAMPLE_RATE
    a1, a2, zeros = -2.0 * radius * np.cos(angle), radius**2, np.zeros(4)
    gains = 1.0 + a1 + a2  # 1 at 0 Hz
    return np.stack([gains, zeros, zeros, zeros + 1.0, a1, a2], axis=1)


def draw_room(rng: np.random.Generator, decay_seconds: float) -> Waveform:
    """Return an impulse response (K,): a direct path, then noise that falls 60 dB in `decay_seconds`."""
    length, direct = int((decay_seconds + 0.002) * SAMPLE_RATE), int(0.002 * SAMPLE_RATE)
    times = np.arange(length - direct) / SAMPLE_RATE
    tail = rng.normal(size=len(times)) * 10.0 ** (-3.0 * times / decay_seconds)
    tail = signal.lfilter([1.0 - rng.uniform(0.1, 0.6)], [1.0, -rng.uniform(0.1, 0.6)], tail)
    room = np.zeros(length)
    room[direct:] = tail * rng.uniform(0.02, 0.08)
    room[direct] = 1.0
    return _to_peak(room)


def draw_noise(rng: np.random.Generator, seconds: float) -> Waveform:
    """Return noise (T,) of a random colour and fluctuating level, in half of the cases with hum; peak 1."""
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
    """Return speech (T,) recorded in a room, with a noise floor and its peak at `level_db` of full scale."""
    wet = signal.fftconvolve(speech, room)[: len(speech)]
    floor = rng.normal(size=len(wet)) * np.sqrt(np.mean(wet**2)) * 10.0 ** (-noise_snr_db / 20.0)
    recorded: Waveform = _to_peak(wet + floor) * np.float32(10.0 ** (level_db / 20.0))
    return recorded


def _to_peak(waveform: np.ndarray) -> Waveform:
    return np.asarray(waveform / (np.max(np.abs(waveform)) + 1e-9), dtype=np.float32)
