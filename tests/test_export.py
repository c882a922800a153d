import sys

import pytest
import torch
from safetensors import safe_open

from sslsv.evaluation.export import load_encoder
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.export import main


def facts_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_main__best_checkpoint_becomes_a_file_with_the_same_embeddings(small_run, tmp_path, capsys):
    out = tmp_path / "encoder.safetensors"
    assert main([small_run, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "from step_00000002-" in printed and f"next: encoder.init={out} starts" in printed
    trained = SpeakerEncoder.load(small_run, device="cpu")
    waveforms = torch.randn(2, 7000, generator=torch.Generator().manual_seed(2)) / 10
    with torch.no_grad():
        assert torch.equal(load_encoder(out)(waveforms), trained.model.encoder(waveforms))
    facts = facts_of(out)
    assert facts["checkpoint"] == trained.checkpoints[0]
    assert (facts["model"], facts["step"], facts["sample_rate"]) == ("simclr", "2", "16000")


def test_main__arithmetic_and_device_which_change_no_file_are_no_options(small_run, capsys):
    for option in (["--precision", "bf16"], ["--device", "cuda"]):
        with pytest.raises(SystemExit):
            main([small_run, *option])
        assert f"unrecognized arguments: {option[0]}" in capsys.readouterr().err


@pytest.mark.slow
def test_main__onnx_gives_the_same_embeddings_without_this_package(small_run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="in requirements-dev.txt")
    out = tmp_path / "encoder.onnx"
    assert main([small_run, "--format", "onnx", "--out", str(out)]) == 0
    trained = SpeakerEncoder.load(small_run, device="cpu")
    waveforms = torch.randn(2, 17_000, generator=torch.Generator().manual_seed(2)) / 10
    session = onnxruntime.InferenceSession(out)
    (found,) = session.run(None, {session.get_inputs()[0].name: waveforms.numpy()})
    with torch.no_grad():
        expected = trained.model.encoder(waveforms)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_main__out_may_be_in_object_storage(small_run, tmp_path, monkeypatch, object_storage, capsys):
    monkeypatch.chdir(tmp_path)
    folder = object_storage.folder()
    assert main([small_run, "--out", f"{folder}/x.safetensors"]) == 0
    assert object_storage.names(folder) == ["x.safetensors"] and not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert f"wrote {folder}/x.safetensors (" in printed and "next:" not in printed


def test_main__without_out_the_file_is_named_after_run_and_step(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([small_run, "--checkpoint", "last"]) == 0
    facts = facts_of("simclr-step_00000003.safetensors")
    assert facts["checkpoint"].startswith("step_00000003-")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--checkpoint", "step_9"], "choose one of last, best, step_00000001-"),
        (["--out", "encoder.onnx"], "which does not end in .safetensors: add that, or set --format"),
        (["--out", "folder/"], "--out is folder/, which does not end in .safetensors"),
        (["--out", "enc.bin", "--format", "onnx"], "--out is enc.bin, which does not end in .onnx"),
        (["--format", "onnx", "--out", "e.onnx"], "ONNX needs onnxscript: pip install onnx onnxscript"),
    ],
    ids=["checkpoint", "suffix", "folder", "no suffix", "packages"],
)
def test_main__impossible_requests_are_refused_before_anything_is_written(
    small_run, tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.chdir(tmp_path)
    assert main([small_run, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
