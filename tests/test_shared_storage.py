"""What a worker says of a run folder that is not the command's; whole commands are in test_cluster.py."""

import threading
import time

import pytest

from sslsv.run_folder import RunFolder
from sslsv.shared_storage import check_sees_run


@pytest.mark.parametrize("found", [None, {"wandb_id": "another"}])
def test_check_sees_run__a_folder_of_the_same_name_on_another_disk_is_a_sentence(found, tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    if found is not None:
        folder.write_json("run.json", found)
    with pytest.raises(ValueError, match=f"{tmp_path}/run on this machine is not .* all machines .* mount"):
        check_sees_run(folder, {"wandb_id": "mine"}, patience_seconds=0)


def test_check_sees_run__a_file_that_appears_late_is_waited_for(tmp_path):
    folder = RunFolder(str(tmp_path), "run")
    late = threading.Timer(0.2, folder.write_json, ("run.json", {"wandb_id": "mine"}))
    late.start()
    start = time.monotonic()
    check_sees_run(folder, {"wandb_id": "mine"}, patience_seconds=20)
    late.join()
    assert time.monotonic() - start >= 0.2
