from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.prepare_data.noises import cut, piece_bounds, place_of
from tests.prepare_data.corpus_server import speech, wav


@pytest.mark.parametrize(
    ("seconds", "lengths"),
    [
        (0.5, [0.5]),
        (3, [3]),
        (8, [8]),
        (8.5, [8.5]),
        (9, [8, 1]),
        (16, [8, 8]),
        (17.5, [8, 8, 1.5]),
        (24.9, [8, 8, 8.9]),
    ],
)
def test_piece_bounds__keep_every_sample(seconds: float, lengths: list[float]) -> None:
    bounds = piece_bounds(round(seconds * 16_000), 16_000)
    assert [(end - start) / 16_000 for start, end in bounds] == lengths
    assert [start for start, _ in bounds[1:]] == [end for _, end in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, round(seconds * 16_000))


def test_cut__pieces_together_are_the_file(tmp_path: Path) -> None:
    content = wav(speech(1, 20.3))
    cut(content, tmp_path / "noise/fs/a-0001.wav")
    pieces = sorted((tmp_path / "noise/fs").iterdir())
    assert [piece.name for piece in pieces] == ["a-0001_00000.wav", "a-0001_00008.wav", "a-0001_00016.wav"]
    joined = np.concatenate([soundfile.read(piece, dtype="int16")[0] for piece in pieces])
    (tmp_path / "whole.wav").write_bytes(content)
    assert np.array_equal(joined, soundfile.read(tmp_path / "whole.wav", dtype="int16")[0])


def test_cut__writes_missing_pieces_alone(tmp_path: Path) -> None:
    cut(wav(speech(1, 20.3)), tmp_path / "a.wav")
    (tmp_path / "a_00000.wav").write_bytes(b"kept")
    (tmp_path / "a_00008.wav").unlink()
    cut(wav(speech(1, 20.3)), tmp_path / "a.wav")
    assert (tmp_path / "a_00000.wav").read_bytes() == b"kept"
    assert soundfile.info(tmp_path / "a_00008.wav").frames == 8 * 16_000


def test_place_of__keeps_the_archives_folders_below_the_category() -> None:
    assert place_of("musan/music/fma/x.wav") == "music/fma/x.wav"
    assert place_of("/mine/music/musan/noise/free-sound/x.wav") == "noise/free-sound/x.wav"
    assert place_of("musan/music/fma/LICENSE") is None
    assert place_of("musan/README") is None
