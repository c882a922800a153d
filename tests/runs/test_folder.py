import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import fsspec
import pytest
from pyarrow import fs

from sslsv.runs.checkpoint import (
    Checkpoint,
    list_checkpoints,
    newest_sound_checkpoint,
    prune_checkpoints,
    set_aside_newer,
    write_checkpoint,
)
from sslsv.runs.folder import RunFolder


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


def test_set_aside__keeps_everything_under_another_name(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    folder.write("checkpoints/a", b"weights")
    new_name = folder.set_aside()
    assert not folder.has("checkpoints/a")
    assert RunFolder(str(tmp_path), new_name).read("checkpoints/a") == b"weights"


def test_names__of_a_missing_folder_is_empty(tmp_path):
    assert RunFolder(str(tmp_path), "none").names("checkpoints") == []


def test_storage__may_be_a_uri(tmp_path):
    folder = RunFolder(f"file://{tmp_path}/deep", "run")
    folder.write("a.json", b"{}")
    folder.append_lines("metrics.jsonl", ["{}"])
    folder.append_lines("metrics.jsonl", ["{}"])
    assert (tmp_path / "deep" / "run" / "a.json").read_bytes() == b"{}"
    assert folder.read("metrics.jsonl") == b"{}\n{}\n"


def test_delete_folder__takes_everything_in_it_and_minds_no_absence(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    folder.write("ray/1/state", b"x")
    folder.write("kept", b"x")
    folder.delete_folder("ray")
    folder.delete_folder("ray")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]


@pytest.fixture
def stored(object_storage):
    return RunFolder(object_storage.folder(), "run")


def test_object_storage__what_was_written_is_read(stored, object_storage):
    content = os.urandom(11 * 2**20)  # in two parts: Arrow takes 10 MiB each
    stored.write("checkpoints/a", content)
    stored.append_lines("metrics.jsonl", ['{"step": 1}'])
    stored.append_lines("metrics.jsonl", ['{"step": 2}'])
    assert stored.read("checkpoints/a") == content
    assert [record["step"] for record in stored.metrics()] == [1, 2]
    assert stored.names("checkpoints") == ["a"] and stored.names() == ["metrics.jsonl"]
    assert stored.has("checkpoints/a") and not stored.has("checkpoints") and not stored.has("b")
    assert RunFolder.at(stored.location).read("checkpoints/a") == content
    stored.delete("checkpoints/a")
    stored.delete_folder("checkpoints")
    stored.delete_folder("checkpoints")
    assert object_storage.names(stored.location) == ["metrics.jsonl"]


@pytest.mark.parametrize("part", ["partNumber=1&", "partNumber=2&", "uploadId="])
def test_object_storage__a_write_that_fails_leaves_the_old_object(stored, object_storage, part):
    stored.write("checkpoints/a", b"old")
    object_storage.refuses = lambda environ: environ.get("QUERY_STRING", "").startswith(part)
    try:
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            stored.write("checkpoints/a", bytes(11 * 2**20))
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            stored.write("checkpoints/b", bytes(11 * 2**20))
    finally:
        object_storage.refuses = lambda _: False
    assert stored.read("checkpoints/a") == b"old"
    assert stored.names("checkpoints") == ["a"]


def test_object_storage__a_killed_writer_leaves_the_old_object(stored, object_storage):
    stored.write("checkpoints/a", b"old")
    script = (
        "import sys; from sslsv.runs.folder import RunFolder\n"
        "RunFolder.at(sys.argv[1]).write('checkpoints/a', bytes(25 * 2**20))"
    )
    object_storage.requests.clear()
    is_second = threading.Event()
    process = subprocess.Popen([sys.executable, "-c", script, stored.location])

    def kill(environ):
        if "partNumber=3" in environ.get("QUERY_STRING", ""):
            process.kill()
            is_second.set()
        return False

    object_storage.refuses = kill
    try:
        assert process.wait(60) == -signal.SIGKILL and is_second.is_set()
    finally:
        object_storage.refuses = lambda _: False
    assert stored.read("checkpoints/a") == b"old"
    assert stored.names("checkpoints") == ["a"]


def test_object_storage__checkpoints_are_pruned_and_set_aside(stored, object_storage):
    for step in (1, 2, 3, 4):
        last = write_checkpoint(stored, Checkpoint(step=step, config="", model={}))
    prune_checkpoints(stored, keep=1, best_step=2)
    assert [step for step, _ in list_checkpoints(stored)] == [2, 4]
    assert newest_sound_checkpoint(stored) == last
    stored.write(f"checkpoints/{last}", b"damaged")
    with pytest.warns(UserWarning, match="passing over damaged"):
        sound = newest_sound_checkpoint(stored)
    set_aside_newer(stored, sound)
    assert object_storage.names(stored.location) == [f"checkpoints/{sound}", f"checkpoints/{last}.damaged"]


def test_object_storage__set_aside_keeps_everything_and_deletes_config_last(stored, object_storage):
    stored.write("checkpoints/a", b"weights")
    stored.write("config.yml", b"seed: 1")
    stored.write("run.json", b"{}")
    before = object_storage.names(stored.location)
    object_storage.refuses = lambda environ: (
        environ["REQUEST_METHOD"] == "DELETE" and "run.json" in environ["PATH_INFO"]
    )
    try:
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            stored.set_aside()  # cut off in the middle of deleting
    finally:
        object_storage.refuses = lambda _: False
    assert stored.has("config.yml")
    time.sleep(1.1)  # names of what is set aside tell seconds apart
    new_name = stored.set_aside()
    kept = [RunFolder(stored.storage, name) for name in folders(stored.storage)]
    assert not object_storage.names(stored.location) and stored.name not in [run.name for run in kept]
    assert RunFolder(stored.storage, new_name).read("config.yml") == b"seed: 1"
    first = next(run for run in kept if run.name != new_name)
    assert object_storage.names(first.location) == before


def folders(storage):
    filesystem, place = fs.FileSystem.from_uri(storage)
    found = filesystem.get_file_info(fs.FileSelector(place))
    return [entry.base_name for entry in found if filesystem.get_file_info(fs.FileSelector(entry.path))]


class ObjectStore(fs.FSSpecHandler):
    """Like S3 for Arrow: objects can be copied, and nothing below a prefix moves with it."""

    def move(self, source, target):
        raise OSError(f"no object {source}")


def test_set_aside__copies_where_folders_cannot_be_renamed(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    folder.filesystem = fs.PyFileSystem(ObjectStore(fsspec.filesystem("file", auto_mkdir=True)))
    folder.is_local = False
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    folder.write("checkpoints/a", b"weights")
    folder.write("config.yml", b"seed: 1")
    new_name = folder.set_aside()
    assert [path.name for path in tmp_path.iterdir()] == [new_name]
    assert (tmp_path / new_name / "checkpoints" / "a").read_bytes() == b"weights"
    assert (tmp_path / new_name / "config.yml").read_bytes() == b"seed: 1"


@pytest.mark.parametrize(
    ("storage", "location", "root"),
    [
        ("s3://b/p?endpoint_override=h:1", "s3://b/p/run?endpoint_override=h:1", "b/p/run"),
        ("s3://b/p/?region=x&scheme=http", "s3://b/p/run?region=x&scheme=http", "b/p/run"),
        ("s3://b?region=x", "s3://b/run?region=x", "b/run"),
        ("file:///x/y", "/x/y/run", "/x/y/run"),
        ("/x/y?z", "/x/y?z/run", "/x/y?z/run"),
    ],
)
def test_location__is_a_path_or_a_complete_uri(storage, location, root):
    folder = RunFolder(storage, "run")
    assert (folder.location, folder.root) == (location, root)
    again = RunFolder.at(location)
    assert (again.location, again.root, again.name) == (location, root, "run")
