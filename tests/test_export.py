import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sslsv.evaluation.encoder_file import load_encoder, read_facts
from sslsv.evaluation.parity import synthetic_batches
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.export import main, report_parity


def test_main__best_checkpoint_becomes_a_file_with_the_same_embeddings(
    small_run, demo_corpus, tmp_path, capsys
):
    out = tmp_path / "encoder.safetensors"
    assert main([small_run, "--out", str(out), "--check", str(demo_corpus / "trials")]) == 0
    printed = capsys.readouterr().out
    assert "from step_00000002-" in printed and "the first 4, cut" in printed
    assert "equal: lowest cosine 1.00000000" in printed and "NOT" not in printed
    trained = SpeakerEncoder.load(small_run, device="cpu")
    waveforms = torch.randn(2, 7000, generator=torch.Generator().manual_seed(2)) / 10
    with torch.no_grad():
        assert torch.equal(load_encoder(out)(waveforms), trained.model.encoder(waveforms))
    facts = read_facts(out)
    assert facts["checkpoint"] == trained.checkpoints[0] and facts["criterion"] == "eer"
    assert (facts["model"], facts["step"], facts["sample_rate"]) == ("simclr", "2", "16000")


def test_main__without_out_the_file_is_named_after_run_and_step(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([small_run, "--checkpoint", "last"]) == 0
    facts = read_facts("simclr-step_00000003.safetensors")
    assert facts["checkpoint"].startswith("step_00000003-") and "criterion" not in facts


def test_main__takes_an_average_and_a_checkpoint_file(small_run, tmp_path):
    first, *_ = sorted(Path(small_run, "checkpoints").iterdir())
    for name, arguments in {"file": [str(first)], "average": [small_run, "--checkpoint", "average"]}.items():
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
    assert read_facts(tmp_path / "file")["checkpoint"] == first.name
    assert "criterion" not in read_facts(tmp_path / "file")
    assert len(read_facts(tmp_path / "average")["checkpoint"].split()) == 3
    one, mean = (load_encoder(tmp_path / name).state_dict()["head.weight"] for name in ("file", "average"))
    assert not torch.equal(one, mean)


def test_report_parity__other_embeddings_are_told_and_counted_as_failure(capsys):
    batches = list(synthetic_batches())[:2]
    first_half, second_half = (lambda x: x[:, :4000], lambda x: x[:, 4000:8000])
    assert report_parity(first_half, first_half, batches) == 0
    assert report_parity(first_half, second_half, batches) == 1
    assert report_parity(first_half, lambda x: np.full_like(x[:, :4000], np.nan), batches) == 1
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "NOT EQUAL: lowest cosine nan over 2 batches (tolerance: at least 0.9999)"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--checkpoint", "step_9"], "there are: last, best, step_00000001-"),
        (["--out", "no/such/folder/e.safetensors"], "the folder no/such/folder of --out does not exist"),
        (["--out", "encoder.onnx"], "but the format is safetensors; set --format onnx"),
        (["--out", "."], "a folder; name a file in it"),
        (["--check", "absent.wav"], "absent.wav does not exist"),
    ],
    ids=["checkpoint", "folder", "suffix", "is_folder", "recording"],
)
def test_main__impossible_requests_are_refused_before_anything_is_written(
    small_run, tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    assert main([small_run, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_main__a_missing_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path / "absent")]) == 2
    assert "has no checkpoints" in capsys.readouterr().err


def test_main__onnx_without_its_packages_says_what_to_install(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main([small_run, "--format", "onnx", "--out", str(tmp_path / "e.onnx")]) == 2
    assert "pip install onnx onnxscript onnxruntime" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_main__onnx_file_equals_the_run(small_run, demo_corpus, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="in requirements-dev.txt")
    out, trials = tmp_path / "e.onnx", str(demo_corpus / "trials")
    assert main([small_run, "--format", "onnx", "--out", str(out), "--check", trials]) == 0
    assert "equal: lowest cosine 1.000000" in capsys.readouterr().out
