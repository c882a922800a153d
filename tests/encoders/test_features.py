import pytest
import torch
import torchaudio

from sslsv.encoders.features import Spectrogram, to_float
from sslsv.encoders.fields import Features, KaldiFeatures


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
    torch.testing.assert_close(
        Spectrogram(Features(num_mels=num_mels))(waveform), expected, rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("window", ["hamming", "povey"])
@pytest.mark.parametrize("num_mels", [60, 80])
def test_kaldi__equals_torchaudios_fbank(window: str, num_mels: int) -> None:
    waveform = speechlike()
    settings = KaldiFeatures(window=window, num_mels=num_mels)  # type: ignore[arg-type]
    found = Spectrogram(settings)(waveform)
    for row, expected in zip(waveform, found, strict=True):
        fbank = torchaudio.compliance.kaldi.fbank(
            row[None] * 32768, num_mel_bins=num_mels, window_type=window, dither=0.0, sample_frequency=16000
        )
        torch.testing.assert_close(expected, (fbank - fbank.mean(0)).mT, rtol=0, atol=1e-4)


def test_features__bands_that_there_can_not_be_are_refused() -> None:
    with pytest.raises(ValueError, match="low_hz is 8000 and high_hz 8000"):
        Features(low_hz=8000.0)


def test_log_mel__pre_emphasis_is_a_filter_with_a_reflected_start() -> None:
    waveform = speechlike(2, 8000)
    before = torch.cat([waveform[:, 1:2], waveform[:, :-1]], 1)
    filtered = waveform - 0.97 * before
    torch.testing.assert_close(
        Spectrogram(Features(pre_emphasis=0.97))(waveform), Spectrogram()(filtered), rtol=0, atol=1e-4
    )


def test_log_mel__int16_is_full_scale_32768() -> None:
    integers = (speechlike() * 32768).clamp(-32768, 32767).to(torch.int16)
    assert to_float(torch.tensor([-32768, 16384], dtype=torch.int16)).tolist() == [-1.0, 0.5]
    torch.testing.assert_close(Spectrogram()(integers), Spectrogram()(integers.float() / 32768))


def test_log_mel__is_float32_under_autocast_and_float64_on_request() -> None:
    waveform = speechlike(2, 4000)
    features = Spectrogram()
    expected = features(waveform)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features(waveform), expected)
    double = Spectrogram().double()(waveform)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=0, atol=1e-4)


def test_log_mel__silence_is_zero_and_gain_hardly_matters() -> None:
    assert torch.equal(Spectrogram()(torch.zeros(1, 4000)), torch.zeros(1, 40, 26))
    waveform = speechlike(1)
    assert (Spectrogram()(waveform) - Spectrogram()(0.5 * waveform)).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(1, 256), (4000,), (1, 1, 4000)], ids=str)
def test_log_mel__impossible_shapes_are_refused_in_a_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \(B, T\) with at least 257 samples"):
        Spectrogram()(torch.zeros(shape))


def test_to_float__other_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="int32 has no known full scale"):
        to_float(torch.zeros(3, dtype=torch.int32))


@pytest.mark.parametrize("num_mels", [40, 80])
def test_spectrogram__of_speechbrain_is_its_fbank(num_mels: int) -> None:
    theirs = pytest.importorskip("speechbrain.lobes.features", reason="make test installs it")
    waveform = speechlike(3, 12345)
    waveform[1, 6000:] = 0  # tests the floor at 80 dB below the loudest value
    expected = theirs.Fbank(n_mels=num_mels)(waveform)
    expected = (expected - expected.mean(1, keepdim=True)).mT
    found = Spectrogram(Features(kind="speechbrain", num_mels=num_mels, normalization="mean"))(waveform)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)  # decibels, values up to 80
