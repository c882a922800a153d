import torch

from sslsv.encoders.simple_audio_cnn import SimpleAudioCNN


def test_simple_audio_cnn__has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in SimpleAudioCNN().parameters()) == 5_253_120


def test_simple_audio_cnn__a_frame_sees_465_samples_every_10_ms() -> None:
    encoder = SimpleAudioCNN(SimpleAudioCNN.Config(channels=8)).eval()
    assert [encoder.frames(torch.zeros(1, n)).shape[2] for n in (465, 624, 625, 16000)] == [1, 1, 2, 98]
    waveforms = torch.randn(1, 1000)
    changed = waveforms.clone()
    changed[:, 465] += 1
    assert torch.equal(encoder.frames(waveforms)[..., 0], encoder.frames(changed)[..., 0])
    changed[:, 464] += 1
    assert not torch.equal(encoder.frames(waveforms)[..., 0], encoder.frames(changed)[..., 0])
