import numpy as np
import pytest
import torch
from torch import nn

from sslsv.config import Config, EvaluationConfig
from sslsv.data.audio import AudioError
from sslsv.data.lists import Trials
from sslsv.data.section import DataConfig
from sslsv.encoders.thin_resnet34 import ThinResNet34
from sslsv.evaluation.intervals import speaker_bootstrap
from sslsv.evaluation.scoring import cosine_scores
from sslsv.evaluation.trials import TrialSet, open_trial_sets
from sslsv.evaluation.verification import Embedder, failing_together, verify
from sslsv.models.simclr import SimCLR
from sslsv.ops import distributed


def small_model():
    torch.manual_seed(0)
    encoder = ThinResNet34(ThinResNet34.Config(width=2, embedding_dim=16))
    return SimCLR(SimCLR.Config(), encoder)


class Recorder(nn.Module):
    """Embed a waveform as its first two samples, and record the input shapes."""

    def __init__(self):
        super().__init__()
        self.shapes = []
        self.embedding_dim, self.min_samples = 2, 400

    def embed(self, waveforms):
        self.shapes.append(tuple(waveforms.shape))
        return waveforms[:, :2]


def embedder_of(model, batch_seconds=1.0):
    return Embedder(model, torch.device("cpu"), "fp32", batch_seconds)


def test_embed_recordings__batches_only_equal_lengths_bounds_the_audio_and_repeats_what_is_too_short():
    lengths = [16000, 8000, 16000, 16000, 8000, 4000, 16000, 399]
    waveforms = [np.full(n, i, dtype=np.float32) for i, n in enumerate(lengths)]
    model = Recorder()
    embeddings, bad = embedder_of(model, 2.0).embed_recordings(waveforms.__getitem__, len(waveforms))
    assert not bad and embeddings[:, 0].tolist() == list(range(8))
    assert sorted(model.shapes) == [(1, 400), (1, 4000), (2, 8000), (2, 16000), (2, 16000)]


def test_embed_recordings__equal_to_one_at_a_time_and_leaves_each_part_in_its_mode():
    model = small_model().eval()
    modes = [part.training for part in model.encoder.train().modules()]
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(n).astype(np.float32) * 0.1 for n in (8000, 9000, 8000, 10000)]
    together, _ = embedder_of(model, 10.0).embed_recordings(waveforms.__getitem__, 4)
    assert [part.training for part in model.encoder.modules()] == modes and not model.training
    model.eval()
    for i, waveform in enumerate(waveforms):
        with torch.no_grad():
            alone = model.embed(torch.from_numpy(waveform)[None])[0].numpy()
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)


def test_embed__what_the_memory_does_not_hold_is_a_sentence(monkeypatch):
    def embed(waveforms):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model := Recorder(), "embed", embed)
    with pytest.raises(ValueError, match=r"1 recording\(s\) of 300 s need more memory than cpu has"):
        embedder_of(model).embed(np.zeros((1, 300 * 16000), dtype=np.int16))


def test_embed_recordings__what_one_worker_cannot_hold_ends_all(monkeypatch):
    monkeypatch.setattr(
        distributed, "gather_objects", lambda value: [value, value or "1 recording(s) of 9 s"]
    )
    with pytest.raises(ValueError, match="of 9 s"):  # the error of another worker
        embedder_of(Recorder()).embed_recordings(lambda i: np.zeros(400, dtype=np.float32), 2)


def test_failing_together__an_error_without_a_message_is_raised_too():
    with pytest.raises(ValueError, match=r"^ValueError\(\)$"), failing_together():
        raise ValueError


def test_verify__with_replicates_gives_the_ends_that_an_evaluation_has():
    rng, speakers = np.random.default_rng(0), np.repeat(np.arange(10), 3)
    enrol, test = np.triu_indices(30, 1)
    targets, paths = speakers[enrol] == speakers[test], [*map(str, range(30))]
    trials = Trials(paths=paths, enrol=enrol, test=test, targets=targets)
    waveforms = rng.normal(size=(30, 2)).astype(np.float32) + 2 * rng.normal(size=(10, 2))[speakers]
    trial_set = TrialSet("t", trials, waveforms.astype(np.float32).__getitem__)
    result = verify(embedder_of(Recorder()), trial_set, 50)
    scores = cosine_scores(result.embeddings, enrol, test)
    expected = speaker_bootstrap(scores, targets, speakers[enrol], speakers[test], replicates=50)["eer"]
    found = [result.metrics[name] for name in ("eer_low", "eer_high")]
    assert found == pytest.approx(expected) and found[0] < result.metrics["eer"] < found[1]
    assert {"min_dcf_low", "min_dcf_high"} < result.metrics.keys()


def some_trials():
    return Trials(
        paths=list("abcd"),
        enrol=np.array([0, 2, 0, 1]),
        test=np.array([1, 3, 2, 3]),
        targets=np.array([True, True, False, False]),
    )


def reader_of(bad):
    def read(i):
        if i in bad:
            raise AudioError(f"{'abcd'[i]} is empty.")
        return np.array([np.cos(i // 2), np.sin(i // 2)], dtype=np.float32)

    return read


def test_verify__trials_with_an_unreadable_recording_are_left_out_and_counted():
    result = verify(embedder_of(Recorder()), TrialSet("t", some_trials(), reader_of({3})))
    assert result.bad_recordings == {"d": "d is empty."}
    assert result.metrics["skipped_trials"] == 2 and result.metrics["eer"] == pytest.approx(0.0)
    assert result.embeddings.shape == (3, 2)


def test_verify__with_no_target_trial_left_it_says_which_recordings_are_bad():
    sentence = r"0 target and 1 nontarget(.|\n)*b is empty.(.|\n)*d is empty"
    with pytest.raises(ValueError, match=sentence):
        verify(embedder_of(Recorder()), TrialSet("t", some_trials(), reader_of({1, 3})))


@pytest.fixture
def config(demo_corpus):
    return Config(
        data=DataConfig(root=str(demo_corpus)),
        evaluation=EvaluationConfig(held_out_speakers=3, held_out_is_shifted=True, test=("trials",)),
    )


def test_held_out_trials__shifted_recordings_differ_between_versions_and_never_between_validations(config):
    _, first, _ = open_trial_sets(config)
    _, second, _ = open_trial_sets(config)
    trials = first.trials
    same_file = [i for i, path in enumerate(trials.paths) if path == trials.paths[0]]
    assert len(same_file) == 2
    a, b = (first.read(i) for i in same_file)
    assert len(a) == len(b) and np.corrcoef(a, b)[0, 1] < 0.99
    np.testing.assert_array_equal(a, second.read(same_file[0]))
