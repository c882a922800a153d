import json
import shutil

import numpy as np
import pytest

from sslsv.data.lists import read_trials
from sslsv.evaluation.speaker_encoder import CALIBRATION_FILE, SpeakerEncoder
from sslsv.runs.folder import RunFolder
from sslsv.verify import main
from tests.codecs import speech, write_codec


@pytest.fixture
def recordings(demo_corpus):
    return [str(demo_corpus / path) for path in read_trials(demo_corpus, "trials").paths[:3]]


@pytest.fixture
def calibrated_run(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    folder = RunFolder.at(str(tmp_path / "run"))
    calibration = {"scale": 10.0, "offset": -9.0}
    folder.write_json(
        CALIBRATION_FILE, {SpeakerEncoder.load(folder.location).identity: {"calibration": calibration}}
    )
    return folder.location


def test_verify__without_calibration_gives_the_cosine_and_no_decision(small_run, recordings, capsys):
    assert main([small_run, *recordings]) == 0
    printed = capsys.readouterr().out
    assert "cosine" in printed and "No calibration" in printed and "decision  " not in printed


def test_verify__takes_what_prepare_data_takes(small_run, tmp_path, capsys):
    path = str(write_codec(tmp_path, "a.m4a", speech()))
    assert main([small_run, path, path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cosine"] == pytest.approx(1, abs=1e-5)


def test_verify__json_holds_score_probability_and_decision(calibrated_run, recordings, capsys):
    assert main([calibrated_run, *recordings, "--json", "--p-target", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["enrolment"] == recordings[:2] and found["test"] == recordings[2]
    assert found["llr"] == pytest.approx(10 * found["cosine"] - 9)
    assert found["operating_point"]["llr_threshold"] == pytest.approx(0)
    assert found["is_same_speaker"] == (found["llr"] >= 0) == (found["probability"] >= 0.5)


def test_verify__the_decision_follows_the_costs(calibrated_run, recordings, capsys):
    same = [recordings[0], recordings[0], "--json"]
    verdicts, equal = [], []
    for p_target in ("0.5", "0.01"):
        assert main([calibrated_run, *same, "--p-target", p_target]) == 0
        found = json.loads(capsys.readouterr().out)
        verdicts.append(found["is_same_speaker"])
        equal.append(found["at_equal_prior"])
    assert verdicts == [True, False]  # an LLR of 1 is accepted only if targets are common
    assert equal[0] == equal[1] and equal[0]["is_same_speaker"]
    assert equal[0]["probability"] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-3)


def test_verify__several_enrolments_are_said_to_be_calibrated_as_one(calibrated_run, recordings, capsys):
    assert main([calibrated_run, *recordings]) == 0
    printed = capsys.readouterr().out
    assert "for the mean of 2 enrolment recordings the ratio is only roughly" in printed
    assert "(threshold 4.595: p_target 0.01, c_miss 1, c_fa 1)" in printed
    assert "if half of such pairs are of one speaker" in printed and "if 0.01 of such pairs are" in printed
    assert main([calibrated_run, *recordings[1:], "--json"]) == 0
    assert "note" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.wav"], "only a.wav is given"),
        (["a.wav", "b.wav"], "a.wav does not exist"),
        (["a.wav", "b.wav", "--p-target", "2"], "p_target"),
        (["here.wav", "here.wav"], "here.wav (0 bytes) is not audio"),
    ],
)
def test_verify__mistakes_are_told_in_a_sentence(
    small_run, tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.wav").touch()
    assert main([small_run, *arguments]) == 2
    assert sentence in capsys.readouterr().err
