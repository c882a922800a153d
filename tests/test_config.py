import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslsv.config import Config, ConfigError, apply_overrides, differences, load_config, to_yaml
from sslsv.models import MODELS
from sslsv.models.simclr import SimCLR
from sslsv.models.vicreg import VICReg
from sslsv.settings import annotations_of, build, sections_of


def load(folder: Path, text: str, *overrides: str) -> Config:
    file = folder / "mine.yml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, overrides)


def sentence(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder / 'mine.yml'}: ")


def all_sections(section: type, path: str = "") -> list[tuple[str, type]]:
    found = [(path, section)]
    for key, annotation in annotations_of(section).items():
        for inner in sections_of(annotation):
            found += all_sections(inner, f"{path}.{key}" if path else key)
    return found


def nested(path: str, section: type, key: str) -> dict[str, Any]:
    """A mapping with the unknown `key` in the section at `path`."""
    name = getattr(section(), "name", None)
    raw: dict[str, Any] = {key: 1} | ({"name": name} if name else {})
    for part in reversed(path.split(".") if path else []):
        raw = {part: raw}
    return raw


def test_load_config__of_an_empty_file_is_the_defaults_named_after_it(tmp_path: Path) -> None:
    config = load(tmp_path, "# nothing\n")
    assert config.run.name == "mine"
    assert config == dataclasses.replace(Config(), run=dataclasses.replace(Config().run, name="mine"))


def test_load_config__keeps_a_run_name_that_is_given(tmp_path: Path) -> None:
    assert load(tmp_path, "run: {name: other}").run.name == "other"


def test_load_config__reads_numbers_and_words_as_yaml_1_2(tmp_path: Path) -> None:
    config = load(
        tmp_path, "optimizer: {learning_rate: 1e-3, weight_decay: 5E-5}\ndata: {root: on}\nseed: 010"
    )
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-3, 5e-5)
    assert config.data.root == "on"
    assert config.seed == 10


def test_load_config__takes_an_integer_for_a_float_but_gives_a_float(tmp_path: Path) -> None:
    rate = load(tmp_path, "optimizer: {learning_rate: 1}").optimizer.learning_rate
    assert isinstance(rate, float)


def test_load_config__gives_tuples_and_frozen_sections(tmp_path: Path) -> None:
    config = load(tmp_path, "data: {speeds: [0.9, 1, 1.1]}")
    assert config.data.speeds == (0.9, 1.0, 1.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.data.root = "other"  # type: ignore[misc]


def test_load_config__follows_anchors_and_merges(tmp_path: Path) -> None:
    text = """
data:
  train_lists: &lists [a, b]
  augment: {noise_snr_db: &range [1.0, 2.0], music_snr_db: *range}
evaluation: {test: *lists}
"""
    config = load(tmp_path, text)
    assert config.evaluation.test == ("a", "b")
    assert config.data.augment.music_snr_db == (1.0, 2.0)
    merged = load(tmp_path, "train: &t {epochs: 3}\noptimizer: {schedule: {name: constant}}").train
    assert merged.epochs == 3


def test_load_config__model_name_chooses_the_class(tmp_path: Path) -> None:
    assert isinstance(load(tmp_path, "model: {name: vicreg}").model, VICReg.Config)
    assert {type(load(tmp_path, f"model: {{name: {name}}}").model) for name in MODELS} == {
        model.Config for model in MODELS.values()
    }


@pytest.mark.parametrize(("path", "section"), all_sections(Config), ids=lambda value: str(value))
def test_build__refuses_unknown_keys_in_every_section(path: str, section: type) -> None:
    full = f"{path}.zzzzz" if path else "zzzzz"
    with pytest.raises(ConfigError, match=f"^{full} is not a setting; .* has "):
        build(Config, nested(path, section, "zzzzz"))


WRONG = {
    "misspelt_key": (
        "model: {name: simclr, temprature: 0.1}",
        "model.temprature is not a setting; did you mean model.temperature?",
    ),
    "misspelt_section": ("modle: {name: simclr}", "modle is not a setting; did you mean model?"),
    "key_of_another_section": (
        "batch_size: 32",
        "batch_size is not a setting; did you mean train.batch_size?",
    ),
    "key_of_another_model": (
        "model: {name: simclr, covariance_weight: 1.0}",
        "model.covariance_weight is not a setting here: simclr has no 'covariance_weight'; it belongs to vicreg and vibcreg",
    ),
    "misspelt_model": (
        "model: {name: simclrr}",
        "model.name is 'simclrr', which is not known; did you mean 'simclr'?",
    ),
    "unknown_model": (
        "model: {name: gpt}",
        "model.name is 'gpt', which is not known; choose one of 'simclr', 'vicreg', 'vibcreg', 'barlow_twins'",
    ),
    "no_model_name": (
        "model: {temperature: 0.1}",
        "model.name is missing; choose one of 'simclr', 'vicreg', 'vibcreg', 'barlow_twins'",
    ),
    "fraction_for_a_count": (
        "train: {batch_size: 32.5}",
        "train.batch_size is 32.5, but it must be a whole number such as 32",
    ),
    "float_for_a_count": (
        "train: {batch_size: 4.0}",
        "train.batch_size is 4.0, but it must be a whole number such as 32",
    ),
    "text_for_a_number": (
        'optimizer: {learning_rate: "1e-3"}',
        "optimizer.learning_rate is '1e-3', but it must be a number such as 0.5 or 1e-3, without quotes",
    ),
    "number_for_a_switch": ("train: {compile: 1}", "train.compile is 1, but it must be true or false"),
    "switch_for_a_number": (
        "train: {epochs: true}",
        "train.epochs is true, but it must be a whole number such as 32",
    ),
    "word_for_a_switch": ("train: {compile: yes}", "train.compile is 'yes', but it must be true or false"),
    "null_for_a_number": (
        "train: {epochs: }",
        "train.epochs is empty, but it must be a whole number such as 32",
    ),
    "text_for_a_list": (
        "data: {train_lists: x}",
        "data.train_lists is 'x', but it must be a list such as [1, 2]",
    ),
    "pair_of_three": (
        "data: {augment: {noise_snr_db: [1, 2, 3]}}",
        "data.augment.noise_snr_db has the wrong number of values ([1, 2, 3]); the default shows how many it takes",
    ),
    "pair_of_one": (
        "data: {augment: {noise_snr_db: [1]}}",
        "data.augment.noise_snr_db has the wrong number of values ([1]); the default shows how many it takes",
    ),
    "wrong_list_item": (
        "data: {speeds: [1, a]}",
        "data.speeds[1] is 'a', but it must be a number such as 0.5 or 1e-3",
    ),
    "infinite": ("optimizer: {learning_rate: .inf}", "optimizer.learning_rate is inf; give a finite number"),
    "not_a_number": ("data: {speeds: [.nan]}", "data.speeds is [nan]; give a finite number"),
    "misspelt_choice": (
        "train: {precision: fp15}",
        "train.precision is 'fp15', which is not known; did you mean 'fp16'?",
    ),
    "unknown_choice": (
        "train: {precision: half}",
        "train.precision is 'half', which is not known; choose one of 'fp32', 'bf16', 'fp16'",
    ),
    "choice_of_numbers": (
        "encoder: {last_stride: 3}",
        "encoder.last_stride is 3, which is not known; choose 1 or 2",
    ),
    "scalar_section": (
        "train: 3",
        "train is 3, but it is a section of settings; write keys and values below it, such as epochs, batch_size, precision",
    ),
    "list_section": (
        "train: [1]",
        "train is [1], but it is a section of settings; write keys and values below it, such as epochs, batch_size, precision",
    ),
    "not_a_mapping": (
        "- seed",
        "the config is ['seed'], but it is a section of settings; write keys and values below it, such as seed, data, encoder",
    ),
    "syntax": (
        "seed: 1\ntrain: {epochs: 3",
        "the yaml is broken at line 2, column 18: expected ',' or '}', but got '<stream end>'",
    ),
    "twice": (
        "seed: 1\nseed: 2",
        "the yaml is broken at line 2, column 1: the key 'seed' is already there at line 1; keep one of them",
    ),
    "twice_on_a_line": (
        "train: {epochs: 1, epochs: 2}",
        "the yaml is broken at line 1, column 20: the key 'epochs' is already there at line 1; keep one of them",
    ),
    "own_check": ("optimizer: {learning_rate: -1.0}", "optimizer.learning_rate is -1.0; it must be above 0"),
    "nested_own_check": (
        "optimizer: {schedule: {decay_factor: 2.0}}",
        "optimizer.schedule.decay_factor is 2.0; it must be above 0 and at most 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_load_config__says_in_one_sentence_what_is_wrong(tmp_path: Path, case: str) -> None:
    text, expected = WRONG[case]
    assert sentence(tmp_path, text) == expected


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: !!set {b}", "a: !!python/object:os.system {}"])
def test_load_config__refuses_what_is_no_plain_value(tmp_path: Path, text: str) -> None:
    assert "the " in sentence(tmp_path, text)


DO_NOT_FIT = {
    "batch_and_workers": (
        ["train.batch_size=32", "resources.workers=3"],
        "train.batch_size is 32, which 3 resources.workers cannot share equally; use 30 or 33",
    ),
    "warmup_and_epochs": (
        ["optimizer.schedule.name=warmup_cosine", "train.epochs=5"],
        "optimizer.schedule.warmup_epochs is 10.0, longer than the run (train.epochs = 5); lower the first or raise the second",
    ),
    "validation_on_test": (
        ["evaluation.validation=trials", "evaluation.test=[a, ./trials]"],
        "evaluation.validation and evaluation.test both name 'trials': choosing checkpoints on test trials makes results look better "
        "than they are; use held_out_speakers, or set allow_validation_on_test=true to do it anyway",
    ),
    "validation_on_test_by_its_full_path": (
        ["data.root=/corpora", "evaluation.validation=/corpora/b/../trials", "evaluation.test=[trials]"],
        "evaluation.validation and evaluation.test both name '/corpora/b/../trials': choosing checkpoints on test trials "
        "makes results look better than they are; use held_out_speakers, or set allow_validation_on_test=true to do it anyway",
    ),
    "tests_of_one_name": (
        ["evaluation.test=[a/trials, b/trials]"],
        "evaluation.test is ['a/trials', 'b/trials']; two lists have the file name 'trials', under which their results "
        "are kept: rename one, or name it once",
    ),
    "test_called_validation": (
        ["evaluation.test=[a/validation]"],
        "evaluation.test is ['a/validation']; no test list may be called 'validation', which is what validation trials "
        "are called: rename the file",
    ),
    "speed_that_would_be_rounded": (
        ["data.speeds=[1, 0.97]"],
        "data.speeds is [1.0, 0.97]; 0.97 is no fraction with a denominator of at most 20, the nearest one is 0.95 (19/20)",
    ),
    "augment_key": (
        ["data.augment.probability=2"],
        "data.augment.probability is 2.0; it must be between 0 and 1",
    ),
    "shift_of_an_own_list": (
        ["evaluation.validation=trials", "evaluation.held_out_is_shifted=true"],
        "evaluation.held_out_is_shifted is true, but held_out_speakers is 0; own lists are heard as they are, so set it to "
        "false, or hold speakers out",
    ),
    "disjoint_crops_of_two_utterances": (
        ["data.crop_overlap=disjoint", "data.positives=same_speaker"],
        "data.crop_overlap is 'disjoint' with positives 'same_speaker', whose crops come from two utterances; leave it at "
        "'any'",
    ),
    "two_validations": (
        ["evaluation.validation=trials", "evaluation.held_out_speakers=4"],
        "evaluation: validation ('trials') and held_out_speakers (4) are both given; keep one: held_out_speakers=0 or "
        "validation=null",
    ),
    "fp16_on_cpu": (
        ["train.precision=fp16", "resources.gpu=false"],
        "train.precision is 'fp16', which needs a GPU, and resources.gpu is false; use 'bf16' or 'fp32'",
    ),
    "recompute_and_compile": (
        ["train.recompute=true", "train.compile=true"],
        "train: recompute and compile are both true; a compiled step chooses by itself what it keeps: set one of them "
        "to false",
    ),
    "chunks_and_compile": (
        ["train.chunk_size=32", "train.compile=true", "train.sync_batchnorm=false"],
        "train.chunk_size is 32 and compile true; chunks can't be compiled: set compile to false, or chunk_size to null",
    ),
    "chunks_of_synchronised_batchnorm": (
        ["train.chunk_size=32"],
        "train.chunk_size is 32 and sync_batchnorm true, but a chunk knows no batch statistics other than its own; set "
        "recompute to true instead of chunk_size (the same run in less memory), or sync_batchnorm to false (each chunk "
        "counts as a worker)",
    ),
    "chunks_that_do_not_divide": (
        ["train.chunk_size=48", "train.sync_batchnorm=false", "resources.workers=2"],
        "train.chunk_size is 48, which does not divide the 128 utterances of each worker (train.batch_size 256 over 2 "
        "resources.workers); use 32",
    ),
    "chunk_larger_than_the_share": (
        ["train.chunk_size=512", "train.sync_batchnorm=false"],
        "train.chunk_size is 512, which does not divide the 256 utterances of each worker (train.batch_size 256 over 1 "
        "resources.workers); use 256",
    ),
    "patience_without_validation": (
        ["train.patience=3"],
        "train.patience is 3 but nothing is validated; set evaluation.held_out_speakers, evaluation.validation or a "
        "label-free evaluation.criterion, or train.patience=null",
    ),
    "pairs_without_labels": (
        ["data.max_utterances_per_speaker=4"],
        "data.max_utterances_per_speaker is 4 with positives 'same_utterance'; it needs 'same_speaker' and at least 2 "
        "(a pair), or null for no limit",
    ),
    "criterion_of_no_trials": (
        ["evaluation.criterion=min_dcf"],
        "evaluation.criterion is 'min_dcf', but there are no validation trials; set held_out_speakers or validation, or "
        "choose by a value without labels, such as 'label_free/pseudo_eer'",
    ),
    "criterion_of_no_probe": (
        ["evaluation.criterion=label_free/lidar", "evaluation.label_free.utterances=0"],
        "evaluation.criterion is 'label_free/lidar', but label_free.utterances is 0, so it is not computed; give it "
        "utterances, such as 256, or choose another criterion",
    ),
    "criterion_that_chooses_nothing": (
        ["evaluation.criterion=loss"],
        "evaluation.criterion is 'loss', which is not known; choose one of 'eer', 'min_dcf', "
        "'label_free/pseudo_eer', 'label_free/lidar', 'label_free/rankme'",
    ),
    "rising_cosine": (
        ["optimizer.schedule.name=cosine", "optimizer.learning_rate=1e-6"],
        "optimizer: schedule.min_learning_rate (1e-05) is above learning_rate (1e-06); a cosine only falls: lower the "
        "first or raise the second",
    ),
}


@pytest.mark.parametrize("case", DO_NOT_FIT)
def test_config__refuses_settings_that_do_not_fit_together(tmp_path: Path, case: str) -> None:
    overrides, expected = DO_NOT_FIT[case]
    assert sentence(tmp_path, "", *overrides) == expected


def test_config__validation_on_test_takes_an_explicit_switch(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "evaluation: {validation: trials, test: [trials], allow_validation_on_test: true}",
    )
    assert config.evaluation.validation == "trials"


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1", "seed=9223372036854775808", "run.name=''", "run.name=.", "run.name=..", "run.name=/a",
        "run.name=a/b", "run.name='a\\b'", "train.epochs=0", "train.batch_size=1", "train.log_every_steps=0", "train.patience=0",
        "data.train_lists=[]", "data.speeds=[]", "data.speeds=[0.1]", "data.max_bad_share=1.5",
        "evaluation.every_epochs=0", "evaluation.held_out_speakers=-1", "evaluation.held_out_speakers=1",
        "evaluation.label_free.utterances=-1", "evaluation.label_free.utterances=1", "evaluation.label_free.views=1",
        "evaluation.label_free.utterances=4097", "evaluation.label_free.crop_seconds=0.05",
        "evaluation.test_every_epochs=-1", "evaluation.batch_seconds=0", "run.checkpoint_every_minutes=0",
        "run.keep_checkpoints=0", "run.max_failures=-2", "resources.workers=0", "resources.data_tasks=0",
        "resources.utterances_per_block=0", "resources.cpus_per_worker=0", "resources.cpus_per_data_task=0",
    ],
)  # fmt: skip
def test_config__refuses_values_out_of_range(tmp_path: Path, override: str) -> None:
    assert sentence(tmp_path, "", override).startswith(override.partition("=")[0] + " is ")


def test_config__takes_what_just_fits(tmp_path: Path) -> None:
    third = 4 / 3
    config = load(
        tmp_path, "", "seed=9223372036854775807", f"data.speeds=[0.95, 1.05, {third!r}]", "run.name=a..b"
    )
    assert (config.seed, config.data.speeds, config.run.name) == (2**63 - 1, (0.95, 1.05, third), "a..b")


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
def test_config__says_what_chooses_the_best_checkpoint(
    tmp_path: Path, overrides: list[str], criterion: str | None
) -> None:
    assert load(tmp_path, "", *overrides).evaluation.chosen_by == criterion


def test_load_config__of_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "simclr.yml").touch()
    with pytest.raises(ConfigError, match=r"simclrr.yml does not exist; did you mean .*/simclr.yml\?$"):
        load_config(tmp_path / "simclrr.yml")
    with pytest.raises(ConfigError, match=r"0000.txt does not exist; .* has simclr.yml$"):
        load_config(tmp_path / "0000.txt")
    with pytest.raises(ConfigError, match="there is no folder .*nowhere$"):
        load_config(tmp_path / "nowhere" / "simclr.yml")
    with pytest.raises(ConfigError, match="is a folder; name a yaml file in it$"):
        load_config(tmp_path)


def test_overrides__are_read_as_yaml(tmp_path: Path) -> None:
    config = load(
        tmp_path, "train: {epochs: 7}", "train.epochs=3", "optimizer.learning_rate=2e-3", "data.speeds=[0.9, 1.1]",
        "train.patience=null", "run.name=a=b",
    )  # fmt: skip
    assert (config.train.epochs, config.optimizer.learning_rate) == (3, 2e-3)
    assert (config.data.speeds, config.train.patience, config.run.name) == ((0.9, 1.1), None, "a=b")


def test_overrides__take_a_mapping_for_several_keys_and_keep_the_others(tmp_path: Path) -> None:
    config = load(tmp_path, "train: {log_every_steps: 7}", "train={epochs: 3, batch_size: 8}")
    assert (config.train.epochs, config.train.batch_size, config.train.log_every_steps) == (3, 8, 7)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.name=vicreg", "model.covariance_weight=0.5"],
        ["model.covariance_weight=0.5", "model.name=vicreg"],
        ["model={covariance_weight: 0.5, name: vicreg}"],
    ],
)
def test_overrides__of_the_model_name_start_from_its_own_defaults(
    tmp_path: Path, overrides: list[str]
) -> None:
    config = load(tmp_path, "model: {name: simclr, temperature: 0.2, projector_dims: [7]}", *overrides)
    assert config.model == VICReg.Config(covariance_weight=0.5)


def test_overrides__of_the_same_model_name_change_nothing(tmp_path: Path) -> None:
    config = load(tmp_path, "model: {name: simclr, temperature: 0.2}", "model.name=simclr")
    assert config.model == SimCLR.Config(temperature=0.2)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "train.epochs",
            "the override 'train.epochs' is not of the form key.path=value, such as train.epochs=20",
        ),
        ("=3", "the override '=3' is not of the form key.path=value, such as train.epochs=20"),
        ("trian.epochs=3", "trian is not a setting; did you mean train?"),
        ("train.epoch=3", "train.epoch is not a setting; did you mean train.epochs?"),
        (
            "train.epochs.x=3",
            "train.epochs.x is not a setting: train.epochs is a single value; set train.epochs itself",
        ),
        (
            "train=3",
            "train is 3, but it is a section of settings; write keys and values below it, such as epochs, batch_size, precision",
        ),
    ],
)
def test_overrides__say_what_is_wrong(tmp_path: Path, override: str, expected: str) -> None:
    assert sentence(tmp_path, "", override) == expected


def test_overrides__with_broken_yaml_name_the_override(tmp_path: Path) -> None:
    assert sentence(tmp_path, "", "train.epochs=[").startswith(
        "the value of the override 'train.epochs=[' cannot"
    )


def test_apply_overrides__takes_plain_and_numpy_values_from_a_search() -> None:
    changes = {
        "train.epochs": np.int64(3),
        "optimizer.learning_rate": np.float64(1e-4),
        "data.speeds": (1.0,),
    }
    config = apply_overrides(Config(), changes)
    assert (config.train.epochs, config.optimizer.learning_rate) == (3, 1e-4)
    assert type(config.train.epochs) is int


def test_apply_overrides__leaves_the_given_config_alone() -> None:
    config = Config()
    apply_overrides(config, {"train.epochs": 3})
    assert config == Config()


@pytest.mark.parametrize("name", MODELS)
def test_to_yaml__is_complete_and_reads_back_equal(tmp_path: Path, name: str) -> None:
    odd = [
        "run.name='1e-3'",
        "data.root='null'",
        "run.storage='on'",
        "optimizer.weight_decay=1e-20",
        "data.speeds=[1]",
    ]
    config = apply_overrides(Config(), [f"model.name={name}", *odd])
    text = to_yaml(config)
    assert load(tmp_path, text) == config
    for path, section in all_sections(Config):
        if not path.startswith("model"):
            assert all(f"{key}:" in text for key in annotations_of(section))


def test_differences__name_key_old_and_new() -> None:
    new = apply_overrides(Config(), ["train.epochs=3", "data.speeds=[0.9, 1.1]", "train.patience=null"])
    assert differences(Config(), new) == ["data.speeds: (1.0,) -> (0.9, 1.1)", "train.epochs: 100 -> 3"]
    assert differences(new, new) == []


def test_differences__show_keys_that_only_one_model_has() -> None:
    changes = differences(Config(), apply_overrides(Config(), ["model.name=vicreg"]))
    assert "model.name: 'simclr' -> 'vicreg'" in changes
    assert "model.temperature: 0.03 -> (none)" in changes
    assert "model.covariance_weight: (none) -> 0.1" in changes
