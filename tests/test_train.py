import subprocess
import sys
from dataclasses import replace

import pytest

from sslsv import train
from sslsv.config import Config, EvaluationConfig, ResourcesConfig, RunConfig, TrainConfig
from sslsv.data.section import DataConfig
from sslsv.runs.checkpoint import Checkpoint, list_checkpoints, write_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.train import check_data, check_folder, main, parse_arguments, prepare_folder

TRAIN = TrainConfig(batch_size=8)


@pytest.fixture
def config(tmp_path, demo_corpus):
    return Config(
        data=DataConfig(root=str(demo_corpus), train_lists=("voxceleb2_train_list",)),
        train=TRAIN,
        run=RunConfig(storage=str(tmp_path), name="a"),
    )


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path), "a")


def test_prepare_folder__a_new_run_gets_settings_and_an_identity_with_which_it_goes_on(
    config, folder, capsys
):
    prepare_folder(folder, config, is_fresh=False)
    identity = folder.read_json("run.json")
    assert folder.has("config.yml") and len(identity["wandb_id"]) == 12
    prepare_folder(folder, config, is_fresh=False)
    assert "going on with the unfinished run" in capsys.readouterr().err
    assert folder.read_json("run.json") == identity  # so wandb goes on in the same run


LOCAL = replace(TRAIN, sync_batchnorm=False)
TWO = ResourcesConfig(workers=2, hang_minutes=3)


@pytest.mark.parametrize(
    ("there", "here", "difference"),
    [
        ({}, {"resources": TWO}, None),
        ({"train": LOCAL}, {"train": LOCAL, "resources": TWO}, "resources.workers: 1 -> 2"),
        # Each chunk counts as a worker, whoever has it.
        (
            {"train": replace(LOCAL, chunk_size=4)},
            {"train": replace(LOCAL, chunk_size=4), "resources": TWO},
            None,
        ),
        ({}, {"train": TrainConfig(batch_size=16)}, "train.batch_size: 8 -> 16"),
    ],
)
def test_check_folder__settings_that_change_what_is_computed_are_refused(
    there, here, difference, config, folder
):
    prepare_folder(folder, replace(config, **there), is_fresh=False)
    check_folder(folder, replace(config, **here))  # There is no checkpoint yet that could go on.
    write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    if difference is None:
        check_folder(folder, replace(config, **here))
    else:
        with pytest.raises(
            ValueError, match=rf"a holds a run with other settings \({difference}\); .*--fresh"
        ):
            check_folder(folder, replace(config, **here))


def test_prepare_folder__a_run_stopped_before_its_first_checkpoint_gives_its_name_to_another(
    config, folder, tmp_path, capsys
):
    prepare_folder(folder, config, is_fresh=False)
    identity, other = folder.read_json("run.json"), replace(config, seed=3)
    prepare_folder(folder, other, is_fresh=False, command="python -m sslsv.train b.yml")
    assert b"seed: 3" in folder.read("config.yml") and capsys.readouterr().err == ""
    assert folder.read_json("run.json")["wandb_id"] != identity["wandb_id"]
    assert folder.read_json("run.json")["command"] == "python -m sslsv.train b.yml"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # There was nothing to set aside.


def test_check_folder__a_finished_run_and_one_of_another_version_are_refused(config, folder):
    prepare_folder(folder, config, is_fresh=False)
    folder.write_json("summary.json", {"is_finished": True})
    with pytest.raises(ValueError, match="finished run of the same settings"):
        check_folder(folder, config)
    folder.write("config.yml", folder.read("config.yml").replace(b"max_bad_share", b"max_bad_fraction"))
    with pytest.raises(ValueError, match=r"/a holds a run whose .*max_bad_fraction.*--fresh"):
        check_folder(folder, config)


@pytest.mark.parametrize(
    ("is_fresh", "left"),
    [
        (True, "config.yml"),
        (True, "checkpoints"),
        (False, "checkpoints"),
        (True, "summary.json"),
        (False, "summary.json"),
    ],
)
def test_prepare_folder__fresh_or_without_settings_what_was_there_is_set_aside(
    is_fresh, left, config, folder, tmp_path, capsys
):
    if left == "checkpoints":
        write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    else:
        folder.write(left, b"{}")
    prepare_folder(folder, config, is_fresh)
    assert "the run that was there is now a.old-" in capsys.readouterr().err
    assert not list_checkpoints(folder) and not folder.has("summary.json") and folder.has("run.json")
    (old,) = [path for path in tmp_path.iterdir() if path.name.startswith("a.old-")]
    assert (old / left).exists()


def test_prepare_folder__names_the_checkpoint_that_is_used_and_the_damaged_one(config, folder, capsys):
    prepare_folder(folder, config, is_fresh=False)
    write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    damaged = write_checkpoint(folder, Checkpoint(step=20, config="", model={}))
    folder.write(f"checkpoints/{damaged}", b"cut")
    with pytest.warns(UserWarning, match=f"damaged checkpoint .*{damaged}"):
        prepare_folder(folder, config, is_fresh=False)
    assert "from step 10" in capsys.readouterr().err
    folder.delete_folder("checkpoints")
    prepare_folder(folder, config, is_fresh=False)
    assert "from the beginning" in capsys.readouterr().err


def test_prepare_folder__a_run_that_has_settings_has_an_identity(config, folder, monkeypatch):
    write = folder.write

    def die_after_the_first_file(name, content):
        write(name, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "write", die_after_the_first_file)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(folder, config, is_fresh=False)
    monkeypatch.undo()
    assert not folder.has("config.yml")
    prepare_folder(folder, config, is_fresh=False)
    assert folder.has("config.yml") and folder.has("run.json")


def test_check_data__lists_that_are_missing_or_too_short_are_refused(config):
    with pytest.raises(ValueError, match="4096"):
        check_data(replace(config, train=TrainConfig(batch_size=4096)))
    with pytest.raises(FileNotFoundError, match="no_such_trials"):
        check_data(replace(config, evaluation=EvaluationConfig(test=("no_such_trials",))))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.batch_size=32.5"], "should be a whole number"),
        (["run.name=7"], "it should be text: '7' in quotes (on the command line run.name=\"'7'\")"),
        (["data.root=/no/such/folder"], "/no/such/folder"),
        (["data.train_lists=[no_such_list]"], "no_such_list does not exist"),
        (["data.train_lists=[no_such_list]"], "python -m sslsv.prepare_data"),
        (["data.train_lists=[no_such_list]"], "`demo data/demo`"),
        (["resources.workers=3"], "which cannot share train.batch_size (8) equally"),
        (["run.storage=/dev/null"], "/dev/null"),
    ],
)
def test_main__mistakes_are_one_sentence_and_exit_code_2(overrides, sentence, tmp_path, demo_corpus, capsys):
    yaml = tmp_path / "a.yml"
    yaml.write_text(
        f"data: {{root: {demo_corpus}}}\ntrain: {{batch_size: 8}}\nrun: {{storage: {tmp_path}}}\n"
    )
    assert main([str(yaml), *overrides]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and sentence in error and "Traceback" not in error
    assert not (tmp_path / "a").exists()  # nothing is left of a request that was refused


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionError("no cluster at 1.2.3.4"), "error: no cluster at 1.2.3.4\n"),
        (PermissionError(13, "Permission denied", "/x"), "error: [Errno 13] Permission denied: '/x'\n"),
        (TimeoutError(), "error: TimeoutError\n"),
    ],
)
def test_main__what_the_system_refuses_is_one_sentence_too(error, sentence, tmp_path, monkeypatch, capsys):
    def refuse(config, **options):
        raise error

    monkeypatch.setattr(train, "run", refuse)
    (tmp_path / "a.yml").touch()
    assert main([str(tmp_path / "a.yml")]) == 2
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("arguments", [[], ["--fresh"], ["train.epochs=2"]])
def test_main__without_a_config_those_that_there_are_are_named(arguments, tmp_path, monkeypatch, capsys):
    assert main(arguments) == 2
    sentence = "error: no config is named: begin with configs/demo.yml, say; configs/ has barlow_twins.yml, "
    assert capsys.readouterr().err.startswith(sentence)
    monkeypatch.chdir(tmp_path)  # The project's own are found from anywhere.
    assert main(arguments) == 2 and "simclr.yml" in capsys.readouterr().err


COMMANDS = ["train", "tune", "evaluate", "verify", "embed", "export", "profile", "report"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands__a_ctrl_c_while_they_are_imported_ends_them_without_a_traceback(command):
    # It comes with the first import of a module that all of them need.
    code = f"""
import runpy, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "sslsv.{command}":
            raise KeyboardInterrupt
sys.argv = ["-m"]
import sslsv
sys.meta_path.insert(0, Interrupt())
runpy._run_module_as_main("sslsv.{command}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    "line",
    ["c.yml --fresh a=1 b=2", "c.yml a=1 --fresh b=2", "--fresh c.yml a=1 b=2", "c.yml a=1 b=2 --fresh"],
)
def test_parse_arguments__fresh_may_stand_anywhere(line):
    options = parse_arguments(line.split())
    assert (str(options.config), options.overrides, options.fresh) == ("c.yml", ["a=1", "b=2"], True)
