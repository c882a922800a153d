import pytest
import torch
import torchaudio.functional

from sslsv.encoders.cepstral_statistics import CepstralStatistics, slopes

SMALL = CepstralStatistics.Config(num_cepstra=20, hidden_dim=8, embedding_dim=4)


def waveforms(samples: int = 8000) -> torch.Tensor:
    return 0.1 * torch.randn(3, samples, generator=torch.Generator().manual_seed(43))


def test_cepstral_statistics__default_has_as_many_parameters_as_stated() -> None:
    assert sum(parameter.numel() for parameter in CepstralStatistics().parameters()) == 193_792


def test_config__more_cepstra_than_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="num_cepstra is 65, but 64 mel bands give at most 64 cepstra"):
        CepstralStatistics.Config(num_cepstra=65)


def test_slopes__equal_torchaudios_deltas() -> None:
    series = torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(42))
    torch.testing.assert_close(slopes(series), torchaudio.functional.compute_deltas(series))


def test_cepstral_statistics__means_and_deviations_are_those_of_the_loud_frames() -> None:
    encoder = CepstralStatistics(SMALL)
    encoder.head = torch.nn.Identity()  # type: ignore[assignment]
    frames = encoder.frames(waveforms())
    statistics = encoder.pool(frames)
    loud = frames[0, :, frames[0, -1] > 0]
    assert loud.shape[1] == 36  # of 51 frames
    torch.testing.assert_close(statistics[0, :19], loud[1:20].mean(1))
    torch.testing.assert_close(statistics[0, 19:39], loud[:20].std(1, correction=0))
    torch.testing.assert_close(statistics[0, 39:], loud[20:40].square().mean(1).sqrt())


def test_cepstral_statistics__hear_a_filter_and_no_level() -> None:
    torch.manual_seed(42)
    encoder = CepstralStatistics(SMALL).eval()
    original = waveforms()
    filtered = torchaudio.functional.lfilter(original, torch.tensor([1.0, -0.9]), torch.tensor([1.0, 0.0]))
    with torch.no_grad():
        embeddings = encoder(original)
        torch.testing.assert_close(encoder(0.5 * original), embeddings, atol=1e-3, rtol=0)
        assert (encoder(filtered) - embeddings).abs().max() > 0.1


def test_cepstral_statistics__of_silence_are_finite() -> None:
    assert CepstralStatistics(SMALL)(torch.zeros(2, 400)).isfinite().all()
