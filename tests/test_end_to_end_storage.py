"""Test a run in object storage with a packed corpus there: killed, resumed, and without leaked secrets."""

import re
import urllib.parse
from pathlib import Path

import pytest

from sslsv.runs.folder import RunFolder
from tests.object_storage import SECRET_KEY
from tests.processes import is_loopback, listening_addresses
from tests.training_command import Training, assert_same_weights, final, kill, title

SECRETS = {
    "WANDB_API_KEY": "FAKEwandbFAKEwandbFAKEwandbFAKEwandb0000",
    "AWS_SESSION_TOKEN": "FAKE-session-token",
    "HF_TOKEN": "FAKE-other-token",
}


class StoredTraining(Training):
    """Train with run folder and corpus in object storage; wandb is on, in offline mode."""

    def __init__(self, tmp_path, storage, corpus, name):
        where = (f"run.storage={storage}", f"data.root={corpus}", "run.wandb=offline")
        super().__init__(tmp_path, corpus, name, *where, epochs=5)
        self.folder = RunFolder(storage, name)


def texts(folder: Path) -> dict[str, bytes]:
    """Return the content of every regular file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_train__in_object_storage_is_the_local_run_even_killed_and_gives_no_secret_away(
    tmp_path, demo_corpus, packed_demo_corpus, object_storage, monkeypatch, ray_home
):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(
        "RAY_TRAIN_ENABLE_STATE_TRACKING", "1"
    )  # would pass the job's data to an actor that others can query
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb_files"))
    (tmp_path / "wandb_files").mkdir()
    whole = Training(tmp_path, demo_corpus, "whole", epochs=5)
    code, output = whole.wait()
    assert code == 0, output

    storage, corpus = object_storage.folder(), object_storage.upload(packed_demo_corpus)
    object_storage.requests.clear()
    killed = StoredTraining(tmp_path, storage, corpus, "run")
    killed.wait_for_step(7)
    pids = [killed.process.pid, *killed.pids()]
    trainers = set(killed.pids("SSLSV_ROLE=trainer"))
    titles = " ".join(title(pid) for pid in pids)
    assert "TrainController" in titles and "TrainStateActor" not in titles, titles
    addresses = listening_addresses(set(pids) - trainers)
    for pid in pids:
        kill(pid)
    first_output, _ = killed.process.communicate(timeout=30)
    assert len(addresses) > 5 and all(map(is_loopback, addresses)), addresses
    token = (ray_home / ".ray" / "auth_token").read_text().strip()

    again = StoredTraining(tmp_path, storage, corpus, "run")
    code, output = again.wait()
    assert code == 0, output
    assert re.search(r"going on with the unfinished run in s3://.* from step \d+", output)
    assert_same_weights(final(whole.folder), final(again.folder))
    assert again.folder.read_json("summary.json")["is_finished"]
    assert b"<svg" in again.folder.read("report.html")
    assert not object_storage.names(f"{again.folder.location}/ray")
    shards = [r for r in object_storage.requests if ".int16" in r.path and r.method == "GET"]
    assert shards and all(request.span for request in shards)

    run = {name: again.folder.read(name) for name in object_storage.names(again.folder.location)}
    assert {"config.yml", "run.json", "metrics.jsonl", "summary.json", "report.html"} <= run.keys()
    logs = {path: text for path, text in texts(ray_home).items() if not path.endswith("/.ray/auth_token")}
    assert any("raylet" in path for path in logs)
    written = run | logs | texts(tmp_path) | {"terminal": (first_output + output).encode()}
    assert any(path.endswith(".wandb") for path in written)
    for secret in (SECRET_KEY, urllib.parse.quote(SECRET_KEY, safe=""), token, *SECRETS.values()):
        leaks = [name for name, content in written.items() if secret.encode() in content]
        assert not leaks, f"{secret[:8]}... is in {leaks}"
