"""Test the command as a user runs it."""

import contextlib
import gzip
import json
from dataclasses import replace

import pytest

from sslsv.config import load_config
from sslsv.profile import main, run
from sslsv.settings import ConfigError

TINY = ["encoder.width=2", "encoder.embedding_dim=16", "train.batch_size=8", "model.crop_seconds=0.5"]


def test_main__refuses_what_cannot_be_profiled_in_a_sentence(capsys):
    for wrong, culprit in (
        (["--steps", "0"], "--steps is 0"),
        (["--trace", "/nowhere/trace.json.gz"], "/nowhere/trace.json.gz"),
        (["--trace", "."], "--trace is ., which is a folder"),
        (["data.root=/nowhere"], "/nowhere"),
    ):
        assert main(["configs/demo.yml", *wrong]) == 2
        assert culprit in capsys.readouterr().err


def test_run__its_folder_is_in_the_storage_of_runs_and_stays_only_where_it_failed(
    demo_corpus, tmp_path, monkeypatch
):
    def fit(config, folder, *arguments, **more):
        folder.write("failure.txt", b"")
        return found

    monkeypatch.setattr("sslsv.cluster.fit.fit", fit)
    monkeypatch.setattr("sslsv.cluster.connect.connection", contextlib.nullcontext)
    config = load_config("configs/demo.yml", [*TINY, f"data.root={demo_corpus}", f"run.storage={tmp_path}"])
    for found, left in (({}, 0), ({"error": "it failed"}, 1)):
        assert run(config, 1) is found
        assert len(list(tmp_path.glob("profile-*/failure.txt"))) == len(list(tmp_path.iterdir())) == left


def test_run__fp16_without_a_gpu_is_refused_in_a_sentence(demo_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sslsv.cluster.connect.connection", lambda asked: contextlib.nullcontext(replace(asked, gpu=False))
    )
    more = [f"data.root={demo_corpus}", f"run.storage={tmp_path}", "train.precision=fp16"]
    with pytest.raises(ConfigError, match=r"^train\.precision is 'fp16', which needs a GPU"):
        run(load_config("configs/demo.yml", [*TINY, *more]), 1)


@pytest.mark.slow
def test_main__prints_the_parts_of_a_step_and_writes_a_trace(demo_corpus, ray_session, capsys, tmp_path):
    more = ["evaluation.held_out_speakers=3", "resources.workers=2"]
    overrides = [*TINY, f"data.root={demo_corpus}", *more]
    trace = tmp_path / "trace.json.gz"
    assert main(["configs/demo.yml", *overrides, "--steps", "3", "--trace", str(trace)]) == 0
    printed = capsys.readouterr().out
    shares = {line[:32].strip(): line.split()[-2:] for line in printed.splitlines() if line.endswith("%")}
    assert shares.keys() >= {"waiting for data", "move batch", "forward", "backward", "optimizer"}
    assert "aten::" in printed and str(trace) in printed
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
