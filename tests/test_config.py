import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from sslsv import config as tree
from sslsv import registry
from sslsv.config import Config, load_config
from sslsv.settings import ConfigError, apply_overrides


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(Config(), overrides)
    return str(caught.value)


def test_load_config__an_empty_file_is_the_defaults_named_after_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("# nothing\n")
    config = load_config(tmp_path / "mine.yml")
    assert config == apply_overrides(Config(), ["run.name=mine"])
    assert load_config(tmp_path / "mine.yml", ["run.name=other"]).run.name == "other"


@pytest.mark.parametrize("name", registry.names("models"))
def test_to_yaml__is_complete_and_reads_back_equal(name: str) -> None:
    odd = ["run.name='1e-3'", "data.root='null'", "optimizer.weight_decay=1e-20", "resources.workers=[2, 8]"]
    config = apply_overrides(Config(), [f"model.name={name}", *odd])
    assert tree.read_config(tree.to_yaml(config)) == config
    assert set(dataclasses.asdict(config)) == {
        "seed", "data", "encoder", "model", "optimizer", "train", "evaluation", "run", "resources"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.batch_size=32", "resources.workers=3"], "resources.workers is 3, which cannot share train.batch_size (32) equally; give a divisor of it, or two, the smaller first"),
        (["resources.workers=[1,2]", "train.sync_batchnorm=false"], "resources.workers is a range and train.sync_batchnorm false, so batch statistics would change with the number of workers; set train.sync_batchnorm to true, or give one number"),
        (["optimizer.schedule.name=warmup_cosine", "train.epochs=5"], "optimizer.schedule.warmup_epochs is 10.0, longer than the run (train.epochs = 5); lower the first or raise the second"),
        (["optimizer.schedule.name=warmup_exponential", "train.epochs=5"], "optimizer.schedule.warmup_epochs is 10.0, longer than the run (train.epochs = 5); lower the first or raise the second"),
        (["optimizer.schedule.name=cosine", "optimizer.learning_rate=1e-6"], "optimizer.schedule.min_learning_rate is 1e-05, above learning_rate (1e-06); cosine only lowers the rate: lower the first or raise the second"),
        (["optimizer.nesterov=true"], "optimizer.nesterov is true, with adam and a momentum of 0.9; it needs sgd and a momentum above 0: leave it out"),
        (["optimizer.schedule={name: warmup_exponential, min_learning_rate: 0}"], "optimizer.schedule.min_learning_rate is 0, which an exponential never reaches: give a small rate"),
        (["evaluation.validation=trials", "evaluation.test=[a, ./trials]"], "evaluation.validation and evaluation.test both name 'trials', and choosing on test trials makes results look better than they are; use held_out_speakers, or set allow_validation_on_test=true to do it anyway"),
        (["data.root=/corpora", "evaluation.validation=/corpora/b/../trials", "evaluation.test=[trials]"], "evaluation.validation and evaluation.test both name '/corpora/b/../trials', and choosing on test trials makes results look better than they are; use held_out_speakers, or set allow_validation_on_test=true to do it anyway"),
        (["evaluation.test=[a/trials, b/trials]"], "evaluation.test is ['a/trials', 'b/trials']; results are stored by file name, and one occurs twice ('validation' is taken): rename a file, or list it once"),
        (["evaluation.validation=trials", "evaluation.held_out_speakers=4"], "evaluation.validation is 'trials' and held_out_speakers 4; keep one: held_out_speakers=0 or validation=null"),
        (["train.precision=fp16", "resources.gpu=false"], "train.precision is 'fp16', which needs a GPU, and there is none (resources.gpu is false); use 'bf16' or 'fp32'"),
        (["train.recompute=true", "train.compile=true"], "train.compile and recompute are both true; set one of them to false"),
        (["train.patience=3"], "train.patience is 3 but nothing is validated; set train.patience=null, evaluation.held_out_speakers, evaluation.validation or a label-free evaluation.criterion"),
        (["evaluation.criterion=min_dcf"], "evaluation.criterion is 'min_dcf', but nothing gives it values; set held_out_speakers or validation for 'eer' and 'min_dcf', label_free.utterances for the others"),
        (["evaluation.criterion=label_free/lidar", "evaluation.label_free.utterances=0"], "evaluation.criterion is 'label_free/lidar', but nothing gives it values; set held_out_speakers or validation for 'eer' and 'min_dcf', label_free.utterances for the others"),
        (["run.name=a/b"], "run.name is 'a/b'; it should be a plain name, without slashes"),
        (["model.positives.start_epoch=100"], "model.positives.start_epoch is 100, after the last epoch (train.epochs = 100); lower the first, raise the second, or leave model.positives out"),
        (["model={name: supervised, gate: {name: mixture}}", "train.epochs=3"], "model.gate.start_epoch is 4, after the last epoch (train.epochs = 3); lower the first, raise the second, or leave model.gate out"),
        (["model={name: supervised, gate: {name: mixture}, correction: {start_epoch: 8}}", "train.epochs=8"], "model.correction.start_epoch is 8, after the last epoch (train.epochs = 8); lower the first, raise the second, or leave model.correction out"),
        (["model.margin={name: am, schedule: {name: linear}}", "train.epochs=30"], "model.margin.schedule.rise_epochs[1] is 50.0, longer than the run (train.epochs = 30); lower the first or raise the second"),
        (["model={name: supervised, margin_schedule: {name: cosine, rise_epochs: [0, 9]}}", "train.epochs=8"], "model.margin_schedule.rise_epochs[1] is 9.0, longer than the run (train.epochs = 8); lower the first or raise the second"),
        (["model.positives={name: ssps, start_epoch: 3, queue_length: 0}"], "model.positives.queue_length is 0; it should be greater than or equal to 1"),
        (["model.positives={num_clusters: 4, num_neighbors: 4}"], "model.positives.num_neighbors is 4, but each of the 4 clusters (num_clusters) has only 3 other(s); lower the first or raise the second"),
        (["model.name=deepcluster", "data.speeds=[0.9, 1.0]"], "data.speeds is [0.9, 1.0], so an utterance has another voice in each epoch, but deepcluster clusters utterances; set it to [1.0]"),
        (["model.positives.name=ssps", "model.positives.start_epoch=3", "data.speeds=[0.9, 1.0]"], "data.speeds is [0.9, 1.0], so an utterance has another voice in each epoch, but model.positives clusters utterances; set it to [1.0]"),
        (["model.form=multi_view", "model.positives.name=ssps", "model.positives.start_epoch=3"], "model.form is 'multi_view' and positives are sampled, but only two views can have them; set positives to null, or form to 'symmetric'"),
        (["model={name: sdpn, teacher_temperature: 0.2}"], "model.teacher_temperature is 0.2, above student_temperature (0.1), so the teacher would be the less certain of the two; lower it"),
        (["model={name: dino, first_teacher_temperature: 0.2}"], "model.first_teacher_temperature is 0.2, above student_temperature (0.1), so the teacher would be the less certain of the two; lower it"),
        (["evaluation.criterion=loss"], "evaluation.criterion is 'loss'; it should be 'eer', 'min_dcf', 'label_free/pseudo_eer', 'label_free/lidar' or 'label_free/rankme'"),
    ],
)  # fmt: skip
def test_config__refuses_settings_that_do_not_go_together(overrides: list[str], expected: str) -> None:
    assert refusal(*overrides) == expected


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1", "seed=9223372036854775808", "run.name=''", "run.name=.", "run.name=..", "run.name=/a", "run.name='a\\b'",
        "train.batch_size=1", "train.patience=0", "optimizer.learning_rate=0", "optimizer.momentum=1", "optimizer.clip_norm=0",
        "evaluation.held_out_speakers=1", "evaluation.label_free.utterances=1", "evaluation.label_free.utterances=4097",
        "run.max_failures=-2", "resources.workers=0", "resources.data_tasks=0", "resources.cpus_per_worker=0",
    ],
)  # fmt: skip
def test_config__refuses_values_out_of_range(override: str) -> None:
    assert refusal(override).startswith(override.partition("=")[0] + " is ")


def test_config__the_home_folder_may_be_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert apply_overrides(Config(), ["data.root=~/data"]).data.root == "/home/ann/data"
    assert apply_overrides(Config(), ["data.root=s3://bucket/~x"]).data.root == "s3://bucket/~x"


def test_config__takes_what_just_fits() -> None:
    config = apply_overrides(Config(), ["seed=9223372036854775807", "run.name=a..b", "optimizer.momentum=0"])
    assert (config.seed, config.run.name) == (2**63 - 1, "a..b")
    both = ["evaluation.validation=a", "evaluation.test=[a]", "evaluation.allow_validation_on_test=true"]
    assert apply_overrides(Config(), both).evaluation.validation == "a"


@pytest.mark.parametrize(
    ("overrides", "criterion"),
    [
        ([], None),
        (["evaluation.held_out_speakers=3"], "eer"),
        (["evaluation.validation=mine"], "eer"),
        (["evaluation.held_out_speakers=3", "evaluation.criterion=label_free/lidar"], "label_free/lidar"),
        (["evaluation.criterion=label_free/pseudo_eer", "train.patience=3"], "label_free/pseudo_eer"),
    ],
)
def test_config__says_what_chooses_the_best_checkpoint(overrides: list[str], criterion: str | None) -> None:
    assert apply_overrides(Config(), overrides).evaluation.selection_criterion == criterion


def test_workers__a_range_has_the_counts_that_share_the_batch() -> None:
    config = apply_overrides(Config(), ["train.batch_size=48", "resources.workers=[1, 8]"])
    assert config.resources.worker_range == (1, 8)
    assert tree.usable_counts(config.resources, config.train) == [1, 2, 3, 4, 6, 8]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--help"], None),
        (["configs/simcrl.yml"], "simclr.yml"),
        (["configs/simclr.yml", "model.name=simclrr"], "model.name is 'simclrr', which is not known; did you mean"),
        (["configs/simclr.yml", "model.temperature=-1"], "model.temperature is -1"),
    ],
)  # fmt: skip
def test_train__help_and_refusals_do_not_wait_for_large_libraries(arguments, sentence) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "sslsv.train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "ray", "scipy", "matplotlib", "pyarrow"}
    assert done.returncode == (2 if sentence else 0) and (sentence or "") in done.stderr
