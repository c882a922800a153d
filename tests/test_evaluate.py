import json
import shutil

import numpy as np
import pytest
import soundfile

from sslsv.data.manifest import read_trials
from sslsv.evaluate import main
from sslsv.metrics import eer, min_dcf
from sslsv.run_folder import RunFolder
from sslsv.scoring import cosine_scores
from sslsv.speaker_encoder import CALIBRATION_FILE, SpeakerEncoder


@pytest.fixture
def run_folder(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    return tmp_path / "run"


def evaluate(run, *arguments):
    assert main([str(run), "--replicates", "20", *arguments]) == 0
    return json.loads((run / "evaluation" / "evaluation.json").read_text())


def test_evaluate__equals_embeddings_made_one_by_one(run_folder, demo_corpus):
    found = evaluate(run_folder)
    trials = read_trials(demo_corpus, "trials")
    encoder = SpeakerEncoder.load(run_folder)
    embeddings = np.stack([encoder.embed(demo_corpus / path) for path in trials.paths])
    scores = cosine_scores(embeddings, trials.enrol, trials.test)
    table = found["lists"]["trials"]["scorings"]["cosine"]
    assert table["eer"]["value"] == pytest.approx(eer(scores, trials.targets), abs=1e-3)
    expected = min_dcf(scores, trials.targets, 0.01)
    assert table["min_dcf(p_target=0.01,c_miss=1,c_fa=1)"]["value"] == pytest.approx(expected, abs=1e-3)
    assert table["eer"]["low"] <= table["eer"]["value"] <= table["eer"]["high"]
    counts = found["lists"]["trials"]["counts"]
    assert counts["trials"] == len(trials) and counts["speakers"] == 3


def test_evaluate__leaves_scores_report_and_calibration(run_folder, capsys):
    found = evaluate(run_folder)
    lines = (run_folder / "evaluation" / "scores" / "trials.txt").read_text().splitlines()
    assert lines[0] == "#target enrolment test cosine cosine_calibrated"
    assert len(lines) == 1 + found["lists"]["trials"]["counts"]["trials"]
    target, enrol, test, cosine, llr = lines[1].split()
    calibration = SpeakerEncoder.load(run_folder).calibration
    assert float(llr) == pytest.approx(float(calibration.apply(np.array([float(cosine)]))[0]), abs=1e-3)
    page = (run_folder / "evaluation" / "report.html").read_text()
    assert enrol.rpartition("/")[2] and "</html>" in page
    assert "validation trials" in found["notes"][0]
    printed = capsys.readouterr().out
    assert "eer" in printed and "report:" in printed


def test_evaluate__calibration_lowers_the_cost_of_raw_cosines(run_folder):
    scorings = evaluate(run_folder)["lists"]["trials"]["scorings"]
    raw, calibrated = scorings["cosine"], scorings["cosine_calibrated"]
    assert calibrated["cllr"]["value"] < raw["cllr"]["value"]
    assert calibrated["min_cllr"] == raw["min_cllr"]
    assert "act_dcf(p_target=0.01,c_miss=1,c_fa=1)" in calibrated


def test_evaluate__without_calibration_nothing_is_kept(run_folder):
    scorings = evaluate(run_folder, "--no-calibration")["lists"]["trials"]["scorings"]
    assert list(scorings) == ["cosine"]
    assert not RunFolder.at(str(run_folder)).has(CALIBRATION_FILE)


@pytest.mark.parametrize("kind", ["z", "t", "s", "as"])
def test_evaluate__normalised_scores_come_first_and_say_their_cohort(run_folder, kind):
    found = evaluate(run_folder, "--norm", kind, "--cohort-size", "12", "--top", "5", "--no-calibration")
    scorings = list(found["lists"]["trials"]["scorings"])
    top = ",top=5" if kind == "as" else ""
    assert scorings == [f"cosine_{kind}_norm(cohort=utterances,size=12{top},ddof=0)", "cosine"]
    assert "No labels were used" in " ".join(found["notes"])


def test_evaluate__a_cohort_of_speakers_is_said_to_use_labels(run_folder):
    found = evaluate(run_folder, "--norm", "s", "--cohort", "speakers", "--no-calibration")
    assert "not free of labels" in " ".join(found["notes"])


def test_evaluate__centred_crops(run_folder):
    found = evaluate(
        run_folder,
        "--crops",
        "2",
        "--crop-seconds",
        "0.5",
        "--centre",
        "--cohort",
        "clusters",
        "--cohort-size",
        "4",
    )
    assert "mean_crop_centred_cosine" in found["lists"]["trials"]["scorings"]


def test_evaluate__fuses_runs_that_held_out_the_same_speakers(run_folder, small_run):
    found = evaluate(run_folder, "--fuse", f"{small_run}")
    scorings = found["lists"]["trials"]["scorings"]
    assert "fused_calibrated" in scorings and "eer" in scorings["fused_calibrated"]


def test_evaluate__refuses_to_fuse_a_run_that_trained_on_the_validation_speakers(
    run_folder, small_run, tmp_path, capsys
):
    from sslsv.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint

    folder, other = RunFolder.at(small_run), RunFolder(str(tmp_path), "other")
    checkpoint = read_checkpoint(folder, list_checkpoints(folder)[-1][1])
    checkpoint.config = checkpoint.config.replace("held_out_speakers: 3", "held_out_speakers: 2")
    checkpoint.best_step = 3
    write_checkpoint(other, checkpoint)
    assert main([str(run_folder), "--fuse", other.location]) == 2
    assert "no run has trained on" in capsys.readouterr().err


def test_evaluate__in_two_processes_gives_the_same(run_folder, ray_session):
    alone = evaluate(run_folder)["lists"]["trials"]["scorings"]["cosine"]["eer"]
    shutil.rmtree(run_folder / "embeddings")
    assert evaluate(run_folder, "--workers", "2")["lists"]["trials"]["scorings"]["cosine"]["eer"] == alone


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["1 a.wav"], "line 1: expected `1|0 enrolment test`"),
        (["2 {0} {1}", "0 {0} {2}"], "line 1: the label is '2'"),
        (["1 {0} {1}", "0 {0} gone.wav"], "gone.wav (line 2)"),
        (["1 {0} {1}", "1 {1} {0}", "0 {0} {2}"], "line"),
        (["1 {0} {0}", "0 {0} {2}"], "line 1"),
        (["1 {0} {1}", "0 {1} {0}"], "line"),
        ([], "is empty"),
    ],
)
def test_evaluate__a_bad_list_gives_its_sentence(run_folder, demo_corpus, tmp_path, capsys, lines, sentence):
    paths = read_trials(demo_corpus, "trials").paths
    (tmp_path / "mine").write_text("".join(line.format(*paths) + "\n" for line in lines))
    assert main([str(run_folder), "--trials", str(tmp_path / "mine")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_evaluate__a_bad_recording_is_named_or_counted(run_folder, demo_corpus, tmp_path, capsys):
    root = tmp_path / "corpus"
    shutil.copytree(demo_corpus, root)
    paths = read_trials(root, "trials").paths
    (root / paths[0]).write_bytes(b"no audio")
    soundfile.write(root / paths[1], np.full(8000, np.nan), 16000, subtype="FLOAT")
    arguments = [str(run_folder), "--root", str(root), "--no-calibration", "--replicates", "0"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "2 of" in error and paths[0] in error and "cannot be read" in error and "(line" in error
    assert main([*arguments, "--allow-missing"]) == 0
    found = json.loads((run_folder / "evaluation" / "evaluation.json").read_text())
    assert found["lists"]["trials"]["counts"]["unreadable_recordings"] == 2


def test_evaluate__norm_and_crops_do_not_go_together(run_folder, capsys):
    assert main([str(run_folder), "--norm", "as", "--crops", "3"]) == 2
    assert "leave out --norm or --crops" in capsys.readouterr().err


def test_evaluate__says_what_is_missing(run_folder, tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "has no checkpoints" in capsys.readouterr().err
    assert main([str(run_folder), "--trials", "voxceleb1_test_X"]) == 2
    assert "voxceleb1_test_X" in capsys.readouterr().err
    assert main([str(run_folder), "--root", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_evaluate__a_packed_corpus_gives_the_same(run_folder, demo_corpus, tmp_path):
    from sslsv.prepare_data.__main__ import main as prepare_data

    from_files = evaluate(run_folder, "--norm", "s", "--cohort-size", "8")["lists"]["trials"]["scorings"]
    assert prepare_data(["pack", str(demo_corpus), "--out", str(tmp_path / "packed")]) == 0
    packed = evaluate(run_folder, "--norm", "s", "--cohort-size", "8", "--root", str(tmp_path / "packed"))
    assert packed["lists"]["trials"]["scorings"] == from_files


def test_evaluate__run_corpus_and_results_in_object_storage(
    run_folder, small_run, packed_demo_corpus, object_storage, capsys
):
    local = evaluate(run_folder)["lists"]["trials"]["scorings"]
    run, corpus = object_storage.upload(small_run), object_storage.upload(packed_demo_corpus)
    arguments = [run, "--root", corpus, "--trials", "trials", "--replicates", "20"]
    assert main(arguments) == 0
    folder = RunFolder.at(run)
    stored = folder.read_json("evaluation/evaluation.json")["lists"]["trials"]
    assert stored["scorings"] == local
    assert stored["file"] == f"{corpus}/trials"
    assert f"report: {run}/evaluation/report.html" in capsys.readouterr().out
    assert b"</html>" in folder.read("evaluation/report.html")
    object_storage.requests.clear()
    assert main([*arguments, "--no-calibration"]) == 0  # embeddings were kept: no sample is read again
    assert not [r for r in object_storage.requests if ".int16" in r.path and r.method == "GET"]
    assert main([f"{run}/checkpoints/{folder.names('checkpoints')[0]}", *arguments[1:]]) == 0
