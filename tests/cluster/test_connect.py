import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sslsv.cluster.capacity import CapacityError
from sslsv.cluster.connect import check_address, delete_notes_of_ray
from sslsv.runs.folder import RunFolder
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


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_check_address__what_names_no_machine_is_left_to_ray(address):
    check_address(address)


def test_delete_notes_of_ray__what_cannot_be_deleted_is_a_sentence(tmp_path, capsys, monkeypatch):
    folder = RunFolder(str(tmp_path), "run")

    def refuse(name):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(folder, "delete_folder", refuse)
    delete_notes_of_ray(folder)
    assert "run/ray, which nothing needs, can't be deleted: [Errno 1]" in capsys.readouterr().err


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
@pytest.mark.parametrize(
    ("machines", "code", "sentence"),
    [
        ((2, 2), 2, "does not see what"),
        ((2,), 1, "can't start: {storage} on this machine is not the run folder"),  # the workers find out
    ],
)
def test_train__storage_that_one_machine_alone_sees_is_refused(
    machines, code, sentence, tmp_path, demo_corpus
):
    """The command runs where a file system is mounted that the machines of the cluster do not see."""
    (tmp_path / "runs").mkdir()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        # Ordinary users and most containers may not make one.
        pytest.skip("no mount namespaces here")
    mount = f"mount -t tmpfs tmpfs {tmp_path}/runs && exec "
    command = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        mount + f'{sys.executable} -m sslsv.train {{yaml}} "$@"',
        "sh",
    )
    with local_cluster(*machines):
        training = Training(tmp_path, demo_corpus, "unseen", command=command)
        found, output = training.wait(timeout=120)
    assert found == code and "Traceback" not in output, output
    assert sentence.format(storage=f"{tmp_path}/runs/unseen") in output, output
