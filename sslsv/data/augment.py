"""Augmentation: what makes two views of one recording sound as if recorded in different places."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Literal

import numpy as np

from sslsv.data.acoustics import BLOCK_ROWS, add_noise, mean_square, reverberate
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws
from sslsv.data.rounding import FULL_SCALE, Samples, Waveform, round_to_int16

__all__ = ["AugmentConfig", "Bank", "augment"]

NoiseKind = Literal["noise", "music", "speech"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How each view is augmented: first a room, then noise, then a level."""

    strategy: Literal[
        "none", "noise", "reverb", "noise_or_reverb", "reverb_and_noise", "any", "none_or_one"
    ] = "reverb_and_noise"
    # any: none, reverb, noise or both; none_or_one: none, reverb or one of noise_kinds; all equally likely
    probability: float = 1.0  # that a view is augmented at all; its level is drawn in any case
    noise_kinds: tuple[NoiseKind, ...] = ("noise", "music", "speech")  # folders of musan_dir, equally likely
    noise_snr_db: tuple[float, float] = (0.0, 15.0)  # speech to noise, dB, drawn uniformly; lower is harder
    music_snr_db: tuple[float, float] = (5.0, 15.0)  # speech to music, dB
    speech_snr_db: tuple[float, float] = (13.0, 20.0)  # speech to other speech (babble), dB
    speech_files: tuple[int, int] = (1, 1)  # recordings summed for babble at equal levels, e.g. (3, 7)
    gain_db: tuple[float, float] = (
        0.0,
        0.0,
    )  # level of the finished view, dB; made quieter where it would clip
    musan_dir: str = "musan_split"  # below data.root, or absolute; holds noise/, music/ and speech/
    rirs_dir: str = "simulated_rirs"  # below data.root, or absolute; impulse responses at any depth
    bank_cache_mb: int = 256  # kept by each data process, MB: rooms' spectra, noises decoded or fetched

    def __post_init__(self) -> None:
        for name in ("noise_snr_db", "music_snr_db", "speech_snr_db", "speech_files", "gain_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is ({low}, {high}): the first must not exceed the second")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability is {self.probability}; it must be between 0 and 1")
        if self.speech_files[0] < 1:
            raise ValueError(f"speech_files starts at {self.speech_files[0]}; babble needs at least 1")
        if self.bank_cache_mb < 0:
            raise ValueError(f"bank_cache_mb is {self.bank_cache_mb}; it must be 0 or more")
        if self.uses_noise and not self.noise_kinds:
            raise ValueError(
                f"noise_kinds is empty but the strategy is {self.strategy!r}: name noise, music "
                "or speech, or choose the strategy none or reverb"
            )

    @property
    def uses_noise(self) -> bool:
        """Whether the strategy ever adds noise."""
        return self.strategy not in ("none", "reverb")

    @property
    def uses_rooms(self) -> bool:
        """Whether the strategy ever adds a room."""
        return self.strategy not in ("none", "noise")

    @property
    def changes_level(self) -> bool:
        """Whether views get a level of their own."""
        return self.gain_db != (0.0, 0.0)

    def snr_db(self, kind: NoiseKind) -> tuple[float, float]:
        """Return the range of speech to noise of a kind, dB."""
        ranges = {"noise": self.noise_snr_db, "music": self.music_snr_db, "speech": self.speech_snr_db}
        return ranges[kind]


def augment(
    crops: Sequence[Samples], config: AugmentConfig, bank: Bank, draws: Sequence[Draws], views: Samples
) -> None:
    """Make views (N, T) of N crops (T,): room, then noise, then level, all drawn from `draws[i]`.

    A view depends on its crop and its draws alone, whatever other crops there are.
    """
    plans = [_draw_plan(config, each) for each in draws]
    in_rooms: dict[int, list[tuple[int, int]]] = {}  # FFT length: rows and their rooms
    for row, (has_room, kind) in enumerate(plans):
        if has_room:
            room = bank.draw_room(draws[row])
            in_rooms.setdefault(bank.room_length(room, len(crops[row])), []).append((row, room))
        elif kind or config.changes_level:
            _finish(crops[row].astype(np.float32), kind, config, bank, draws[row], views[row])
        else:
            views[row] = crops[row]
    for length, members in in_rooms.items():
        waiting = iter(sorted(members, key=itemgetter(1)))  # the same room's spectrum is at hand
        while block := list(islice(waiting, BLOCK_ROWS)):
            rooms = [room for _, room in block]
            wet = reverberate(
                [crops[row] for row, _ in block],
                bank.room_spectra(rooms, length),
                [bank.room_delay(room) for room in rooms],
                length,
            )
            for (row, _), view in zip(block, wet, strict=True):
                _finish(view, plans[row][1], config, bank, draws[row], views[row])


def _finish(
    waveform: Waveform, kind: NoiseKind | None, config: AugmentConfig, bank: Bank, draws: Draws, view: Samples
) -> None:
    # Noise and level, in place, and then into the view.
    if kind:
        snr_db = draws.between(*config.snr_db(kind))
        add_noise(waveform, _draw_noise(kind, config, bank, draws, len(waveform)), snr_db)
    if config.changes_level:
        waveform *= np.float32(10.0 ** (draws.between(*config.gain_db) / 20.0))
    round_to_int16(waveform, view, FULL_SCALE)


def _draw_plan(config: AugmentConfig, draws: Draws) -> tuple[bool, NoiseKind | None]:
    # Whether the view is in a room, and the kind of its noise.
    if draws.fraction() >= config.probability:
        return False, None
    has_room, has_noise = config.uses_rooms, config.uses_noise
    match config.strategy:
        case "noise_or_reverb":
            has_room = draws.below(2) == 1
            has_noise = not has_room
        case "any":
            choice = draws.below(4)
            has_room, has_noise = choice in (1, 3), choice in (2, 3)
        case "none_or_one":
            choice = draws.below(2 + len(config.noise_kinds))
            return choice == 1, config.noise_kinds[choice - 2] if choice > 1 else None
    return has_room, config.noise_kinds[draws.below(len(config.noise_kinds))] if has_noise else None


def _draw_noise(kind: NoiseKind, config: AugmentConfig, bank: Bank, draws: Draws, count: int) -> Waveform:
    low, high = config.speech_files
    num_files = low + draws.below(high - low + 1) if kind == "speech" else 1
    if num_files == 1:
        return bank.draw_noise(draws, kind, count).astype(np.float32)
    total = np.zeros(count, dtype=np.float32)
    for _ in range(num_files):
        noise = bank.draw_noise(draws, kind, count).astype(np.float32)
        power = mean_square(noise)
        if power > 0.0:
            noise *= np.float32(1.0 / np.sqrt(power))
        total += noise
    return total
