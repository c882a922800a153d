import json
import re
import shlex
import shutil

import numpy as np
import pytest
import soundfile

from sslsv import verify
from sslsv.data.lists import read_trials
from sslsv.evaluate import main
from sslsv.evaluation.calibration import Calibration
from sslsv.evaluation.embedding import EmbeddingStore
from sslsv.evaluation.metrics import ErrorCurve
from sslsv.evaluation.scoring import cosine_scores
from sslsv.evaluation.speaker_encoder import CALIBRATION_FILE, SpeakerEncoder
from sslsv.runs.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint
from sslsv.runs.folder import RunFolder


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
    curve = ErrorCurve.of(cosine_scores(embeddings, trials.enrol, trials.test), trials.targets)
    table = found["lists"]["trials"]["scorings"]["cosine"]
    assert table["eer"]["value"] == pytest.approx(curve.eer(), abs=1e-3)
    key = "min_dcf(p_target=0.01,c_miss=1,c_fa=1)"
    assert table[key]["value"] == pytest.approx(curve.min_dcf(), abs=1e-3)
    counts = found["lists"]["trials"]["counts"]
    assert counts["trials"] == len(trials) and counts["speakers"] == 3


def test_evaluate__leaves_scores_report_and_calibration_and_pages_that_link_to_each_other(run_folder, capsys):
    (run_folder / "report.html").write_text("")  # stands for the report of the training
    (run_folder / "run.json").write_text(json.dumps({"command": "python -m sslsv.train a.yml"}))
    found = evaluate(run_folder)
    lines = (run_folder / "evaluation" / "scores" / "trials.txt").read_text().splitlines()
    assert lines[0] == "#target\tenrolment\ttest\tcosine\tcosine_calibrated"
    assert len(lines) == 1 + found["lists"]["trials"]["counts"]["trials"]
    target, enrol, test, cosine, llr = lines[1].split()
    calibration = SpeakerEncoder.load(run_folder).calibration
    assert float(llr) == pytest.approx(float(calibration.apply(np.array([float(cosine)]))[0]), abs=1e-3)
    page = (run_folder / "evaluation" / "report.html").read_text()
    assert '<a href="../report.html">Run run</a>' in page and "python -m sslsv.train a.yml" in page
    assert '<a href="evaluation/report.html">Evaluation</a>' in (run_folder / "report.html").read_text()
    assert "validation trials" in found["notes"][0]
    printed = capsys.readouterr().out
    assert re.search(r"\n    EER +\d+\.\d\d % \(\d+\.\d\d to ", printed) and "report:" in printed
    assert f"next: sslsv verify {run_folder} ENROLMENT.wav TEST.wav" in printed


def test_evaluate__scores_that_tell_no_speakers_apart_are_not_calibrated(run_folder, monkeypatch, capsys):
    monkeypatch.setattr("sslsv.evaluation.scorer.fit_calibration", lambda *_: Calibration(0.0, 0.0))
    found = evaluate(run_folder, "--norm", "s", "--cohort-size", "12")
    assert list(found["lists"]["trials"]["scorings"]) == ["cosine_s_norm", "cosine"]
    first, second = found["warnings"]
    assert first.startswith("Scores by cosine, S-norm (12 training utterances) are no higher for the same")
    assert second.startswith("Scores by cosine are no higher") and "they are not calibrated" in second
    printed = capsys.readouterr().out
    assert f"warning: {second}" in printed and "next:" not in printed
    assert not RunFolder.at(str(run_folder)).has(CALIBRATION_FILE)


def test_evaluate__normalised_scores_come_first_and_say_their_cohort(run_folder):
    found = evaluate(run_folder, "--norm", "as", "--cohort-size", "12", "--top", "5", "--no-calibration")
    assert list(found["lists"]["trials"]["scorings"]) == ["cosine_as_norm", "cosine"]
    title = "cosine, AS-norm (12 training utterances, top 5)"
    assert title in found["lists"]["trials"]["titles"].values()
    assert title in (run_folder / "evaluation" / "report.html").read_text()
    assert "No labels were used" in " ".join(found["notes"])
    assert not RunFolder.at(str(run_folder)).has(CALIBRATION_FILE)


def written_scores(run, name):
    lines = (run / "evaluation" / "scores" / f"{name}.txt").read_text().splitlines()[1:]
    return [float(line.split()[3]) for line in lines]


def test_evaluate__trials_of_another_form_with_blanks_and_repeats_are_scored_as_listed(
    run_folder, demo_corpus, tmp_path
):
    root, (path, other, *_) = tmp_path / "my corpus", read_trials(demo_corpus, "trials").paths
    (root / "my voices").mkdir(parents=True)
    names = [f"my voices/take {n}.wav" for n in range(3)]
    for name, source in zip(names, (path, other, path), strict=True):
        shutil.copy(demo_corpus / source, root / name)
    pairs = [(0, 1, "nontarget"), (0, 2, "target"), (2, 0, "target")]
    (root / "mine").write_text("".join(f"{names[a]}\t{names[b]}\t{label}\n" for a, b, label in pairs))
    options = ("--root", str(root), "--trials", "mine", "--no-calibration", "--replicates", "0")
    found = evaluate(run_folder, *options)
    assert found["lists"]["mine"]["counts"]["trials"] == 3
    assert any("is read as `enrolment test target` lines" in note for note in found["notes"])
    scores = run_folder / "evaluation/scores/mine.txt"
    assert read_trials(root, str(scores)).paths == names


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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--trials", "voxceleb1_test_X"], "voxceleb1_test_X"),
        (["--root", "nowhere"], "nowhere"),
        (["--task", "probe", "--train", "x"], "needs both lists"),
        (["--train", "x"], "add --task probe"),
        (["--task", "probe", "--train", "x", "--test", "y", "--norm", "s"], "scores none"),
        (["--task", "probe", "--train", "x", "--test", "y", "--allow-missing"], "scores none"),
        (["--task", "probe", "--train", "gone", "--test", "gone"], "gone does not exist"),
        (["--scoring", "plda", "--norm", "as"], "--norm and --centre change cosines"),
        (["--lda-dim", "4"], "add --scoring plda"),
        (["--cohort-size", "4"], "add --norm or --centre"),
        (["--norm", "s", "--top", "4"], "add --norm as"),
        (
            ["--task", "probe", "--train", "x", "--test", "y", "--train-root", "z"],
            "--train-root is for trials",
        ),
        (["--with", "nothing"], "nothing has no checkpoints"),
        (["--norm", "as", "--cohort-size", "1"], "--cohort-size is 1; give 2 or more"),
        (["--norm", "as", "--top", "0"], "--top is 0; give 2 or more"),
        (["--replicates", "-1"], "--replicates is -1; give 0 or more"),
        (
            ["--task", "probe", "--train", "x", "--test", "y", "--replicates", "-1"],
            "--replicates is -1; give",
        ),
        (["--out", "RUN"], "is the folder of a run, whose report an evaluation would replace"),
    ],
)
def test_evaluate__mistakes_are_one_sentence_and_exit_code_2(
    small_run, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.setattr(EmbeddingStore, "get", lambda *_: pytest.fail("it embedded"))
    assert main([small_run, *(small_run if word == "RUN" else word for word in arguments)]) == 2
    assert sentence in capsys.readouterr().err


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
    assert main([*arguments, "--no-calibration"]) == 0  # embeddings are cached, so no sample is read again
    assert not [r for r in object_storage.requests if ".int16" in r.path and r.method == "GET"]
    assert main([f"{run}/checkpoints/{folder.names('checkpoints')[0]}", *arguments[1:]]) == 0


def test_evaluate__trials_of_validation_are_told(small_run, run_folder, demo_corpus, tmp_path, capsys):
    changes = ("held_out_speakers: 3", "held_out_speakers: 0", "validation: null", "validation: trials")
    run = run_with(
        small_run, tmp_path, *changes, "allow_validation_on_test: false", "allow_validation_on_test: true"
    )
    fused = ["--with", str(run), "--no-calibration"]
    for first, arguments in ((run, []), (run, ["--no-calibration"]), (run_folder, fused)):
        found = evaluate(first, *arguments)
        count = found["lists"]["trials"]["counts"]["trials"]
        sentence = f"{count} of the {count} trials of trials are validation trials"
        assert sentence in " ".join(found["notes"])
        assert sentence in (first / "evaluation" / "report.html").read_text()
        assert f"note: {sentence}" in capsys.readouterr().out


def test_evaluate__a_list_of_validation_calibrates_without_the_train_lists(small_run, demo_corpus, tmp_path):
    lines = (demo_corpus / "trials").read_text().splitlines()
    (tmp_path / "chosen").write_text("\n".join(lines[::2]) + "\n")
    changes = ("held_out_speakers: 3", "held_out_speakers: 0", "validation: null")
    run = run_with(
        small_run,
        tmp_path,
        *changes,
        f"validation: {tmp_path / 'chosen'}",
        "[voxceleb2_train_list]",
        "[gone]",
    )
    assert evaluate(run)["labels_were_used"]["calibration"]


def run_with(small_run, tmp_path, *changes):
    """Copy the newest checkpoint of a run, with other settings, and return the new run."""
    folder, other = RunFolder.at(small_run), RunFolder(str(tmp_path), "other")
    checkpoint = read_checkpoint(folder, list_checkpoints(folder)[-1][1])
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in checkpoint.config
        checkpoint.config = checkpoint.config.replace(old, new)
    checkpoint.best_step = 3
    write_checkpoint(other, checkpoint)
    return tmp_path / "other"


@pytest.mark.parametrize("is_shared", [False, True])
def test_evaluate__says_what_the_run_has_trained_on(small_run, demo_corpus, tmp_path, capsys, is_shared):
    text, paths = (demo_corpus / "voxceleb2_train_list").read_text(), read_trials(demo_corpus, "trials").paths
    (tmp_path / "mine").write_text(text + "".join(f"dev {path}\n" for path in paths * is_shared))
    run = run_with(small_run, tmp_path, "[voxceleb2_train_list]", f"[{tmp_path / 'mine'}]")
    found = evaluate(run, "--no-calibration")
    page, printed = (run / "evaluation" / "report.html").read_text(), capsys.readouterr().out
    remark = "trials shares none of these with the training: 3 speakers, 12 paths of recordings, 12 contents"
    assert (remark in page) == (f"note: {remark}" in printed) == (not is_shared)
    assert len(found["warnings"]) == 2 * is_shared
    for sentence, counts in zip(found["warnings"], ("3 of 3 speakers", "12 of 12 paths"), strict=False):
        assert sentence.startswith(counts) and sentence in page and f"warning: {sentence}" in printed


def test_evaluate__own_lists_have_their_own_root_and_faulty_test_lists_are_not_asked(
    small_run, demo_corpus, tmp_path, capsys
):
    run = run_with(small_run, tmp_path, "test: [trials]", "test: [gone]")
    own, text = tmp_path / "own", (demo_corpus / "trials").read_text()
    own.mkdir()
    for i, path in enumerate(read_trials(demo_corpus, "trials").paths):
        shutil.copy(demo_corpus / path, own / f"{i}.wav")
        text = text.replace(path.removeprefix("voxceleb1/"), f"{i}.wav")
    (own / "mine").write_text(text)
    options = ["--norm", "s", "--cohort-size", "8"]
    shutil.copytree(small_run, tmp_path / "as_it_was")
    evaluate(tmp_path / "as_it_was", "--checkpoint", "last", *options)
    found = evaluate(run, "--trials", "mine", "--root", str(own), *options)
    assert any(note.startswith("The paths of mine do not name the speakers") for note in found["notes"])
    expected = written_scores(tmp_path / "as_it_was", "trials")
    assert written_scores(run, "mine") == pytest.approx(expected, abs=1e-3)
    arguments = [str(run), "--trials", "mine", "--root", str(own), "--train-root", str(tmp_path / "moved")]
    assert main(arguments) == 2
    assert "moved, which is not a folder" in (error := capsys.readouterr().err) and "--train-root" in error
    assert (
        main([str(run), "--trials", "trials", *arguments[-2:], "--no-calibration"]) == 0
    )  # still below data.root


def test_evaluate__lists_of_one_name_are_refused_and_scores_of_earlier_lists_go(
    run_folder, demo_corpus, tmp_path, capsys
):
    shutil.copy(demo_corpus / "trials", tmp_path / "trials")
    assert main([str(run_folder), "--trials", "trials", str(tmp_path / "trials")]) == 2
    assert "two lists of --trials have the file name 'trials'" in capsys.readouterr().err
    shutil.copy(demo_corpus / "trials", tmp_path / "others")
    evaluate(run_folder, "--no-calibration")
    found = evaluate(run_folder, "--no-calibration", "--trials", str(tmp_path / "others"))
    assert list(found["lists"]) == ["others"]
    assert [file.name for file in (run_folder / "evaluation" / "scores").iterdir()] == ["others.txt"]


def test_evaluate__the_command_that_comes_next_finds_the_calibration(
    run_folder, small_run, demo_corpus, tmp_path, capsys
):
    for options in (["--precision", "bf16"], ["--checkpoint", "average"], ["--with", small_run]):
        evaluate(run_folder, *options)
        assert "llr" in verified(demo_corpus, capsys)
    evaluate(run_folder, "--centre", "--cohort-size", "8")  # `verify` does not support centred cosines
    assert "next:" not in capsys.readouterr().out
    copied = tmp_path / "copied" / list_checkpoints(RunFolder.at(small_run))[-1][1]
    copied.parent.mkdir()
    shutil.copy(f"{small_run}/checkpoints/{copied.name}", copied)
    assert main([str(copied), "--replicates", "0"]) == 0
    assert (copied.parent / "evaluation" / "evaluation.json").is_file()
    assert not (tmp_path / "evaluation").exists()
    assert "llr" in verified(demo_corpus, capsys)


def verified(demo_corpus, capsys):
    """Run the command that an evaluation has printed and return its result."""
    command = re.search(r"\nnext: sslsv verify (.*) ENROLMENT.wav TEST.wav\n", capsys.readouterr().out)[1]
    recordings = [str(demo_corpus / path) for path in read_trials(demo_corpus, "trials").paths[:2]]
    assert verify.main([*shlex.split(command), *recordings, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate__a_probe_leaves_its_result_and_a_page(run_folder, demo_corpus, tmp_path, capsys):
    lines = (
        (demo_corpus / "voxceleb2_train_list").read_text().splitlines(keepends=True)
    )  # speakers serve as labels
    for name, part in (("train", lines[::2]), ("test", lines[1::2])):
        (tmp_path / name).write_text("".join(part))
    arguments = ["--task", "probe", "--train", str(tmp_path / "train"), "--test", str(tmp_path / "test")]
    assert main([str(run_folder), *arguments, "--replicates", "20"]) == 0
    found = json.loads((run_folder / "evaluation" / "probe.json").read_text())
    assert np.sum(found["confusion"]) == found["lists"]["test"]["counts"]["recordings"]
    share = np.trace(found["confusion"]) / np.sum(found["confusion"])
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(share)
    assert found["identity"] and found["lists"]["train"]["sha256"]
    page = (run_folder / "evaluation" / "probe.html").read_text()
    assert "<svg" in page and found["labels"][0] in page
    printed = capsys.readouterr().out
    assert "macro_f1" in printed and "note: A list names no speakers" in printed and "probe.html" in printed


def test_evaluate__plda_comes_first_and_says_that_labels_were_used(small_run, tmp_path, capsys):
    run_folder = run_with(small_run, tmp_path, "held_out_speakers: 3", "held_out_speakers: 2")
    found = evaluate(run_folder, "--scoring", "plda", "--lda-dim", "4")
    scorings = found["lists"]["trials"]["scorings"]
    assert list(scorings)[:2] == ["plda", "cosine"]
    assert found["labels_were_used"] == {"training": False, "scoring": True, "calibration": True}
    assert "Labels were used: PLDA was fitted" in " ".join(found["notes"])
    assert "The results are not self-supervised." in capsys.readouterr().out
    page = (run_folder / "evaluation" / "report.html").read_text()
    assert "Labels were used to score these trials." in page
    found = evaluate(run_folder, "--no-calibration")
    assert found["labels_were_used"] == {"training": False, "scoring": False, "calibration": False}
    assert "Labels were used to score" not in (run_folder / "evaluation" / "report.html").read_text()


def test_evaluate__fused_runs_share_validation_or_do_without_and_what_any_has_trained_on_is_said(
    small_run, run_folder, demo_corpus, tmp_path, capsys
):
    (tmp_path / "leaky").write_text(
        "".join(f"x {path}\n" for path in read_trials(demo_corpus, "trials").paths)
    )
    changes = ("held_out_speakers: 3", "held_out_speakers: 0")
    leaky = run_with(small_run, tmp_path, "[voxceleb2_train_list]", f"[{tmp_path / 'leaky'}]", *changes)
    assert main([str(run_folder), "--with", str(leaky)]) == 2
    assert "no validation trials in common" in capsys.readouterr().err
    found = evaluate(run_folder, "--with", str(leaky), "--no-calibration")
    assert found["fused_with"] and found["warnings"][0].startswith(
        "3 of 3 speakers of trials were in training"
    )
