import numpy as np
import pytest
import soundfile

from sslsv.embedding_workers import workers
from sslsv.embeddings import embed_files
from sslsv.speaker_encoder import SpeakerEncoder


@pytest.mark.slow
def test_workers__give_every_recording_its_own_row_whatever_order_they_take(tmp_path, small_run, ray_session):
    rng = np.random.default_rng(1)
    names = [f"{i:02d}.wav" for i in range(40)]
    for i, name in enumerate(names):
        samples = 0.1 * rng.standard_normal(5000 + 800 * (i * 7 % 5))
        soundfile.write(tmp_path / name, samples, 16_000, subtype="PCM_16")
    (tmp_path / names[5]).write_text("no audio")
    encoder = SpeakerEncoder.load(small_run)
    expected, bad = embed_files(encoder, names, str(tmp_path))
    with workers(encoder, str(tmp_path), None, 2) as embed:
        rows, bad_too = embed(names)
    assert bad_too == bad and list(bad) == [5]
    np.testing.assert_allclose(rows, expected, atol=1e-5)
