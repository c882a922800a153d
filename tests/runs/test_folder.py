import json
import math
import os
import subprocess
import sys

import pytest

from sslsv.config import load_config
from sslsv.runs.folder import RunFolder, absolute, only_command_on, open_filesystem
from sslsv.settings import ConfigError, check_location
from tests.conftest import REPOSITORY


def test_write__leaves_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    folder = RunFolder(str(tmp_path), "run")
    folder.write("checkpoints/a", b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        folder.write("checkpoints/a", b"new")
    assert folder.read("checkpoints/a") == b"old"
    assert folder.names("checkpoints") == ["a"]


def test_append_lines__are_on_the_disk_when_it_returns(tmp_path, monkeypatch):
    folder, sizes = RunFolder(str(tmp_path), "run"), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    folder.append_lines("metrics.jsonl", ["{}"])
    folder.append_lines("metrics.jsonl", ["{}", "{}"])
    assert sizes == [3, 9]


def test_metrics__leaves_out_a_line_cut_short(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    folder.append_lines("metrics.jsonl", [json.dumps({"step": 1}), json.dumps({"step": 2})])
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [record["step"] for record in folder.metrics()] == [1, 2]


def test_write_json__has_null_for_what_json_has_no_number_for(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    values = {"a": [1.5, math.inf, (math.nan,)], "b": {"threshold": -math.inf}, "c": tmp_path}
    folder.write_json("x.json", values)
    text = folder.read("x.json").decode()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {"a": [1.5, None, [None]], "b": {"threshold": None}, "c": str(tmp_path)}


@pytest.fixture
def stored(object_storage):
    return RunFolder(object_storage.folder(), "run")


def test_object_storage__what_was_written_is_read(stored, object_storage):
    content = os.urandom(11 * 2**20)  # in two parts: Arrow takes 10 MiB each
    stored.write("checkpoints/a", content)
    stored.write("metrics.jsonl", b'{"step": 1}\n{"step": 2}\n')
    assert stored.read("checkpoints/a") == content
    assert [record["step"] for record in stored.metrics()] == [1, 2]
    assert stored.names("checkpoints") == ["a"] and stored.names() == ["metrics.jsonl"]
    assert stored.has("checkpoints/a") and not stored.has("checkpoints") and not stored.has("b")
    assert RunFolder.at(stored.location).read("checkpoints/a") == content
    stored.delete("checkpoints/a")
    stored.delete_folder("checkpoints")
    stored.delete_folder("checkpoints")
    assert object_storage.names(stored.location) == ["metrics.jsonl"]


def test_object_storage__a_write_that_fails_leaves_the_old_object(stored, object_storage):
    stored.write("checkpoints/a", b"old")
    object_storage.refuses = lambda environ: environ.get("QUERY_STRING", "").startswith("partNumber=2&")
    try:
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            stored.write("checkpoints/a", bytes(11 * 2**20))
    finally:
        object_storage.refuses = lambda _: False
    assert stored.read("checkpoints/a") == b"old" and stored.names("checkpoints") == ["a"]


def test_object_storage__set_aside_copies_and_then_deletes_everything(stored, object_storage):
    for name in ("checkpoints/a", "config.yml", "run.json"):
        stored.write(name, name.encode())
    before = object_storage.names(stored.location)
    aside = RunFolder(os.path.dirname(stored.location), stored.set_aside())
    assert object_storage.names(aside.location) == before and not object_storage.names(stored.location)
    assert aside.read("config.yml") == b"config.yml"


@pytest.mark.parametrize(
    ("storage", "location", "root"),
    [
        ("s3://b/p", "s3://b/p/run", "b/p/run"),
        ("s3://b", "s3://b/run", "b/run"),
        ("file:///x/y", "/x/y/run", "/x/y/run"),
        ("/x/y?z", "/x/y?z/run", "/x/y?z/run"),
    ],
)
def test_location__is_a_path_or_a_complete_uri(storage, location, root):
    folder = RunFolder(storage, "run")
    assert (folder.location, folder.root) == (location, root)
    again = RunFolder.at(location)
    assert (again.location, again.root, again.name) == (location, root, "run")


@pytest.mark.parametrize(("location", "root"), [("s3://b", "b"), ("s3://b/", "b"), ("/", "/")])
def test_location__may_be_a_bucket_or_the_root(location, root):
    folder = RunFolder.at(location)
    assert (folder.root, folder.path("x")) == (root, f"{root.rstrip('/')}/x")


WITH_SECRETS = [
    "s3://FAKEID:FAKESECRET@bucket/x",
    "s3://FAKEID:/FAKE/SECRET@bucket/x?region=y",
    "s3://bucket/x?region=y&session_token=FAKESECRET",
    "https://user:FAKESECRET@host/x",
]


def test_absolute__paths_are_made_so_and_uris_stay():
    assert absolute("a/b") == os.path.abspath("a/b")
    assert absolute("s3://bucket/a/../b") == "s3://bucket/a/../b"
    assert absolute("file:///a/b") == "/a/b"


@pytest.mark.parametrize("place", WITH_SECRETS)
def test_check_place__refuses_credentials_without_repeating_them(place):
    for refused in (lambda: check_location("root", place), lambda: RunFolder(place, "run")):
        with pytest.raises(ValueError, match="is a URI with a user, password or key in it") as error:
            refused()
        assert "FAKE" not in str(error.value)


@pytest.mark.parametrize(
    "override", ["run.storage={}", "data.root={}", "data.train_lists=[list,'{}']", "evaluation.validation={}"]
)
def test_config__places_with_credentials_are_refused(override):
    with pytest.raises(ConfigError, match=rf"^{override.partition('=')[0]}.* is a URI with a user") as error:
        load_config("configs/simclr.yml", [override.format(WITH_SECRETS[0])])
    assert "FAKE" not in str(error.value)


@pytest.mark.parametrize("place", ["gs://b/x", "s3://b/a@b", "a@b", "/a:b@c", "/a?key=1"])
def test_check_place__lets_others_pass(place):
    check_location("root", place)


def test_open_filesystem__of_an_unknown_kind_is_a_sentence():
    with pytest.raises(ValueError, match="ftp://host/x can't be opened: .*give a folder, or a URI"):
        open_filesystem("ftp://host/x")


HOLD = """
import sys
from sslsv.runs.folder import RunFolder, only_command_on
with only_command_on(RunFolder(sys.argv[1], "run")):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_only_command_on__a_second_command_is_told_who_is_there(tmp_path):
    folder, command = RunFolder(str(tmp_path), "run"), [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        sentence = f"run is in use by process {holder.pid} on .*: wait for it, end"
        with pytest.raises(ValueError, match=sentence), only_command_on(folder):
            pass
        with only_command_on(RunFolder(str(tmp_path), "another")):
            holder.kill()  # SIGKILL: without any cleanup, the kernel releases the lock
    with only_command_on(folder), pytest.raises(ValueError, match="in use"), only_command_on(folder):
        pass
