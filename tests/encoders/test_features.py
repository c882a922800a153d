import pytest
import torch
import torchaudio

from sslsv.encoders.features import LogMel, to_float

torch.set_num_threads(1)


def speechlike(rows: int = 5, samples: int = 32000) -> torch.Tensor:
    time = torch.arange(samples) / 16000
    noise = torch.randn(rows, samples, generator=torch.Generator().manual_seed(40))
    tones = torch.stack([torch.sin(2 * torch.pi * (200 + 300 * i) * time) for i in range(rows)])
    return (0.05 * noise + 0.2 * tones * torch.sin(2 * torch.pi * 3 * time)).clamp(-1, 1)


@pytest.mark.parametrize("num_mels", [40, 80])
def test_log_mel__equals_torchaudio(num_mels: int) -> None:
    mel = torchaudio.transforms.MelSpectrogram(
        n_fft=512, win_length=400, hop_length=160, window_fn=torch.hamming_window, n_mels=num_mels
    )
    waveform = speechlike()
    expected = torch.nn.InstanceNorm1d(num_mels)((mel(waveform) + 1e-6).log())
    torch.testing.assert_close(LogMel(num_mels)(waveform), expected, rtol=0, atol=2e-5)


def test_log_mel__pre_emphasis_is_a_filter_with_a_reflected_start() -> None:
    waveform = speechlike(2, 8000)
    filtered = waveform.clone()
    for t in range(8000):
        filtered[:, t] = waveform[:, t] - 0.97 * waveform[:, t - 1 if t else 1]
    torch.testing.assert_close(LogMel(pre_emphasis=0.97)(waveform), LogMel()(filtered), rtol=0, atol=1e-4)


def test_log_mel__int16_is_full_scale_32768() -> None:
    integers = (speechlike() * 32768).clamp(-32768, 32767).to(torch.int16)
    assert to_float(torch.tensor([-32768, 16384], dtype=torch.int16)).tolist() == [-1.0, 0.5]
    torch.testing.assert_close(LogMel()(integers), LogMel()(integers.float() / 32768))


def test_log_mel__rows_do_not_depend_on_the_batch_they_are_in() -> None:
    waveform = speechlike(9)
    features = LogMel()
    whole = features(waveform)
    assert whole.shape == (9, 40, 201)
    for i in (0, 8):
        torch.testing.assert_close(features(waveform[i : i + 1])[0], whole[i], rtol=1e-5, atol=1e-5)


def test_log_mel__is_float32_under_autocast_and_float64_on_request() -> None:
    waveform = speechlike(2, 4000)
    features = LogMel()
    expected = features(waveform)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features(waveform), expected)
    double = LogMel().double()(waveform)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=0, atol=1e-4)


def test_log_mel__silence_is_zero_and_gain_hardly_matters() -> None:
    assert torch.equal(LogMel()(torch.zeros(1, 4000)), torch.zeros(1, 40, 26))
    waveform = speechlike(1)
    assert (LogMel()(waveform) - LogMel()(0.5 * waveform)).abs().max() < 0.01


def test_log_mel__adds_nothing_to_checkpoints() -> None:
    assert not LogMel().state_dict()


@pytest.mark.parametrize("shape", [(1, 256), (4000,), (1, 1, 4000)], ids=str)
def test_log_mel__impossible_shapes_are_refused_in_a_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \(B, T\) with T above 256 samples"):
        LogMel()(torch.zeros(shape))


def test_log_mel__shortest_possible_waveform() -> None:
    assert torch.isfinite(LogMel()(torch.randn(2, 257))).all()


def test_to_float__other_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="int32 has no known full scale"):
        to_float(torch.zeros(3, dtype=torch.int32))
