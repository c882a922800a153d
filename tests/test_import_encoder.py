"""Check that checkpoints of other projects become runs that every command accepts."""

import dataclasses

import pytest
import torch

from sslsv.build import build_model
from sslsv.config import Config
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.import_encoder import main
from sslsv.models.base import CorpusSize
from sslsv.runs.folder import RunFolder
from sslsv.settings import build
from sslsv.training.initial import load_source
from tests.encoders.peers import peer_module

torch.set_num_threads(1)
WIDTHS = {"channels": [32] * 4 + [96], "lin_neurons": 16}


@pytest.fixture
def peer():
    module = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN", reason="make test installs it")
    torch.manual_seed(1)
    return module.ECAPA_TDNN(80, **WIDTHS).eval()


@pytest.fixture
def file(peer, tmp_path):
    path = tmp_path / "embedding_model.ckpt"
    torch.save(peer.state_dict(), path)
    return str(path)


def test_main__a_file_of_speechbrain_gives_its_embeddings(peer, file, tmp_path, capsys):
    features = pytest.importorskip("speechbrain.lobes.features").Fbank(n_mels=80)
    assert main([file, "--from", "speechbrain", "--out", str(tmp_path / "run")]) == 0
    assert "ecapa_tdnn, " in capsys.readouterr().out
    waveform = 0.1 * torch.randn(20000, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        bands = features(waveform[None])
        expected = peer(bands - bands.mean(1, keepdim=True))[0, 0]
    encoder = SpeakerEncoder.load(tmp_path / "run", device="cpu")
    found = torch.from_numpy(encoder.embed(waveform.numpy()))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert encoder.model.needs_labels  # so that results mention the use of labels


def test_main__a_new_run_starts_from_it(peer, file, tmp_path):
    run = tmp_path / "run"
    assert main([file, "--from", "speechbrain", "--labels", "unused", "--out", str(run)]) == 0
    source = SpeakerEncoder.load(run, device="cpu")
    assert not source.model.needs_labels
    settings = dataclasses.asdict(source.config.encoder) | {"init": str(run)}
    config = build(Config, {"encoder": settings})
    model = build_model(config, CorpusSize(4, 2))
    model.start_from(*load_source(config))
    assert torch.equal(model.encoder.head.weight, peer.state_dict()["fc.conv.weight"])


def test_main__a_teacher_of_3d_speaker_has_the_features_of_its_training_and_used_no_labels(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    module = peer_module("speakerlab.models.ecapa_tdnn.ECAPA_TDNN")
    weights = module.ECAPA_TDNN(input_size=80, lin_neurons=16, channels=[32] * 4 + [96]).state_dict()
    torch.save({part: {"module": {"backbone": weights}} for part in ("student", "teacher")}, "sdpn.pth")
    part = ["--part", "teacher.module.backbone"]
    assert main(["sdpn.pth", "--from", "3dspeaker", "--out", "run", *part]) == 0
    printed = capsys.readouterr().out
    assert "features: 80 bands of log_mel, window hann, normalisation instance, full scale 32768" in printed
    assert "labels unused" in printed
    assert not SpeakerEncoder.load(tmp_path / "run", device="cpu").model.needs_labels


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        (None, [], "weights.pt is no file"),
        ({"a": object()}, [], "other objects can run code, so save its state dict anew"),
        ({"a": torch.zeros(2)}, [], "of speechbrain known here (ecapa_tdnn, tdnn): no tensor"),
        ("twice", [], "name one of the encoders in weights.pt: student, teacher"),
        ("twice", ["--part", "pupil"], "--part is pupil; name one of the encoders"),
        ("once", ["encoder.channels=64"], "the settings given make another encoder"),
        ("once", ["encoder.size=b2"], "encoder.size"),
        ("once", ["--labels", "unused", "model.name=dino"], "model.name is given, but FILE has weights"),
        ("once", ["model=vicreg"], "model is given, but FILE has weights and --labels sets the method"),
        ("once", ["encoder.init=nowhere"], "encoder.init is given, but FILE has weights"),
    ],
)
def test_main__what_can_not_be_imported_is_a_sentence(
    peer, tmp_path, monkeypatch, capsys, content, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    if content == "twice":
        content = {part: peer.state_dict() for part in ("student", "teacher")}
    if content is not None:
        torch.save(peer.state_dict() if content == "once" else content, "weights.pt")
    assert main(["weights.pt", "--from", "speechbrain", "--out", "run", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_main__a_run_is_not_overwritten(file, tmp_path, capsys):
    arguments = [file, "--from", "speechbrain", "--out", str(tmp_path / "run")]
    assert (main(arguments), main(arguments)) == (0, 2)
    assert "which holds a run; name another folder" in capsys.readouterr().err
    RunFolder(str(tmp_path), "sweep").write_json("sweep.json", {})
    assert main([file, "--from", "speechbrain", "--out", str(tmp_path / "sweep")]) == 2
    assert "which holds a sweep; name another folder" in capsys.readouterr().err
