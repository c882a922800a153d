import json
import re

import pytest

from sslsv.runs.folder import RunFolder
from sslsv.runs.log import RunLog, wandb_environment, wandb_mode


def open_log(folder, first_step, wandb="disabled", tensorboard=False):
    return RunLog(
        folder,
        first_step=first_step,
        config={"seed": 1},
        use_tensorboard=tensorboard,
        wandb_mode=wandb,
        wandb_project="p",
    )


def test_run_log__steps_that_are_done_again_are_not_there_twice(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    log = open_log(folder, 0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.5})
    log = open_log(folder, 2)  # the checkpoint was of step 2
    log.write({"step": 3, "loss": 0.25})
    assert [(r["step"], r["loss"]) for r in folder.metrics()] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_run_log__metrics_stay_valid_json(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    open_log(folder, 0).write({"step": 1, "loss": float("nan"), "gradient_norm": float("inf")})

    def refuse(constant):
        raise AssertionError(constant)

    line = folder.read("metrics.jsonl").decode()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "loss": None, "gradient_norm": None}


def test_run_log__tensorboard_gets_every_number(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    log = open_log(folder, 0, tensorboard=True)
    log.write({"step": 1, "loss": 0.5, "notice": "text"})
    log.close()
    events = list((tmp_path / "run" / "tensorboard").iterdir())
    assert len(events) == 1 and b"loss" in events[0].read_bytes() and b"notice" not in events[0].read_bytes()


@pytest.mark.slow
def test_run_log__a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = RunFolder(str(tmp_path), "run")
    folder.write_json("run.json", {"wandb_id": "abc123"})
    for step in (1, 2):
        log = open_log(folder, step - 1, wandb="offline")
        log.write({"step": step, "loss": 0.5})
        assert log.wandb.id == "abc123"
        log.close()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*-abc123"))


def test_wandb_mode__setting_then_environment_then_the_users_note(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode("disabled") == "disabled"
    assert wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert wandb_mode("auto") == "offline"


@pytest.mark.parametrize(
    ("asked", "broken", "sentences", "gets_a_run"),
    [
        ("online", {"online"}, [r"online: no network; the run goes on offline"], True),
        (
            "online",
            {"online", "offline"},
            [r"goes on offline", r"offline: no network; .* without wandb"],
            False,
        ),
        ("offline", {"offline"}, [r"offline: no network; the run goes on without wandb"], False),
        ("online", set(), [], True),
    ],
)
def test_run_log__a_wandb_that_fails_kills_no_run(
    tmp_path, monkeypatch, asked, broken, sentences, gets_a_run
):
    import wandb

    def init(*, mode, **values):
        if mode in broken:
            raise wandb.errors.CommError("no\nnetwork")
        return object()

    monkeypatch.setattr(wandb, "init", init)
    folder = RunFolder(str(tmp_path), "run")
    folder.write_json("run.json", {"wandb_id": "abc123"})
    log = open_log(folder, 0, wandb=asked)
    told = folder.read("notices.log").decode().splitlines() if folder.has("notices.log") else []
    assert (log.wandb is not None) == gets_a_run
    assert len(told) == len(sentences)
    assert all(re.search(sentence, text) for sentence, text in zip(sentences, told, strict=True))


def test_wandb_environment__has_the_users_variables_but_not_this_process_own(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_SERVICE", "2-1-tcp-localhost-1")
    monkeypatch.setenv("NOT_WANDB_X", "x")
    found = wandb_environment()
    assert found["WANDB_API_KEY"] == "k"
    assert not {"WANDB_SERVICE", "NOT_WANDB_X"} & set(found)


@pytest.mark.slow
def test_wandb_mode__wandb_offline_in_this_folder_is_honoured(tmp_path):
    import os
    import subprocess
    import sys

    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment["PYTHONPATH"] = os.getcwd()
    code = "from sslsv.runs.log import wandb_mode; print(wandb_mode('auto'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["offline"]
