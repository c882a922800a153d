import contextlib
import shutil
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest

from sslsv import train
from sslsv.config import Config, EvaluationConfig, ResourcesConfig, RunConfig, TrainConfig
from sslsv.data.section import DataConfig
from sslsv.evaluation.overlap import TrainedOn
from sslsv.runs.checkpoint import Checkpoint, list_checkpoints, write_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.settings import ConfigError, Failed
from sslsv.train import check_data, check_folder, find_leaks, main, prepare_folder
from tests.codecs import speech, write_codec

TRAIN = TrainConfig(batch_size=8)


@pytest.fixture
def config(tmp_path, demo_corpus):
    return Config(
        data=DataConfig(root=str(demo_corpus), train_lists=("voxceleb2_train_list",)),
        train=TRAIN,
        run=RunConfig(storage=str(tmp_path), name="a"),
    )


@pytest.fixture
def manifest(config):
    return check_data(config)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path), "a")


def test_prepare_folder__a_new_run_gets_settings_and_an_identity_with_which_it_goes_on(
    config, manifest, folder, capsys
):
    prepare_folder(folder, config, manifest, is_fresh=False)
    identity = folder.read_json("run.json")
    assert folder.has("config.yml") and len(identity["wandb_id"]) == 12
    write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    prepare_folder(folder, config, manifest, is_fresh=False)
    assert "going on with the unfinished run" in capsys.readouterr().err
    assert folder.read_json("run.json") == identity  # so wandb goes on in the same run


LOCAL = replace(TRAIN, sync_batchnorm=False)
TWO = ResourcesConfig(workers=2, hang_minutes=3)


@pytest.mark.parametrize(
    ("there", "here", "difference"),
    [
        ({}, {"resources": TWO}, None),
        (
            {"train": LOCAL},
            {"train": LOCAL, "resources": TWO},
            "resources.workers: 1 -> 2, and with it batch statistics",
        ),
        ({}, {"train": TrainConfig(batch_size=16)}, "train.batch_size: 8 -> 16"),
        ({}, {"train": replace(TRAIN, recompute=True, log_every_steps=1)}, None),
        ({}, {"evaluation": EvaluationConfig(batch_seconds=1)}, None),
    ],
)
def test_check_folder__settings_that_change_what_is_computed_are_refused(
    there, here, difference, config, manifest, folder
):
    prepare_folder(folder, replace(config, **there), manifest, is_fresh=False)
    check_folder(folder, replace(config, **here), manifest)  # allowed: there is no checkpoint to resume
    write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    sentence = rf"a holds a run with other settings \({difference}\); .*--fresh"
    with pytest.raises(ValueError, match=sentence) if difference else contextlib.nullcontext():
        check_folder(folder, replace(config, **here), manifest)


def test_prepare_folder__a_run_stopped_before_its_first_checkpoint_gives_its_name_to_another(
    config, manifest, folder, tmp_path, capsys
):
    prepare_folder(folder, config, manifest, is_fresh=False)
    identity, other = folder.read_json("run.json"), replace(config, seed=3)
    prepare_folder(folder, other, manifest, is_fresh=False, command="python -m sslsv.train b.yml")
    assert b"seed: 3" in folder.read("config.yml") and capsys.readouterr().err == ""
    assert folder.read_json("run.json")["wandb_id"] != identity["wandb_id"]
    assert folder.read_json("run.json")["command"] == "python -m sslsv.train b.yml"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # there was no run to set aside


def test_prepare_folder__a_run_stopped_before_its_first_checkpoint_begins_anew_with_the_lists_of_now(
    config, manifest, folder, tmp_path, demo_corpus
):
    root = shutil.copytree(demo_corpus, tmp_path / "corpus")
    config = replace(config, data=replace(config.data, root=str(root)))
    prepare_folder(folder, config, manifest, is_fresh=False)
    identity, lines = folder.read_json("run.json"), (root / "voxceleb2_train_list").read_text().splitlines()
    (root / "voxceleb2_train_list").write_text("\n".join(lines[1:]))
    prepare_folder(folder, config, check_data(config), is_fresh=False)
    assert TrainedOn.read(folder, str(root)).is_of(check_data(config))
    assert folder.read_json("run.json")["wandb_id"] == identity["wandb_id"]
    write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    check_folder(folder, config, check_data(config))


def test_check_folder__another_validation_list_of_the_same_name_is_refused(
    config, manifest, folder, tmp_path, demo_corpus
):
    trials = tmp_path / "chosen"
    lines = (demo_corpus / "trials").read_text().splitlines()
    config = replace(config, evaluation=EvaluationConfig(validation=str(trials)))
    for kept, sentence in ((lines, None), (lines[1:], "a holds a run with other validation or train lists")):
        trials.write_text("\n".join(kept))
        if sentence is None:
            prepare_folder(folder, config, manifest, is_fresh=False)
            write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
        with pytest.raises(ValueError, match=sentence) if sentence else contextlib.nullcontext():
            check_folder(folder, config, manifest)


def test_check_folder__a_finished_run_and_one_of_another_version_are_refused(config, manifest, folder):
    prepare_folder(folder, config, manifest, is_fresh=False)
    folder.write_json("summary.json", {"is_finished": True})
    with pytest.raises(ValueError, match="finished run of the same settings"):
        check_folder(folder, config, manifest)
    folder.write("config.yml", folder.read("config.yml").replace(b"max_bad_share", b"max_bad_fraction"))
    with pytest.raises(ValueError, match=r"/a holds a run whose .*max_bad_fraction.*--fresh"):
        check_folder(folder, config, manifest)


@pytest.mark.parametrize(("file", "kind"), [("sweep.json", "sweep"), ("loop.yml", "loop")])
def test_check_folder__of_a_sweep_or_loop_is_refused(file, kind, config, manifest, folder):
    folder.write(file, b"{}")
    with pytest.raises(ValueError, match=f"a holds a {kind}; use another run.name"):
        check_folder(folder, config, manifest)


@pytest.mark.parametrize(
    ("is_fresh", "left"),
    [(True, "config.yml"), (True, "sweep.json"), (False, "checkpoints"), (False, "summary.json")],
)
def test_prepare_folder__fresh_or_without_settings_what_was_there_is_set_aside(
    is_fresh, left, config, manifest, folder, tmp_path, capsys
):
    if left == "checkpoints":
        write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    else:
        folder.write(left, b"{}")
    prepare_folder(folder, config, manifest, is_fresh)
    assert "the old folder is now named a.old-" in capsys.readouterr().err
    assert not list_checkpoints(folder) and not folder.has("summary.json") and folder.has("run.json")
    (old,) = [path for path in tmp_path.iterdir() if path.name.startswith("a.old-")]
    assert (old / left).exists()


def test_prepare_folder__names_the_checkpoint_that_is_used_and_the_damaged_one(
    config, manifest, folder, capsys
):
    prepare_folder(folder, config, manifest, is_fresh=False)
    write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    damaged = write_checkpoint(folder, Checkpoint(step=20, config="", model={}))
    folder.write(f"checkpoints/{damaged}", b"cut")
    with pytest.warns(UserWarning, match=f"damaged checkpoint .*{damaged}"):
        prepare_folder(folder, config, manifest, is_fresh=False)
    assert "from step 10" in capsys.readouterr().err
    for name in folder.names("checkpoints"):
        folder.write(f"checkpoints/{name}", b"cut")
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        prepare_folder(folder, config, manifest, is_fresh=False)
    assert "from the beginning" in capsys.readouterr().err


def test_run__fp16_without_a_gpu_is_refused_before_the_folder_changes(
    config, manifest, folder, tmp_path, monkeypatch
):
    prepare_folder(folder, config, manifest, is_fresh=False)
    before = folder.read("config.yml")
    monkeypatch.setattr(
        "sslsv.cluster.connect.connection", lambda asked: contextlib.nullcontext(replace(asked, gpu=False))
    )
    fp16 = replace(config, train=replace(TRAIN, precision="fp16"))
    with pytest.raises(ConfigError, match=r"^train\.precision is 'fp16', which needs a GPU"):
        train.run(fp16, is_fresh=True)
    assert list(tmp_path.glob("a*")) == [tmp_path / "a"] and folder.read("config.yml") == before


def finish(folder, config, manifest, **summary):
    prepare_folder(folder, config, manifest, is_fresh=False)
    write_checkpoint(folder, Checkpoint(step=400, config="", model={}))
    folder.write_json("summary.json", {"is_finished": True, "stop_reason": None} | summary)


def test_extend__a_finished_run_goes_on_with_more_epochs_and_says_what_that_changes(
    config, manifest, folder, capsys
):
    finish(folder, config, manifest)
    longer = replace(config, train=replace(TRAIN, epochs=200))
    with pytest.raises(ValueError, match=r"\(train.epochs: 100 -> 200\); .* --extend to continue .*--fresh"):
        check_folder(folder, longer, manifest)
    with pytest.raises(
        ValueError, match="same settings; .*--extend to continue this run if only train.epochs"
    ):
        check_folder(folder, config, manifest, extends=True)
    check_folder(folder, longer, manifest, extends=True)
    prepare_folder(folder, longer, manifest, is_fresh=False)
    printed = capsys.readouterr().err
    assert "going on with the finished run in " in printed and "from step 400" in printed
    assert "train.epochs is now 200 instead of 100" in printed
    for extends in (True, False):  # after an interruption, the command goes on with or without the switch
        check_folder(folder, longer, manifest, extends)


@pytest.mark.parametrize(
    ("there", "here", "stop_reason", "sentence"),
    [
        ({"epochs": 200}, {"epochs": 100}, None, r"\(train.epochs: 200 -> 100\)"),
        ({}, {"epochs": 200, "patience": 3}, None, r"train.epochs: 100 -> 200; train.patience"),
        ({}, {"epochs": 200}, "Stopped early.", "ended early, .* can't go on: Stopped early"),
    ],
)
def test_extend__nothing_but_more_epochs_of_a_run_that_did_not_end_early(
    there, here, stop_reason, sentence, config, manifest, folder
):
    config = replace(config, evaluation=EvaluationConfig(held_out_speakers=2))
    finish(folder, replace(config, train=replace(TRAIN, **there)), manifest, stop_reason=stop_reason)
    sentence += f".*; use another run.name \\(encoder.init={folder.location}"
    with pytest.raises(ValueError, match=sentence):
        check_folder(folder, replace(config, train=replace(TRAIN, **here)), manifest, extends=True)


def test_extend__without_a_run_it_is_refused(config, manifest, folder):
    with pytest.raises(ValueError, match="a holds no run that --extend could continue"):
        check_folder(folder, config, manifest, extends=True)


def test_check_folder__data_may_move_while_the_lists_hold_the_same(
    config, manifest, folder, tmp_path, demo_corpus, capsys
):
    prepare_folder(folder, config, manifest, is_fresh=False)
    write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    root = shutil.copytree(demo_corpus, tmp_path / "scratch")
    (root / "voxceleb2_train_list").rename(root / "renamed")
    data = replace(config.data, root=str(root), train_lists=("renamed",))
    moved = replace(config, data=data)
    check_folder(folder, moved, check_data(moved))
    prepare_folder(folder, moved, check_data(moved), is_fresh=False)
    assert f"its data has moved from {demo_corpus} to {root}" in capsys.readouterr().err
    lines = (root / "renamed").read_text().splitlines(keepends=True)
    for changed in (lines[1:], [*lines[1:], lines[0]], [f"x{lines[0]}", *lines[1:]]):
        (root / "renamed").write_text("".join(changed))
        sentence = r"a holds a run whose train lists had other .*: 32 .* then, 3[12] "
        with pytest.raises(ValueError, match=sentence):
            check_folder(folder, moved, check_data(moved))


def test_prepare_folder__what_test_lists_share_with_the_training_is_said_and_kept(
    config, folder, tmp_path, demo_corpus, capsys
):
    lines = [line.split()[1:] for line in (demo_corpus / "trials").read_text().splitlines()]
    paths = sorted({path for pair in lines for path in pair})
    (tmp_path / "leaking").write_text("".join(f"voxceleb1 voxceleb1/{path}\n" for path in paths[:10]))
    data = replace(config.data, train_lists=("voxceleb2_train_list", str(tmp_path / "leaking")))
    config = replace(config, data=data, evaluation=EvaluationConfig(test=("trials",)))
    prepare_folder(folder, config, check_data(config), is_fresh=False)
    printed = capsys.readouterr().err
    assert "warning: 3 of 3 speakers of trials were in training: " in printed
    assert "warning: 10 of 12 paths of recordings of trials were in training: voxceleb1/" in printed
    assert len(folder.read_json("run.json")["warnings"]) == 2
    write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    prepare_folder(folder, config, check_data(config), is_fresh=False)
    assert "speakers of trials were in training" in capsys.readouterr().err


def test_find_leaks__held_out_speakers_of_another_seed_were_heard_by_the_run_before(
    config, folder, small_run, demo_corpus
):
    for seed, is_told in ((1717, False), (1718, True)):
        again = replace(config, seed=seed, encoder=replace(config.encoder, init=small_run))
        again = replace(again, evaluation=EvaluationConfig(held_out_speakers=3))
        told = find_leaks(again, folder)
        assert any("of validation were in training" in sentence for sentence in told) == is_told, (seed, told)


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (0, r"32 of 32 recordings of the train lists .* can't be read, the first: \S+ \(0 bytes\) is not"),
        (1, r"31 of 32 recordings .* can't be read, the first: .* does not exist\. Correct data.root"),
        (30, None),
    ],
)
def test_check_data__recordings_that_are_not_there_are_named_and_counted(
    kept, sentence, config, tmp_path, demo_corpus, capsys
):
    root = shutil.copytree(demo_corpus, tmp_path / "corpus")
    paths = [line.split()[1] for line in (root / "voxceleb2_train_list").read_text().splitlines()]
    for path in paths[max(kept, 1) :]:
        (root / path).unlink()
    if not kept:
        (root / paths[0]).write_bytes(b"")
    with pytest.raises(ValueError, match=sentence) if sentence else contextlib.nullcontext():
        check_data(replace(config, data=replace(config.data, root=str(root))))
    if sentence is None:
        told = "warning: 2 of 32 recordings of the train lists that were tried can't"
        assert told in capsys.readouterr().err


def test_check_data__a_test_list_of_which_nothing_can_be_read_is_refused_before_the_training(
    config, tmp_path, demo_corpus
):
    root = shutil.copytree(demo_corpus, tmp_path / "corpus")
    for path in (root / "voxceleb1").rglob("*.wav"):
        path.write_text("nothing")
    data, evaluation = replace(config.data, root=str(root)), EvaluationConfig(test=("trials",))
    with pytest.raises(ValueError, match=r"12 of 12 recordings of trials .*, the first: .* is not audio"):
        check_data(replace(config, data=data, evaluation=evaluation))


def test_check_data__a_codec_that_costs_speed_is_said_once(config, tmp_path, demo_corpus, capsys):
    root = shutil.copytree(demo_corpus, tmp_path / "corpus")
    for name, is_slow in (("a.m4a", True), ("a.mp3", False)):
        for i in range(8):
            write_codec(root / f"{is_slow}{i}", name, speech(1))
        (root / "list").write_text("".join(f"s{i % 4} {is_slow}{i}/{name}\n" for i in range(8)))
        check_data(replace(config, data=replace(config.data, root=str(root), train_lists=("list",))))
        printed = capsys.readouterr().err
        assert printed.count("prepare_data convert FOLDER") == is_slow


def test_check_data__a_run_that_goes_on_does_not_need_the_encoder_that_it_started_from(config):
    config = replace(config, encoder=replace(config.encoder, init="/deleted"))
    check_data(config, is_resumed=True)
    with pytest.raises((ValueError, OSError), match="/deleted"):
        check_data(config)


def test_check_data__says_as_what_lists_are_read(config, tmp_path, capsys):
    lines = (tmp_path / config.data.root / "trials").read_text().splitlines()
    turned = [" ".join([*line.split()[1:], line[0]]) for line in lines]
    (tmp_path / "mine").write_text("\n".join(turned))
    check_data(replace(config, evaluation=EvaluationConfig(test=(str(tmp_path / "mine"),))))
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ") and "is read as `enrolment test target` lines" in note


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.batch_size=32.5"], "should be a whole number"),
        (["data.root=/no/such/folder"], "/no/such/folder"),
        (["data.train_lists=[no_such_list]"], "no_such_list does not exist"),
        (["data.train_lists=[no_such_list]"], "`sslsv prepare_data` makes them"),
        (["data.train_lists=[no_such_list]"], "`demo data/demo`"),
        (["encoder={name: speech_transformer, front_frozen: false, lora_rank: 4}"], "encoder.lora_rank is 4"),
        (["resources.workers=3"], "which cannot share train.batch_size (8) equally"),
        (["train.batch_size=4096"], "4096"),
        (["evaluation.test=[no_such_trials]"], "no_such_trials"),
        (["run.storage=/dev/null"], "/dev/null"),
    ],
)
def test_main__mistakes_are_one_sentence_and_exit_code_2(overrides, sentence, tmp_path, demo_corpus, capsys):
    yaml = tmp_path / "a.yml"
    text = f"data: {{root: {demo_corpus}}}\ntrain: {{batch_size: 8}}\nrun: {{storage: {tmp_path}}}\n"
    yaml.write_text(text)
    assert main([str(yaml), *overrides]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and sentence in error and "Traceback" not in error
    assert not (tmp_path / "a").exists()  # a refused request leaves no files


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/x"), 2, "error: [Errno 13] Permission denied: '/x'\n"),
        (TimeoutError(), 2, "error: TimeoutError\n"),
        (Failed("worker 0 failed: no memory"), 1, "error: worker 0 failed: no memory\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from the last checkpoint\n"),
        (SystemExit(15), 130, "stopped; the same command goes on from the last checkpoint\n"),  # SIGTERM
    ],
)
def test_main__what_the_system_refuses_is_one_sentence_too(
    error, code, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train, "run", mock.Mock(side_effect=error))
    (tmp_path / "a.yml").touch()
    assert main([str(tmp_path / "a.yml")]) == code
    assert capsys.readouterr().err == sentence
    assert main([str(tmp_path / "a.yml"), "--fresh"]) == code  # would restart from step 0 each time
    assert capsys.readouterr().err == sentence.replace("same command", "same command without --fresh")


@pytest.mark.parametrize("arguments", [["--fresh"], ["train.epochs=2"]])
def test_main__without_a_config_those_that_there_are_are_named(arguments, tmp_path, monkeypatch, capsys):
    assert main(arguments) == 2
    sentence = "error: no config is named: try configs/demo.yml first; configs/ has barlow_twins.yml, "
    assert capsys.readouterr().err.startswith(sentence)
    monkeypatch.chdir(tmp_path)  # the project's configs are found from any folder
    assert main(arguments) == 2 and "simclr.yml" in capsys.readouterr().err


@pytest.mark.parametrize(("started", "command"), [("/bin/sslsv", "__main__"), ("-m", "train")])
def test_commands__a_ctrl_c_while_they_are_imported_ends_them_without_a_traceback(started, command):
    # The interruption comes at the first import of a module that all commands need.
    code = f"""
import runpy, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "sslsv.{command}":
            raise KeyboardInterrupt
sys.argv = ["{started}"]
import sslsv
sys.meta_path.insert(0, Interrupt())
runpy._run_module_as_main("sslsv.{command}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")
