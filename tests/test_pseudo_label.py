"""Test the entire command on the synthetic corpus, killed at several points, and refused requests."""

import contextlib
import os
import sys
from dataclasses import replace

import pytest

from sslsv import pseudo_label
from sslsv.config import to_yaml
from sslsv.runs.folder import RunFolder
from tests.tasks.test_rounds import records_of
from tests.training_command import Command, assert_same_weights, final

SETTINGS = """
init: {init}
num_rounds: 2
clustering: {{name: kmeans_agglomerative, num_clusters: [4, 6], min_members: 2}}
large_margin: {{model.margin: 0.4, train.epochs: 2, model.gate.start_epoch: 1, model.correction.start_epoch: 1}}
data: {{root: {root}, train_lists: [voxceleb2_train_list], augment: [{{name: noise, probability: 0.5}}]}}
encoder: {{name: thin_resnet34, width: 2, embedding_dim: 16}}
model: {{name: supervised, crop_seconds: 0.6, gate: {{name: mixture, start_epoch: 2}}, correction: {{start_epoch: 3}}}}
optimizer: {{learning_rate: 3e-3}}
train: {{epochs: 6, batch_size: 8, log_every_steps: 1}}
evaluation: {{held_out_speakers: 3, every_epochs: 2, test: [trials]}}
run: {{storage: {storage}, checkpoint_every_minutes: 0.001, wandb: disabled, tensorboard: false}}
"""


@pytest.fixture
def yaml(tmp_path, demo_corpus, small_run):
    file = tmp_path / "settings.yml"
    file.write_text(SETTINGS.format(root=demo_corpus, storage=tmp_path / "runs", init=small_run))
    return str(file)


def is_training(folder, stage, step):
    records = RunFolder(folder.location, stage).metrics()
    return bool(records) and records[-1]["step"] >= step


def test_first_config__trains_on_the_utterances_of_the_loop(yaml):
    overrides = ["init=configs/simclr.yml", "data.held_out_lists=[labelled]", "data.fraction=0.5"]
    loop = pseudo_label.load_loop(yaml, [*overrides, "data.fraction_of=each_speaker"])
    first = pseudo_label.first_config(loop, "runs")
    for key in ("root", "train_lists", "held_out_lists", "fraction", "fraction_of"):
        assert getattr(first.data, key) == getattr(loop.data, key), key


def test_first_config__patience_without_validation_is_told_in_a_sentence(tmp_path, yaml, capsys):
    (tmp_path / "first.yml").write_text("{train: {patience: 2}, evaluation: {held_out_speakers: 3}}")
    error = refusal(capsys, yaml, f"init={tmp_path}/first.yml", "evaluation.held_out_speakers=0")
    assert "first.yml, but with the loop's data and validation train.patience is 2 but nothing is" in error


def test_check_request__a_stage_with_a_frozen_encoder_may_start_from_a_run_that_is_to_come(tmp_path, yaml):
    first = tmp_path / "first.yml"
    first.write_text("{encoder: {name: thin_resnet34, width: 2, embedding_dim: 16}, train: {batch_size: 8}}")
    loop = pseudo_label.load_loop(yaml, [f"init={first}", "large_margin={encoder.frozen: true}"])
    pseudo_label.check_request(loop)


@pytest.mark.slow
def test_pseudo_label__killed_again_and_again_ends_as_if_nothing_had_been(tmp_path, yaml):
    """Kill -9 everything after clustering, in a round's training, between rounds, and in the last stage."""

    def start(name):
        command = Command(sys.executable, "-m", "sslsv.pseudo_label", yaml, f"run.name={name}")
        return command, RunFolder(str(tmp_path / "runs"), name)

    command, whole = start("whole")
    code, output = command.wait()
    assert code == 0, output
    assert "round_2:" in output and "large_margin:" in output and "best: " in output
    for is_time in (
        lambda folder: folder.has("lists/round_1"),
        lambda folder: is_training(folder, "round_1", 7),
        lambda folder: folder.has("rounds.jsonl"),
        lambda folder: is_training(folder, "large_margin", 2),
    ):
        command, folder = start("killed")
        command.wait_until(lambda is_time=is_time, folder=folder: is_time(folder), "the moment to kill")
        command.kill()
        assert not folder.has("summary.json")
    command, again = start("killed")
    code, output = command.wait()
    assert code == 0, output
    assert "going on with the unfinished loop" in output
    assert records_of(again) == records_of(whole)
    for stage in ("round_1", "round_2", "large_margin"):
        assert_same_weights(*(final(RunFolder(each.location, stage)) for each in (whole, again)))
    assert pseudo_label.main([yaml, "run.name=whole"]) == 2


def refusal(capsys, *arguments):
    assert pseudo_label.main(list(arguments)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.name=simclr", "only 'supervised' learns clusters"),
        ("clustering.num_clusters=[4, 900]", "clustering.num_clusters is 900, but there are only"),
        ("init=runs/nothing", "runs/nothing"),
        ("large_margin={train.epoch: 3}", "did you mean train.epochs?"),
        ("labels=no_list", "no_list"),
        (
            "labels=voxceleb1_train_list",
            "labels is voxceleb1_train_list, which has no path in common with data.train",
        ),
        ("round_settings=[{train.batch_size: 512}]", "512"),
        ("large_margin={data.augment: [{name: reverb, folder: nowhere}]}", "nowhere"),
        ("round_settings=[{seed: 5}]", "stage change seed: 1717 -> 5, but all stages must agree"),
        (
            "init=configs/simclr.yml",
            "encoders_start_from is 'first' and init configs/simclr.yml, an encoder with",
        ),
        ("large_margin={evaluation: {held_out_speakers: 4}}", "change evaluation.held_out_speakers: 3 -> 4"),
        (
            "round_settings=[{}, {data.fraction: 0.5, run.name: x}]",
            "change data.fraction: 1.0 -> 0.5; run.name",
        ),
        ("clustering.name=ward", "clustering.name is 'ward'"),
    ],
)
def test_pseudo_label__what_cannot_be_is_refused_before_anything_starts(
    override, sentence, tmp_path, yaml, capsys
):
    assert sentence in refusal(capsys, yaml, override)
    assert not os.path.exists(tmp_path / "runs" / "settings")


def test_pseudo_label__fp16_without_a_gpu_in_any_stage_is_refused_before_the_folder_changes(
    tmp_path, yaml, monkeypatch, capsys
):
    monkeypatch.setattr(
        "sslsv.cluster.connect.connection", lambda asked: contextlib.nullcontext(replace(asked, gpu=False))
    )
    monkeypatch.setattr("sslsv.tasks.rounds.Loop", lambda *_: pytest.fail("the loop was started"))
    error = refusal(capsys, yaml, "large_margin={train.precision: fp16}")
    assert error.startswith("error: train.precision is 'fp16', which needs a GPU")
    assert not RunFolder(str(tmp_path / "runs"), "settings").kind()


def test_pseudo_label__a_finished_loop_another_one_and_a_run_are_refused(tmp_path, yaml, capsys):
    config = pseudo_label.load_loop(yaml)
    folder = RunFolder(str(tmp_path / "runs"), "settings")
    folder.write("loop.yml", to_yaml(config).encode())
    other = refusal(capsys, yaml, "round_settings=[{model.margin: 0.1}]")
    assert "a loop with other settings (round_settings: () -> ({'model.margin': 0.1},))" in other
    folder.write("summary.json", b"{}")
    free = "data.max_bad_share=0.5"  # allowed, as for a run
    assert "holds a finished loop of the same settings" in refusal(capsys, yaml, free)
    other_statistics = refusal(capsys, yaml, "train.sync_batchnorm=false", "resources.workers=2")
    assert "resources.workers: 1 -> 2, and with it batch statistics" in other_statistics
    RunFolder(str(tmp_path / "runs"), "run").write("config.yml", b"")
    assert "holds a run" in refusal(capsys, yaml, "run.name=run")


def test_pseudo_label__a_loop_on_lists_of_other_contents_is_refused(tmp_path, yaml, capsys):
    folder = RunFolder(str(tmp_path / "runs"), "settings")
    folder.write("loop.yml", to_yaml(pseudo_label.load_loop(yaml)).encode())
    folder.write_json("lists.json", {"sha256": "of other lists"})
    assert "holds a loop whose train lists had other contents" in refusal(capsys, yaml)


def test_pseudo_label__stages_that_validate_in_other_rooms_are_refused(yaml, capsys):
    shifted = "evaluation.held_out_is_shifted=true"
    error = refusal(capsys, yaml, shifted, "round_settings=[{data.augment: []}]")
    assert "data.augment of a stage has other rooms or noises" in error


def test_pseudo_label__patience_of_rounds_without_validation_is_refused(yaml, capsys):
    error = refusal(capsys, yaml, "round_patience=2", "evaluation.held_out_speakers=0")
    assert "round_patience is 2 but nothing is validated" in error
