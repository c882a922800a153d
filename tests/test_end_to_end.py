"""Test the entire command on the synthetic corpus, with and without interruptions."""

import os
import re
import shutil

import numpy as np
import pytest
import soundfile

from sslsv import embed, evaluate, export, verify
from sslsv.data.lists import read_trials
from tests.training_command import Training, assert_same_weights, final


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, demo_corpus):
    training = Training(tmp_path_factory.mktemp("undisturbed"), demo_corpus, "whole", epochs=10)
    code, output = training.wait()
    assert code == 0, output
    return training.folder, output


def test_train__leaves_a_complete_run_folder(undisturbed):
    folder, output = undisturbed
    records = folder.metrics()
    assert [record["step"] for record in records] == list(range(1, records[-1]["step"] + 1))
    numbers = {"loss", "learning_rate", "gradient_norm", "samples_per_second", "data_wait_share"}
    assert numbers <= records[0].keys()
    validated = [record for record in records if "eer" in record]
    assert validated and all(0 <= r["eer"] <= 100 and r["effective_rank"] > 0 for r in validated)
    summary = folder.read_json("summary.json")
    assert summary["is_finished"] and "test/trials/eer" in summary["last"]
    assert summary["best"]["value"] == min(record["eer"] for record in validated)
    assert "<svg" in folder.read("report.html").decode()
    assert re.search(r"Best: step \d+, by EER in validation \(\d+\.\d\d %\)\.", output)
    assert re.search(r"trials: EER(, best)? \d+\.\d\d %, \d+\.\d\d to \d+\.\d\d; ", output)
    assert f"next: python -m sslsv.evaluate {folder.location}\n" in output
    stages = ["starting Ray", "starting 1 training worker, opening the corpus", "step "]
    positions = [output.find(stage) for stage in stages]
    assert -1 not in positions and positions == sorted(positions) and "None" not in output
    trained = folder.read_json("trained.json")
    assert trained["parameters"] >= trained["encoder_parameters"] > 0  # equal without a projector
    assert 0.01 < trained["hours"] < 1


def test_train__killed_and_started_again_ends_with_the_same_weights(undisturbed, tmp_path, demo_corpus):
    """Kill -9 everything within an epoch; the restarted run must end like an undisturbed one."""
    whole, _ = undisturbed
    killed = Training(tmp_path, demo_corpus, "whole", epochs=10)
    killed.wait_for_step(7)
    killed.kill()
    assert not killed.folder.has("summary.json")
    again = Training(tmp_path, demo_corpus, "whole", epochs=10)
    code, output = again.wait()
    assert code == 0, output
    assert "going on with the unfinished run" in output and "from step" in output
    assert_same_weights(final(whole), final(again.folder))
    steps = [record["step"] for record in again.folder.metrics()]
    assert steps == [record["step"] for record in whole.metrics()]
    losses = [[record["loss"] for record in folder.metrics()] for folder in (whole, again.folder)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_train__extended_where_its_data_is_now_it_goes_on_and_without_validation_the_last_one_is_used(
    tmp_path, demo_corpus, capsys
):
    root = shutil.copytree(demo_corpus, tmp_path / "scratch")
    options = ("evaluation.held_out_speakers=0", "evaluation.test=[]")
    first = Training(tmp_path, root, "more", *options, epochs=2)
    code, output = first.wait()
    assert code == 0, output
    steps = first.folder.metrics()[-1]["step"]
    root = root.rename(tmp_path / "elsewhere")
    again = Training(tmp_path, root, "more", "--extend", *options, epochs=4)
    code, output = again.wait()
    assert code == 0 and f"from step {steps}" in output, output
    assert [record["step"] for record in again.folder.metrics()] == list(range(1, 2 * steps + 1))
    run, note = again.folder.location, f"the last, step {2 * steps}, is used"
    recording = str(root / read_trials(root, "trials").paths[0])
    for main, arguments in (
        (verify.main, [run, recording, recording]),
        (embed.main, [run, recording, "--out", str(tmp_path / "x.npz")]),
        (export.main, [run, "--out", str(tmp_path / "x.safetensors")]),
        (evaluate.main, [run, "--trials", "trials", "--replicates", "0"]),
    ):
        assert main(arguments) == 0 and note in capsys.readouterr().err


def write_odd_recordings(folder, good):
    """Write unusual recordings that must be used, and recordings that cannot be; return both lists."""
    folder.mkdir()
    speech, rate = soundfile.read(good)
    assert rate == 16000
    soundfile.write(folder / "eight_khz.wav", speech[::2], 8000)
    soundfile.write(folder / "stereo_44khz.wav", np.stack([speech, speech], 1), 44100)
    soundfile.write(folder / "is_flac.wav", speech, rate, format="FLAC")
    soundfile.write(folder / "short.wav", speech[:4000], rate)
    soundfile.write(folder / "float.wav", speech, rate, subtype="FLOAT")
    usable = ["eight_khz.wav", "stereo_44khz.wav", "is_flac.wav", "short.wav", "float.wav"]
    (folder / "text.wav").write_text("this is no audio")
    (folder / "zero_bytes.wav").write_bytes(b"")
    soundfile.write(folder / "no_samples.wav", speech[:0], rate)
    soundfile.write(folder / "nan.wav", np.full(48000, np.nan), rate, subtype="FLOAT")
    soundfile.write(folder / "whole.flac", speech, rate)
    flac = (folder / "whole.flac").read_bytes()
    (folder / "truncated.flac").write_bytes(flac[: len(flac) // 3])
    (folder / "whole.flac").unlink()
    soundfile.write(folder / "truncated.wav", speech, rate)
    os.truncate(folder / "truncated.wav", 20_000)
    bad = "text.wav zero_bytes.wav no_samples.wav nan.wav truncated.flac truncated.wav missing.wav"
    return usable, bad.split()


def test_train__bad_recordings_are_named_and_do_not_stop_it(tmp_path, demo_corpus):
    lines = (demo_corpus / "voxceleb2_train_list").read_text().splitlines()
    usable, bad = write_odd_recordings(tmp_path / "odd", demo_corpus / lines[0].split()[1])
    listed = tmp_path / "list"
    odd = [f"odd {tmp_path / 'odd' / name}" for name in (*usable, *bad)]
    listed.write_text("\n".join([*lines, *odd]) + "\n")
    options = (f"data.train_lists=[{listed}]", "data.max_bad_share=0.5", "evaluation.held_out_speakers=0")
    training = Training(tmp_path, demo_corpus, "bad", *options, epochs=4)
    code, output = training.wait()
    assert code == 0, output
    skipped = training.folder.read_json("summary.json")["skipped"]["utterances"]
    assert {os.path.basename(path) for path in skipped} == set(bad)
    for name in bad:
        assert f"skipped: {tmp_path / 'odd' / name} " in output
    for name in usable:
        assert name not in output
