import json
import os

import fsspec
import pytest
from pyarrow import fs

from sslsv.run_folder import RunFolder


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


def test_metrics__leaves_out_a_line_cut_short(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    folder.append_lines("metrics.jsonl", [json.dumps({"step": 1}), json.dumps({"step": 2})])
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [record["step"] for record in folder.metrics()] == [1, 2]


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
