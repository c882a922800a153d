from pathlib import Path

import numpy as np
import pytest
from scipy.signal import fftconvolve
from sslsv.data.augment import AugmentConfig, augment

from sslsv.data.audio import FULL_SCALE
from sslsv.data.bank import Bank
from sslsv.data.draws import Draws, RandomStreams

CROP = np.random.default_rng(0).normal(0.0, 3000.0, 32000).astype(np.int16)


def draws_of(number: int) -> Draws:
    return Draws(RandomStreams(3).stream(0, number, 0))


def views_of(config: AugmentConfig, bank: object, numbers: list[int]) -> np.ndarray:
    views = np.empty((len(numbers), len(CROP)), dtype=np.int16)
    augment([CROP] * len(numbers), config, bank, [draws_of(i) for i in numbers], views)
    return views


def power_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2)))


@pytest.mark.parametrize("field", ["noise_snr_db", "speech_files", "gain_db"])
def test_config__reversed_range_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is \(5, 2\)"):
        AugmentConfig(**{field: (5, 2)})


def test_config__impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match="probability is 1.5"):
        AugmentConfig(probability=1.5)
    with pytest.raises(ValueError, match="noise_kinds is empty"):
        AugmentConfig(noise_kinds=())
    assert AugmentConfig(noise_kinds=(), strategy="reverb").uses_rooms
    with pytest.raises(ValueError, match="at least 1"):
        AugmentConfig(speech_files=(0, 2))


def plain_view(config: AugmentConfig, bank: Bank, draws: Draws) -> np.ndarray:
    # Room, noise, level, one after the other, in float64: the same thing, slowly.
    view = CROP.astype(np.float64)
    assert draws.fraction() < config.probability
    choice = draws.below(2 + len(config.noise_kinds))
    kind = config.noise_kinds[choice - 2] if choice > 1 else None
    if choice == 1:
        with bank.recordings.open(bank.files()[bank.draw_room(draws)]) as file:
            room = file.read_room().astype(np.float64)
        room, delay = room / np.sqrt(np.sum(room**2)), int(np.argmax(np.abs(room)))
        view = fftconvolve(view, room)[delay : delay + len(view)]
    if kind:
        snr_db = draws.between(*getattr(config, f"{kind}_snr_db"))
        low, high = config.speech_files
        total = np.zeros(len(view))
        for _ in range(low + draws.below(high - low + 1) if kind == "speech" else 1):
            noise = bank.draw_noise(draws, kind, len(view)).astype(np.float64)
            total += noise / np.sqrt(np.mean(noise**2))
        view = view + total * np.sqrt(np.mean(view**2) / np.mean(total**2)) * 10 ** (-snr_db / 20)
    view *= 10 ** (draws.between(*config.gain_db) / 20)
    return np.rint(view * min(1.0, 32767 / np.abs(view).max()))


def test_augment__equals_the_plain_way(demo_corpus: Path) -> None:
    config = AugmentConfig(strategy="none_or_one", speech_files=(3, 7), gain_db=(-6.0, 0.0))
    bank = Bank(demo_corpus, config)
    for number, view in enumerate(views_of(config, bank, list(range(40)))):
        wanted = plain_view(config, bank, draws_of(number))
        # Roundings to 16 bits of what float32 moved over a half, and no more.
        assert np.abs(view - wanted).max() <= 1 and np.mean(view != wanted) < 0.01


def test_augment__view_depends_on_its_draws_alone(demo_corpus: Path) -> None:
    config = AugmentConfig(strategy="any")
    together = views_of(config, Bank(demo_corpus, config), list(range(20)))
    for numbers in ([7], [19, 3], [4, 0, 9, 12, 1], list(range(19, -1, -1))):
        again = views_of(config, Bank(demo_corpus, config), numbers)
        assert np.array_equal(again, together[numbers])


class Recorder:
    """A bank that tells what is drawn from it; its room passes everything."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def draw_room(self, draws: Draws) -> int:
        self.calls.append("room")
        return 0

    def room_length(self, room: int, crop_samples: int) -> int:
        return crop_samples

    def room_delay(self, room: int) -> int:
        return 0

    def room_spectra(self, rooms: list[int], length: int) -> list[np.ndarray]:
        return [np.ones(length // 2 + 1, dtype=np.complex64) for _ in rooms]

    def draw_noise(self, draws: Draws, kind: str, count: int) -> np.ndarray:
        self.calls.append(kind)
        return np.ones(count, dtype=np.int16)


ANY_NOISE = {("noise",), ("music",), ("speech",)}


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        ("none", {()}),
        ("noise", ANY_NOISE),
        ("reverb", {("room",)}),
        ("noise_or_reverb", {("room",), *ANY_NOISE}),
        ("reverb_and_noise", {("room", *noise) for noise in ANY_NOISE}),
        ("any", {(), ("room",), *ANY_NOISE, *(("room", *noise) for noise in ANY_NOISE)}),
        ("none_or_one", {(), ("room",), *ANY_NOISE}),
    ],
)
def test_augment__strategy_applies_what_it_says(strategy: str, wanted: set) -> None:
    seen = []
    for number in range(300):
        bank = Recorder()
        views_of(AugmentConfig(strategy=strategy), bank, [number])
        seen.append(tuple(bank.calls))
    assert set(seen) == wanted
    # Room or not, noise or not: equally likely; none_or_one: each of its five.
    groups = (
        seen
        if strategy == "none_or_one"
        else [("room" in each, each[-1:] not in ((), ("room",))) for each in seen]
    )
    assert all(groups.count(group) > 0.5 * len(groups) / len(set(groups)) for group in set(groups))


def test_augment__babble_has_the_ratio_of_speech(demo_corpus: Path) -> None:
    config = AugmentConfig(
        strategy="noise", noise_kinds=("speech",), speech_snr_db=(15.0, 15.0), speech_files=(3, 7)
    )
    view = views_of(config, Bank(demo_corpus, config), [2])[0].astype(int)
    assert abs(power_db(CROP) - power_db(view - CROP) - 15.0) < 0.01


def test_augment__probability_and_level(demo_corpus: Path) -> None:
    config = AugmentConfig(strategy="noise", probability=0.3)
    views = views_of(config, Bank(demo_corpus, config), list(range(200)))
    assert 40 <= sum(not np.array_equal(view, CROP) for view in views) <= 80
    quiet = AugmentConfig(strategy="none", gain_db=(-6.0, -6.0))
    view = views_of(quiet, Bank(demo_corpus, quiet), [0])[0]
    assert np.allclose(power_db(view) - power_db(CROP), -6.0, atol=1e-4)


def test_augment__too_loud_is_made_quieter_as_a_whole(demo_corpus: Path) -> None:
    loud = AugmentConfig(strategy="none", gain_db=(40.0, 40.0))
    view = views_of(loud, Bank(demo_corpus, loud), [0])[0]
    ratio = 32767 / np.abs(CROP.astype(int)).max()
    assert np.abs(view - CROP * ratio).max() < 0.51 and np.abs(view).max() < FULL_SCALE
