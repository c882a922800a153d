import numpy as np

from sslsv.data.augmentations.gain import Gain
from sslsv.data.draws import RandomStreams


def test_gain__levels_are_uniform_in_db_and_exact() -> None:
    gain = Gain(Gain.Config(level_db=(-20.0, 5.0)), None)
    rng = RandomStreams(1).draws(0, 0, "gain")
    factors = [gain.draw(rng) for _ in range(2000)]
    levels = 20 * np.log10(factors)
    assert -20 <= levels.min() < -19.5 and 4.5 < levels.max() < 5 and abs(levels.mean() + 7.5) < 0.6
    crop = np.arange(-4, 4, dtype=np.int16)
    assert np.allclose(gain.apply([crop], factors[:1])[0], crop * factors[0])
    assert crop.tolist() == list(range(-4, 4))  # a crop of a mapped file must not be modified
