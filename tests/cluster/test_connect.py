"""Test joining and starting Ray, tokens, what fits a machine or a cluster, and requests to an autoscaler."""

import os
import socket
import subprocess
import sys
from unittest import mock

import pytest

from sslsv.cluster import connect
from sslsv.cluster.connect import (
    CapacityError,
    Cluster,
    bundles_of,
    check_address,
    choose_folder,
    keep_token_private,
    room_for,
    with_device,
)
from sslsv.config import ResourcesConfig
from tests.clock import Clock
from tests.processes import is_loopback, listening_addresses, pids_with

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
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "a"), ("RAY_ADDRESS", "10.0.0.1:6379")],
)
def test_keep_token_private__makes_no_file_that_ray_does_not_ask_for(token_file, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not token_file.parent.exists()


def test_keep_token_private__where_home_cannot_be_written_the_cluster_has_a_token_all_the_same(
    token_file, monkeypatch
):
    monkeypatch.setenv("HOME", "/dev/null")
    keep_token_private()
    assert len(os.environ.pop("RAY_AUTH_TOKEN")) == 64


@pytest.fixture
def ray_tmpdir(monkeypatch):
    """Unset Ray's folder, and restore it after the test."""
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.delenv("TMPDIR", raising=False)
    return monkeypatch


@pytest.mark.parametrize(("length", "is_open"), [(39, True), (40, True), (39, False)])
def test_choose_folder__ray_has_its_own_where_one_is_too_deep_for_sockets_or_closed_to_this_user(
    length, is_open, ray_tmpdir
):
    folder, own = "/tmp/".ljust(length, "x"), f"/tmp/ray-{os.getuid()}"
    ray_tmpdir.setenv("RAY_TMPDIR", folder)
    ray_tmpdir.setattr(connect.os, "access", lambda *arguments: is_open)
    choose_folder()
    assert len(f"{os.environ['RAY_TMPDIR']}/ray{connect.SOCKET}") <= 107
    assert os.environ["RAY_TMPDIR"] == (folder if length == 39 and is_open else own)


def test_choose_folder__another_users_is_not_taken(ray_tmpdir):
    ray_tmpdir.setattr(connect.os, "access", lambda *arguments: False)
    other = os.getuid() + 4_000_000  # This user has made the folder that belongs to the other user id.
    ray_tmpdir.setattr(connect.os, "getuid", lambda: other)
    with pytest.raises(CapacityError, match=r"is another user's; set RAY_TMPDIR"):
        choose_folder()
    os.rmdir(f"/tmp/ray-{other}")


@pytest.mark.parametrize(
    ("is_alive", "is_own", "address"), [(True, True, None), (True, False, "local"), (False, True, "local")]
)
def test_connect__joins_what_ray_has_noted_only_where_it_lives_and_is_this_users(
    is_alive, is_own, address, ray_tmpdir, tmp_path
):
    addresses, user_id = [], os.getuid()
    ray_tmpdir.setenv("RAY_TMPDIR", str(tmp_path))
    ray_tmpdir.delenv("RAY_ADDRESS", raising=False)
    ray_tmpdir.setattr(connect, "choose_folder", lambda: None)
    ray_tmpdir.setattr(connect.ray, "init", lambda **options: addresses.append(options.get("address")))
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if is_alive else 1
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
        ray_tmpdir.setattr(connect.os, "getuid", lambda: user_id if is_own else user_id + 1)
        connect.connect()
    assert addresses == [address]


FOUR, TWO_GPUS = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("gpu", "machines", "decided"),
    [(None, [FOUR], False), (None, [FOUR, TWO_GPUS], True), (False, [TWO_GPUS], False), (True, [FOUR], True)],
)
def test_with_device__is_as_set_else_a_gpu_where_there_is_one(gpu, machines, decided):
    assert with_device(ResourcesConfig(gpu=gpu), machines).gpu is decided


@pytest.mark.parametrize(
    ("machines", "gpu", "more_cpus", "count"),
    [
        ([{"CPU": 8.0}], False, 0.0, 2),  # a third worker would leave no CPU for the data tasks
        ([{"CPU": 8.0}], False, 1.0, 3),
        ([{"CPU": 3.0}] * 2, False, 0.0, 2),
        ([{"CPU": 1.9}] * 9, False, 0.0, 0),  # a worker cannot span machines
        ([TWO_GPUS, FOUR], True, 0.0, 2),
        ([], False, 9.0, 0),
    ],
)
def test_room_for__counts_slots_on_whole_machines_and_cpus_for_data(machines, gpu, more_cpus, count):
    resources = ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=1, gpu=gpu)
    assert room_for(resources, machines, more_cpus) == count


@pytest.mark.parametrize(("data_tasks", "more"), [(None, 0), (1, 0), (5, 3)])
def test_bundles_of__each_worker_has_a_data_process_and_the_others_have_room_anywhere(data_tasks, more):
    resources = ResourcesConfig(cpus_per_worker=2, cpus_per_data_task=0.5, data_tasks=data_tasks, gpu=True)
    assert bundles_of(resources, 2) == [{"CPU": 2.5, "GPU": 1.0}] * 2 + [{"CPU": 0.5}] * more


def cluster_of(*free, num_starting=0):
    """Return machines "0", "1" ... of 3 CPUs, with the given numbers of free CPUs."""
    total = {str(i): {"CPU": 3.0} for i in range(len(free))}
    available = {str(i): {"CPU": cpus} for i, cpus in enumerate(free)}
    return Cluster(total, available, set(), num_starting, has_autoscaler=False)


@pytest.fixture
def waiting(monkeypatch):
    """Wait for room while cluster states follow each other every second; return messages and requests."""
    texts, requests, clock = [], [], Clock()
    resources = ResourcesConfig(workers=(1, 2), cpus_per_worker=2, cpus_per_data_task=1, gpu=False)

    def wait(*looks, patience=0.0):
        states = list(looks)
        monkeypatch.setattr(connect, "cluster_state", lambda: states.pop(0) if len(states) > 1 else states[0])
        count, cluster = connect.wait_for_room(resources, [1, 2], patience, texts.append)
        return count, sorted(cluster.machines)

    monkeypatch.setattr(connect, "PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(connect, "request_resources", lambda bundles: requests.append(bundles))
    monkeypatch.setattr(connect, "time", clock)
    return wait, texts, requests


def test_wait_for_room__fewer_workers_than_the_machines_hold_start_only_after_a_moment(waiting):
    wait, texts, requests = waiting
    assert wait(*[cluster_of(3, 0)] * 5, cluster_of(3, 3)) == (2, ["0", "1"]) and texts == []
    assert wait(cluster_of(3, 0)) == (1, ["0", "1"])
    assert requests[0] == [{"CPU": 3.0}] * 2


@pytest.mark.parametrize(
    ("looks", "patience", "is_found", "times_said"),
    [
        ([cluster_of(0), cluster_of(3)], 0, False, 0),
        ([cluster_of(0)] * 5 + [cluster_of(3)], 12, True, 0),
        ([cluster_of(0)] * 50 + [cluster_of(3)], 60, True, 1),
        ([cluster_of(0)] * 50 + [cluster_of(3)], 12, False, 1),
        ([cluster_of(0)] + [cluster_of(0, num_starting=1)] * 50 + [cluster_of(3)], 12, True, 1),
        ([cluster_of(0, num_starting=1), cluster_of(0)], 12, False, 1),  # the machines were not enough
    ],
)
def test_wait_for_room__is_patient_and_longer_so_while_machines_are_started(
    looks, patience, is_found, times_said, waiting
):
    wait, texts, _ = waiting
    if is_found:
        assert wait(*looks, patience=patience) == (1, ["0"])
    else:
        sentence = "1 training worker.* take 2 CPUs each .* room for 1 .0 while other jobs run.; wait for other jobs to end, lower"
        with pytest.raises(CapacityError, match=sentence):
            wait(*looks, patience=patience)
    assert len(texts) == times_said and all("waiting for machines: 1 training" in text for text in texts)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Exception("timed out"), "have not started within half a minute: this machine is too"),
        (RuntimeError("Version mismatch:\n Ray: 2"), "used: Version mismatch: Ray: 2; install the same"),
        (RuntimeError("Failed to start GCS."), "used: Failed to start GCS.; end other programs"),
    ],
)
def test_connect__a_machine_too_busy_and_a_cluster_of_another_version_are_sentences(
    error, sentence, token_file, monkeypatch
):
    monkeypatch.setattr(connect.ray, "init", mock.Mock(side_effect=error))
    with pytest.raises(CapacityError, match=sentence):
        connect.connect()


def start_connected(**environment):
    return subprocess.Popen(
        [sys.executable, "-c", CONNECT],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_connect__starts_a_cluster_on_loopback_that_lets_in_only_who_has_its_private_token(ray_home):
    with start_connected() as owner:
        assert owner.stdout.readline() == "token\n", owner.communicate()[1]
        address = owner.stdout.readline().strip()
        addresses = listening_addresses(pids_with(f"HOME={ray_home}"))
        assert len(addresses) > 5 and all(map(is_loopback, addresses)), addresses
        token = ray_home / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) > 30

        output, _ = start_connected(RAY_ADDRESS=address, RAY_AUTH_MODE="token").communicate(timeout=60)
        assert output == f"token\n{address}\n"
        _, errors = start_connected(RAY_ADDRESS=address).communicate(timeout=120)
        assert f"CapacityError: the Ray cluster at {address} does not answer, or does not let" in errors
        owner.communicate(timeout=60)
