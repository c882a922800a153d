import pytest

from sslsv.runs.folder import RunFolder
from sslsv.runs.log import RunLog, wandb_environment, wandb_mode


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    folder.write_json("run.json", {"wandb_id": "abc123"})
    return folder


def open_log(folder, first_step=0, wandb="disabled", tensorboard=False):
    config = {"run": {"tensorboard": tensorboard, "wandb_project": "p"}}
    return RunLog(folder, first_step=first_step, config=config, wandb_mode=wandb)


def test_run_log__steps_that_are_done_again_are_not_there_twice(folder):
    log = open_log(folder)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.5})
    log = open_log(folder, 2)  # the checkpoint is of step 2
    log.write({"step": 3, "loss": 0.25})
    assert [(r["step"], r["loss"]) for r in folder.metrics()] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_run_log__object_storage_gets_urgent_records_at_once_and_all_at_the_end(object_storage):
    folder = RunFolder(object_storage.folder(), "run")
    log = open_log(folder)
    log.write({"step": 1})
    log.write({"step": 2}, is_urgent=False)
    assert [record["step"] for record in folder.metrics()] == [1]
    log.write({"step": 3})
    log.write({"step": 4}, is_urgent=False)
    assert [record["step"] for record in folder.metrics()] == [1, 2, 3]
    log.close()
    assert [record["step"] for record in folder.metrics()] == [1, 2, 3, 4]


def test_run_log__tensorboard_gets_every_number(folder, tmp_path):
    log = open_log(folder, tensorboard=True)
    log.write({"step": 1, "loss": 0.5, "notice": "text"})
    log.close()
    events = list((tmp_path / "run" / "tensorboard").iterdir())
    assert len(events) == 1 and b"loss" in events[0].read_bytes() and b"notice" not in events[0].read_bytes()


@pytest.mark.slow
def test_run_log__a_resumed_run_goes_on_in_the_same_wandb_run(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for step in (1, 2):
        log = open_log(folder, step - 1, wandb="offline")
        log.write({"step": step, "loss": 0.5})
        assert log.wandb.id == "abc123"
        log.close()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*-abc123"))


def test_run_log__a_wandb_that_fails_kills_no_run_and_is_told_once(folder, monkeypatch):
    import wandb

    def init(**values):
        raise wandb.errors.CommError("no\nnetwork")

    monkeypatch.setattr(wandb, "init", init)
    log = open_log(folder, wandb="online")
    for step in (1, 2):
        log.write({"step": step, "notice": "It has collapsed."})
    notices = [record["notice"] for record in folder.metrics()]
    sentence = "wandb can't be used online: no network; the run continues without it."
    assert notices == [f"{sentence} It has collapsed.", "It has collapsed."]


def test_wandb_mode__the_setting_then_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    for asked in ("offline", "dryrun"):  # two names of one mode
        monkeypatch.setenv("WANDB_MODE", asked)
        assert (wandb_mode("disabled"), wandb_mode("auto")) == ("disabled", "offline")


def test_wandb_environment__has_the_users_variables_but_not_this_process_own(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_SERVICE", "NOT_WANDB_X"):
        monkeypatch.setenv(name, "k")
    found = wandb_environment()
    assert found["WANDB_API_KEY"] == "k" and not {"WANDB_SERVICE", "NOT_WANDB_X"} & set(found)
