import dataclasses

import pytest

from sslsv import train
from sslsv.config import Config, EvaluationConfig, ResourcesConfig, RunConfig, TrainConfig
from sslsv.data.section import DataConfig
from sslsv.runs.checkpoint import Checkpoint, list_checkpoints, write_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.train import check_data, check_folder, main, parse_arguments, prepare_folder


@pytest.fixture
def config(tmp_path, demo_corpus):
    return Config(
        data=DataConfig(root=str(demo_corpus), train_lists=("voxceleb2_train_list",)),
        train=TrainConfig(batch_size=8),
        run=RunConfig(storage=str(tmp_path), name="a"),
    )


def test_prepare_folder__a_new_run_gets_its_settings_and_identity(config, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, config, is_fresh=False)
    assert folder.has("config.yml")
    assert len(folder.read_json("run.json")["wandb_id"]) == 12


def test_prepare_folder__an_unfinished_run_is_continued(config, tmp_path, capsys):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, config, is_fresh=False)
    identity = folder.read_json("run.json")
    prepare_folder(folder, config, is_fresh=False)
    assert "going on with the unfinished run" in capsys.readouterr().err
    assert folder.read_json("run.json") == identity  # so wandb goes on in the same run


def test_prepare_folder__other_resources_do_not_make_another_run(config, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, config, is_fresh=False)
    check_folder(folder, dataclasses.replace(config, resources=ResourcesConfig(workers=2)))


def test_prepare_folder__another_number_of_workers_is_refused_where_it_shows(config, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    local = dataclasses.replace(config, train=TrainConfig(batch_size=8, sync_batchnorm=False))
    two = dataclasses.replace(local, resources=dataclasses.replace(config.resources, workers=2))
    prepare_folder(folder, local, is_fresh=False)
    with pytest.raises(ValueError, match=r"other settings \(resources.workers: 1 -> 2\); use another"):
        check_folder(folder, two)
    chunked = dataclasses.replace(two, train=dataclasses.replace(local.train, chunk_size=4))
    prepare_folder(folder, dataclasses.replace(chunked, resources=config.resources), is_fresh=True)
    check_folder(folder, chunked)  # each chunk counts as a worker, whoever has it


def test_prepare_folder__other_settings_are_refused_with_the_difference(config, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, config, is_fresh=False)
    with pytest.raises(ValueError, match=r"other settings \(train.batch_size: 8 -> 16\); .*--fresh"):
        check_folder(folder, dataclasses.replace(config, train=TrainConfig(batch_size=16)))


def test_prepare_folder__a_run_of_another_version_is_named_with_the_way_out(config, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, config, is_fresh=False)
    folder.write("config.yml", folder.read("config.yml").replace(b"max_bad_share", b"max_bad_fraction"))
    with pytest.raises(ValueError, match=r"/a holds a run whose .*max_bad_fraction.*--fresh"):
        check_folder(folder, config)


def test_prepare_folder__a_finished_run_is_refused(config, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, config, is_fresh=False)
    folder.write_json("summary.json", {"is_finished": True})
    with pytest.raises(ValueError, match="finished run of the same settings"):
        check_folder(folder, config)


def test_prepare_folder__fresh_keeps_the_old_run(config, tmp_path):
    folder = RunFolder(str(tmp_path), "a")
    prepare_folder(folder, config, is_fresh=False)
    folder.write_json("summary.json", {"is_finished": True})
    prepare_folder(folder, config, is_fresh=True)
    assert not folder.has("summary.json")
    old = [path for path in tmp_path.iterdir() if path.name.startswith("a.old-")]
    assert len(old) == 1 and (old[0] / "summary.json").exists()


@pytest.mark.parametrize("is_fresh", [False, True])
@pytest.mark.parametrize("left", ["checkpoints", "summary.json"])
def test_prepare_folder__weights_without_settings_are_set_aside(is_fresh, left, config, tmp_path, capsys):
    folder = RunFolder(str(tmp_path), "a")
    if left == "checkpoints":
        write_checkpoint(folder, Checkpoint(step=10, config="", model={}))
    else:
        folder.write_json(left, {"is_finished": True})
    prepare_folder(folder, config, is_fresh)
    assert "the run that was there is now a.old-" in capsys.readouterr().err
    assert not list_checkpoints(folder) and not folder.has("summary.json") and folder.has("config.yml")
    (old,) = [path for path in tmp_path.iterdir() if path.name.startswith("a.old-")]
    assert (old / left).exists()


def test_prepare_folder__names_the_checkpoint_that_is_used_and_the_damaged_one(config, tmp_path, capsys):
    folder = RunFolder(str(tmp_path), "a")
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


def test_prepare_folder__a_run_that_has_settings_has_an_identity(config, tmp_path, monkeypatch):
    folder = RunFolder(str(tmp_path), "a")
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


def test_check_data__a_batch_larger_than_the_list_is_refused(config):
    too_large = dataclasses.replace(config, train=TrainConfig(batch_size=4096))
    with pytest.raises(ValueError, match="4096"):
        check_data(too_large)


def test_check_data__a_missing_test_list_is_refused(config):
    with pytest.raises(FileNotFoundError, match="no_such_trials"):
        check_data(dataclasses.replace(config, evaluation=EvaluationConfig(test=("no_such_trials",))))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.batch_size=32.5"], "should be a valid integer"),
        (["data.root=/no/such/folder"], "/no/such/folder"),
        (["data.train_lists=[no_such_list]"], "no_such_list"),
        (["resources.workers=3"], "which cannot share train.batch_size (8) equally"),
    ],
)
def test_main__mistakes_are_one_sentence_and_exit_code_2(overrides, sentence, tmp_path, demo_corpus, capsys):
    yaml = tmp_path / "a.yml"
    yaml.write_text(
        f"data: {{root: {demo_corpus}}}\ntrain: {{batch_size: 8}}\nrun: {{storage: {tmp_path}}}\n"
    )
    assert main([str(yaml), *overrides]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and "Traceback" not in error
    assert not (tmp_path / "a").exists()  # nothing is left of a request that was refused


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionError("no cluster at 1.2.3.4"), "error: no cluster at 1.2.3.4\n"),
        (PermissionError(13, "Permission denied", "/x"), "error: [Errno 13] Permission denied: '/x'\n"),
        (TimeoutError(), "error: TimeoutError\n"),
    ],
)
def test_main__what_the_system_refuses_is_one_sentence_and_exit_code_2(
    error, sentence, tmp_path, monkeypatch, capsys
):
    def refuse(config, *, is_fresh):
        raise error

    monkeypatch.setattr(train, "run", refuse)
    (tmp_path / "a.yml").touch()
    assert main([str(tmp_path / "a.yml")]) == 2
    assert capsys.readouterr().err == sentence


def test_main__storage_that_is_no_folder_is_refused(tmp_path, config, capsys, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "a.yml").touch()
    monkeypatch.setattr(
        train, "run", lambda config, is_fresh: prepare_folder(folder_of(config), config, is_fresh)
    )
    assert main([str(tmp_path / "a.yml"), f"run.storage={tmp_path / 'file'}"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def folder_of(config):
    return RunFolder(config.run.storage, config.run.name)


@pytest.mark.parametrize(
    "line",
    ["c.yml --fresh a=1 b=2", "c.yml a=1 --fresh b=2", "--fresh c.yml a=1 b=2", "c.yml a=1 b=2 --fresh"],
)
def test_parse_arguments__fresh_may_stand_anywhere(line):
    options = parse_arguments(line.split())
    assert (str(options.config), options.overrides, options.fresh) == ("c.yml", ["a=1", "b=2"], True)
    assert parse_arguments(["c.yml"]).overrides == []
