import os
import subprocess
import sys

import pytest

from sslsv import train
from sslsv.runs.folder import RunFolder
from sslsv.runs.lock import RunInUseError, only_command_on
from tests.conftest import REPOSITORY

HOLD = """
import sys
from sslsv.runs.folder import RunFolder
from sslsv.runs.lock import only_command_on
with only_command_on(RunFolder(sys.argv[1], "run")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_only_command_on__a_second_command_is_told_who_is_there(tmp_path, holder):
    folder = RunFolder(str(tmp_path), "run")
    sentence = f"run is in use by process {holder.pid} on .*: wait for it, end"
    with pytest.raises(RunInUseError, match=sentence), only_command_on(folder):
        pass
    with only_command_on(RunFolder(str(tmp_path), "another")):
        pass
    holder.kill()  # -9: nobody tidies up, the kernel lets go
    holder.wait()
    sentence = f"process {os.getpid()} "
    with only_command_on(folder), pytest.raises(RunInUseError, match=sentence), only_command_on(folder):
        pass
    assert not list(tmp_path.iterdir())


def test_main__a_second_command_is_a_sentence_and_exit_code_2(tmp_path, demo_corpus, holder, capsys):
    yaml = tmp_path / "run.yml"
    yaml.write_text(
        f"data: {{root: {demo_corpus}}}\ntrain: {{batch_size: 8}}\nrun: {{storage: {tmp_path}}}\n"
    )
    for options in ([], ["--fresh"]):
        assert train.main([str(yaml), *options]) == 2
        assert f"error: {tmp_path}/run is in use by process {holder.pid}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
