import threading
import time

import pytest

from sslsv.data import recordings
from sslsv.data.audio import AudioError
from sslsv.data.recordings import Folder


def test_folder__that_is_gone_for_a_while_is_waited_for(tmp_path, demo_corpus):
    (tmp_path / "corpus").symlink_to(demo_corpus)
    folder = Folder(tmp_path / "corpus")
    name = folder.find("voxceleb2")[0]
    whole = folder.read_whole(name)
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    start = time.monotonic()
    threading.Timer(0.7, (tmp_path / "elsewhere").rename, [tmp_path / "corpus"]).start()
    assert (folder.read_whole(name) == whole).all()
    assert time.monotonic() - start > 0.6


def test_folder__gone_for_good_is_an_error_that_is_no_bad_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(FileNotFoundError, match="data.root, .*corpus, has been gone"):
        Folder(tmp_path / "corpus").open("a.wav")


def test_folder__one_missing_file_is_a_bad_recording_at_once(demo_corpus):
    with pytest.raises(AudioError):
        Folder(demo_corpus).open("no_such.wav")
