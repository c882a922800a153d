from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslsv.data.audio import AudioError, read_whole
from sslsv.evaluation.parity import (
    Floats,
    find_recordings,
    measure_parity,
    recorded_batches,
    synthetic_batches,
)


def projections(waveforms: Floats) -> Floats:
    """A made-up embedding (B, 3) of waveforms: three sums over them."""
    basis = np.random.default_rng(0).normal(size=(waveforms.shape[1], 3)).astype(np.float32)
    return waveforms @ basis


def noise(rows: int = 2, samples: int = 800) -> Floats:
    return np.random.default_rng(1).normal(size=(rows, samples)).astype(np.float32)


def test_measure_parity__equal_functions_are_equal() -> None:
    parity = measure_parity(projections, projections, "noise", noise())
    assert parity.is_equal and parity.max_difference == 0 and parity.min_cosine == pytest.approx(1, abs=1e-12)
    assert (parity.name, parity.rows, parity.seconds) == ("noise", 2, 0.05)
    assert parity.torch_seconds > 0 and parity.exported_seconds > 0


def test_measure_parity__one_turned_row_is_found() -> None:
    def turned(waveforms: Floats) -> Floats:
        return np.array([[1, 0, 0], [np.cos(0.02), np.sin(0.02), 0]], np.float32)

    parity = measure_parity(lambda _: np.eye(1, 3, dtype=np.float32).repeat(2, 0), turned, "", noise())
    assert parity.min_cosine == pytest.approx(np.cos(0.02), abs=1e-7) and not parity.is_equal
    assert parity.max_difference == pytest.approx(np.sin(0.02), abs=1e-7)


@pytest.mark.parametrize("value", [0.0, np.nan], ids=["zeros", "nan"])
def test_measure_parity__what_has_no_direction_is_not_equal(value: float) -> None:
    parity = measure_parity(projections, lambda x: np.full((len(x), 3), value, np.float32), "", noise())
    assert not parity.is_equal


def test_measure_parity__another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"export gives \(2, 2\) for noise, the encoder \(2, 3\)"):
        measure_parity(projections, lambda x: projections(x)[:, :2], "noise", noise())


def test_synthetic_batches__from_half_a_second_to_twenty_and_one_batch() -> None:
    shapes = [waveforms.shape for _, waveforms in synthetic_batches()]
    assert shapes[0] == (1, 8000) and (1, 320000) in shapes and shapes[-1] == (4, 48000)
    for (_, first), (_, second) in zip(synthetic_batches(), synthetic_batches(), strict=True):
        assert first.dtype == np.float32 and np.array_equal(first, second)


def test_recorded_batches__whole_recordings_then_some_cut_to_one_length(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{samples}.wav") for samples in (100, 900, 700)]
    for path in paths:
        soundfile.write(path, noise(1, int(Path(path).stem))[0] / 10, 16000)
    *single, (name, batch) = recorded_batches(paths)
    assert [path for path, _ in single] == paths
    assert [waveforms.shape for _, waveforms in single] == [(1, 400), (1, 900), (1, 700)]
    assert np.array_equal(single[0][1][0, :200], np.tile(read_whole(paths[0]), 2))
    assert name == "the first 3, cut" and batch.shape == (3, 400)
    assert np.array_equal(batch[1], single[1][1][0, :400])


def test_recorded_batches__a_single_recording_makes_no_batch(demo_corpus: Path) -> None:
    assert len(list(recorded_batches(find_recordings([str(demo_corpus / "trials")])[:1]))) == 1


def test_find_recordings__takes_files_and_every_kind_of_list(demo_corpus: Path, tmp_path: Path) -> None:
    from_trials = find_recordings([str(demo_corpus / "trials")])
    from_train_list = find_recordings([str(demo_corpus / "voxceleb2_train_list")])
    assert len(from_trials) == len(set(from_trials)) and not set(from_trials) & set(from_train_list)
    (tmp_path / "a b.wav").write_bytes(Path(from_trials[0]).read_bytes())
    (tmp_path / "list").write_text(f"{from_trials[1]}\n\na b.wav\n")
    found = find_recordings([from_trials[0], str(tmp_path / "list"), from_trials[0]])
    assert found == [from_trials[0], from_trials[1], str(tmp_path / "a b.wav")]
    for path in from_trials + from_train_list + found:
        assert Path(path).is_file()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x80", b"four words to read\n"], ids=repr)
def test_find_recordings__refuses_what_is_neither(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "thing").write_bytes(content)
    with pytest.raises(AudioError, match="thing (does not exist|is an empty file|is not audio)"):
        find_recordings([str(tmp_path / "thing")])
