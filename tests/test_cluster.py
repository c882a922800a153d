import subprocess
import sys

import pytest

from sslsv.capacity import CapacityError
from sslsv.cluster import check_address
from tests.local_cluster import local_cluster
from tests.training_command import Training


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1"])
def test_check_address__a_dead_cluster_is_a_sentence_at_once(address):
    with pytest.raises(CapacityError, match="where no Ray cluster answers .*unset RAY_ADDRESS"):
        check_address(address)


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_check_address__what_names_no_machine_is_left_to_ray(address):
    check_address(address)


@pytest.mark.slow
def test_train__storage_that_one_machine_alone_sees_is_refused(tmp_path, demo_corpus):
    """The command runs where a file system is mounted that the machines of the cluster do not see."""
    (tmp_path / "runs").mkdir()
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
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
    with local_cluster(2, 2):
        training = Training(tmp_path, demo_corpus, "unseen", command=command)
        code, output = training.wait(timeout=90)
    assert code == 2 and "does not see what" in output and "Traceback" not in output, output
