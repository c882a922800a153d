"""A synthetic corpus in VoxCeleb's layout: everything can be tried within minutes, without a download.

Its speakers differ in pitch, vocal tract, glottal tilt and breath, its recordings in room, noise and level.
It shows that a method learns; figures on it say nothing about real speech.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from sslsv.data.audio import SAMPLE_RATE, Waveform, to_int16
from sslsv.prepare_data import synthesis

_MARKER = "demo_corpus.json"
_LAYOUT_VERSION = 1  # raise it when the same options give other files
_VOICE, _NOISE, _MUSIC, _ROOM, _TRIALS = range(5)  # what a random stream is for


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The size of a demo corpus; the same options give the same files, bit for bit."""

    speakers: int = 40  # in voxceleb2_train_list; a quarter as many others in voxceleb1_train_list
    eval_speakers: int = 10  # in the trials, never in the train lists
    recordings: int = 3  # of each speaker, each with its own room, noise floor and level
    utterances: int = 2  # of each recording
    bank_files: int = 8  # of each kind of noise, and of each size of room
    seed: int = 1717

    def __post_init__(self) -> None:
        if self.speakers < 2 or self.eval_speakers < 2:
            raise ValueError(
                f"A demo corpus needs 2 speakers or more on each side: got speakers={self.speakers}, "
                f"eval_speakers={self.eval_speakers}."
            )
        if self.recordings < 2 or self.utterances < 1 or self.bank_files < 1:
            raise ValueError(
                f"A demo corpus needs at least 2 recordings of each speaker (a target trial is between two), "
                f"1 utterance and 1 bank file: got {self.recordings}, {self.utterances}, {self.bank_files}."
            )


def make_demo_corpus(folder: str | os.PathLike[str], options: DemoOptions) -> bool:
    """Write a demo corpus; returns False when it is there already, with the same options.

    Raises FileExistsError for a folder that holds something else, or a demo corpus with other options.
    """
    root = Path(folder)
    wanted = {"layout_version": _LAYOUT_VERSION, **asdict(options)}
    if root.exists() and any(root.iterdir()):
        found = _read_marker(root)
        if found == {**wanted, "is_complete": True}:
            return False
        if found != {**wanted, "is_complete": False}:
            raise FileExistsError(
                f"{root} is not empty and is no demo corpus with these options: choose another, or delete it."
            )
    root.mkdir(parents=True, exist_ok=True)
    # Written first: an interrupted run is known as such, and is written again.
    _write_marker(root, wanted, is_complete=False)
    first_voice = 0
    lists = {"voxceleb2": (options.speakers, 12), "voxceleb1": (max(2, options.speakers // 4), 10001)}
    for dataset, (count, first_id) in lists.items():
        names = [f"id{first_id + i:05d}" for i in range(count)]
        lines = _write_speakers(root, dataset, names, first_voice, options)
        (root / f"{dataset}_train_list").write_text("".join(lines), encoding="utf-8")
        first_voice += count
    names = [f"id{10270 + i:05d}" for i in range(options.eval_speakers)]
    lines = _write_speakers(root, "voxceleb1", names, first_voice, options)
    _write_trials(root, [line.split()[1].removeprefix("voxceleb1/") for line in lines], options)
    _write_noises(root, first_voice + options.eval_speakers, options)
    _write_rooms(root, options)
    _write_marker(root, wanted, is_complete=True)
    return True


def _write_speakers(
    root: Path, dataset: str, names: list[str], first_voice: int, options: DemoOptions
) -> list[str]:
    lines = []
    for voice_number, name in enumerate(names, start=first_voice):
        rng = np.random.default_rng([options.seed, _VOICE, voice_number])
        voice = synthesis.draw_voice(rng)
        for recording in range(options.recordings):
            video = f"video{voice_number:04d}_{recording}"
            room = synthesis.draw_room(rng, decay_seconds=rng.uniform(0.1, 0.5))
            noise_snr_db, level_db = rng.uniform(20.0, 35.0), rng.uniform(-20.0, -3.0)
            for number in range(1, options.utterances + 1):
                speech = synthesis.speak(voice, rng.uniform(2.5, 5.0), rng)
                path = f"{dataset}/{name}/{video}/{number:05d}.wav"
                _write_wav(root / path, synthesis.record(speech, room, noise_snr_db, level_db, rng))
                lines.append(f"{name} {path}\n")
    return lines


def _write_trials(root: Path, paths: list[str], options: DemoOptions) -> None:
    rng = np.random.default_rng([options.seed, _TRIALS])
    first, second = np.triu_indices(len(paths), k=1)
    speakers = np.array([path.split("/")[0] for path in paths])
    videos = np.array([path.split("/")[1] for path in paths])
    is_target = speakers[first] == speakers[second]
    # Two utterances of one recording share its room and noise: too easy to count.
    targets = np.flatnonzero(is_target & (videos[first] != videos[second]))
    nontargets = rng.permutation(np.flatnonzero(~is_target))[: len(targets)]
    chosen = rng.permutation(np.concatenate([targets, nontargets]))
    lines = [f"{int(is_target[i])} {paths[first[i]]} {paths[second[i]]}\n" for i in chosen]
    (root / "trials").write_text("".join(lines), encoding="utf-8")


def _write_noises(root: Path, first_voice: int, options: DemoOptions) -> None:
    for number in range(options.bank_files):
        name = f"demo/{number:04d}.wav"
        rng = np.random.default_rng([options.seed, _NOISE, number])
        _write_wav(root / "musan_split/noise" / name, 0.5 * synthesis.draw_noise(rng, 6.0))
        rng = np.random.default_rng([options.seed, _MUSIC, number])
        _write_wav(root / "musan_split/music" / name, 0.5 * synthesis.draw_music(rng, 6.0))
        rng = np.random.default_rng([options.seed, _VOICE, first_voice + number])
        _write_wav(
            root / "musan_split/speech" / name, 0.5 * synthesis.speak(synthesis.draw_voice(rng), 6.0, rng)
        )


def _write_rooms(root: Path, options: DemoOptions) -> None:
    sizes = {"smallroom": (0.1, 0.3), "mediumroom": (0.3, 0.6), "largeroom": (0.6, 1.0)}
    for size_number, (size, decays) in enumerate(sizes.items()):
        for number in range(options.bank_files):
            rng = np.random.default_rng([options.seed, _ROOM, size_number, number])
            room = 0.9 * synthesis.draw_room(rng, decay_seconds=rng.uniform(*decays))
            folder = root / "simulated_rirs" / size / f"Room{number + 1:03d}"
            _write_wav(folder / f"Room{number + 1:03d}-00001.wav", room)


def _write_wav(path: Path, waveform: Waveform) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, to_int16(waveform), SAMPLE_RATE, subtype="PCM_16")


def _read_marker(root: Path) -> object:
    try:
        return json.loads((root / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_marker(root: Path, options: dict[str, int], *, is_complete: bool) -> None:
    text = json.dumps({**options, "is_complete": is_complete}, indent=2)
    (root / _MARKER).write_text(text + "\n", encoding="utf-8")
