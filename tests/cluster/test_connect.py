"""Joining and starting Ray, its token, shared storage, and what an autoscaler is asked for."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sslsv.cluster import connect
from sslsv.cluster.capacity import CapacityError
from sslsv.cluster.connect import Cluster, check_address, keep_token_private
from sslsv.config import ResourcesConfig
from tests.listening import is_loopback, listening_addresses
from tests.local_cluster import local_cluster
from tests.training_command import Training

CONNECT = """
import os, ray, sys
from sslsv.cluster.connect import connect
connect()
print(ray.get(ray.remote(lambda: os.environ.get("RAY_AUTH_MODE")).remote()))
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1"])
def test_check_address__a_dead_cluster_is_a_sentence_at_once(address):
    with pytest.raises(CapacityError, match="where no Ray cluster answers .*unset RAY_ADDRESS"):
        check_address(address)


@pytest.fixture
def token_file(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o644, 0o600), (0o400, 0o400)])
def test_keep_token_private__closes_the_file_before_ray_writes_it(before, after, token_file):
    if before is not None:
        token_file.parent.mkdir()
        token_file.write_text("a token")
        token_file.chmod(before)
    keep_token_private()
    assert token_file.stat().st_mode & 0o777 == after
    assert token_file.read_text() == ("a token" if before is not None else "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_AUTH_MODE", "disabled"),
        ("RAY_AUTH_TOKEN", "a token"),
        ("RAY_AUTH_TOKEN_PATH", "/run/secrets/token"),
        ("RAY_ADDRESS", "10.0.0.1:6379"),
    ],
)
def test_keep_token_private__makes_no_file_that_ray_does_not_ask_for(token_file, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not token_file.parent.exists()


def test_keep_token_private__a_home_that_cannot_hold_it_is_a_sentence(token_file):
    token_file.parent.write_text("no folder")
    with pytest.raises(OSError, match="can't be kept in .*auth_token .*set HOME to a folder"):
        keep_token_private()


def size(cpus, coming=0, has_autoscaler=True):
    machines = {"0": {"CPU": cpus}}
    return Cluster(machines, machines, set(), coming, has_autoscaler)


@pytest.mark.parametrize(
    ("looks", "is_found", "said"),
    [
        ([size(2)], True, ""),
        ([size(1, has_autoscaler=False), size(2)], False, ""),
        ([size(1)], False, ""),  # nothing is begun for the request
        (
            [size(1), size(1, coming=1), size(2)],
            True,
            "waiting for the autoscaler, which adds machines: 2 tr",
        ),
        ([size(1, coming=1), size(1)], False, "waiting for"),  # they were not enough
    ],
)
def test_find_share__waits_while_machines_are_being_started(looks, is_found, said, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(connect, "GROWTH_SECONDS", 0.2)
    monkeypatch.setattr(connect, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(connect, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(connect, "look", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    with contextlib.nullcontext() if is_found else pytest.raises(CapacityError):
        assert connect._find_share(ResourcesConfig(workers=2), waits_for_growth=True).data_tasks == 2
    assert asked[0] == [{"CPU": 1.0}] * 2 and said in capsys.readouterr().err


def start_connected(**environment):
    return subprocess.Popen(
        [sys.executable, "-c", CONNECT],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pids_at(home):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"HOME={home}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                yield int(pid)


@pytest.mark.slow
def test_connect__starts_a_cluster_on_loopback_that_lets_in_only_who_has_its_private_token(ray_home):
    with start_connected() as owner:
        assert owner.stdout.readline() == "token\n", owner.communicate()[1]
        address = owner.stdout.readline().strip()
        found = listening_addresses(pids_at(ray_home))
        assert len(found) > 5 and all(map(is_loopback, found)), found
        token = ray_home / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) > 30

        output, _ = start_connected(RAY_ADDRESS=address, RAY_AUTH_MODE="token").communicate(timeout=60)
        assert output == f"token\n{address}\n"
        _, errors = start_connected(RAY_ADDRESS=address).communicate(timeout=120)
        assert f"CapacityError: the Ray cluster at {address} does not answer, or does not let" in errors
        _, errors = start_connected(
            RAY_ADDRESS=address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64
        ).communicate(timeout=120)
        assert "does not let this process in; if it asks for a token, set RAY_AUTH_MODE=token" in errors
        owner.communicate(timeout=60)


@pytest.mark.slow
def test_train__storage_that_one_machine_alone_sees_is_refused(tmp_path, demo_corpus):
    """The command runs where a file system is mounted that the machines of the cluster do not see."""
    (tmp_path / "runs").mkdir()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        # Ordinary users and most containers may not make one.
        pytest.skip("no mount namespaces here")
    mount = f"mount -t tmpfs tmpfs {tmp_path}/runs && exec "
    script = f'{mount}{sys.executable} -m sslsv.train {{yaml}} "$@"'
    command = ("unshare", "--mount", "sh", "-c", script, "sh")
    with local_cluster(2, 2):
        training = Training(tmp_path, demo_corpus, "unseen", command=command)
        found, output = training.wait(timeout=120)
    assert found == 1 and "Traceback" not in output, output
    assert f"can't start: {tmp_path}/runs/unseen on this machine is not the run folder" in output, output
