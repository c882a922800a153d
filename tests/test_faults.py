"""Test faults at random moments: a run ends with the weights of an undisturbed one, or with an error message.

`make test-faults` runs all faults and prints the cost of each, as a row of the table in docs/cluster.md.
SSLSV_FAULT_REPEATS (1) is the number of repetitions, SSLSV_FAULT_SEED (1717) the seed of the random moments.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass

import pytest

from sslsv.runs.checkpoint import list_checkpoints
from tests.local_cluster import local_cluster
from tests.recorded import Recorded
from tests.training_command import assert_same_weights, final, kill, title

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1100)]

REPEATS = range(int(os.environ.get("SSLSV_FAULT_REPEATS", "1")))
SEED = int(os.environ.get("SSLSV_FAULT_SEED", "1717"))
EPOCHS, PACE = 20, 0.1
ALONE = ("resources.threads_per_worker=1",)
TWO = (*ALONE, "resources.workers=2", "resources.cpus_per_worker=0.25", "resources.cpus_per_data_task=0.25")
# One worker and a data process on each machine of 3 CPUs.
SPREAD = (*ALONE, "resources.workers=2", "resources.cpus_per_worker=2", "resources.cpus_per_data_task=1")
# One method per family, and the methods that keep state between epochs: memory of the corpus, statistics of
# the gate, bank of references. tests/models/test_base.py tests the state that methods keep between steps.
METHODS = {
    "VICReg": "model={name: vicreg, crop_seconds: 0.6, projector_dims: [32, 32, 32]}",
    "DINO": "model={name: dino, long_seconds: 0.6, short_seconds: 0.4, head_dims: [32, 32, 16], "
    "num_prototypes: 16}",
    "DeepCluster v2": "model={name: deepcluster, crop_seconds: 0.6, projector_dims: [32, 16], "
    "num_prototypes: 8, num_heads: 2}",
    "supervised, gate and correction": "model={name: supervised, crop_seconds: 0.6, "
    "gate: {name: mixture, start_epoch: 4}, correction: {start_epoch: 6}}",
    "SimCLR, SSPS": "model={name: simclr, crop_seconds: 0.6, positives: {name: ssps, start_epoch: 4, "
    "num_clusters: 8, queue_length: 16, reference_seconds: 0.6}}",
}


@pytest.fixture(params=REPEATS, ids=lambda repeat: f"moment{repeat}")
def rng(request):
    seed = SEED + request.param
    print(f"\nseed {seed} ({request.node.name})")
    return random.Random(f"{seed} {request.node.originalname}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, demo_corpus):
    """Return the last checkpoint of an undisturbed run, by number of workers."""
    found = {}
    for workers, options in ((1, ALONE), (2, TWO)):
        folder = tmp_path_factory.mktemp("undisturbed")
        training = Recorded(folder, demo_corpus, "whole", *options, epochs=EPOCHS)
        code, output = training.wait()
        assert code == 0, output
        found[workers] = final(training.folder)
    return found


@dataclass(frozen=True)
class Moment:
    """Hold the time of a fault, and the step of the newest checkpoint at that time."""

    time: float
    saved: int


def reach(training, rng, last_step):
    """Wait for a random moment within a random step, from the third one to the sixth from the end."""
    step = rng.randrange(3, last_step - 5)
    training.wait_until(lambda: training.has_done(step), f"step {step}")
    training.wait_until(lambda: list_checkpoints(training.folder), "a checkpoint")
    time.sleep(rng.random() * PACE)
    return Moment(time.time(), list_checkpoints(training.folder)[-1][0])


def check_recovery(training, moment, fault, expected, saved=None):
    """Check that the run has the weights of `expected` at its end and repeats no step before its last checkpoint."""
    code, output = training.wait()
    assert code == 0, output
    assert_same_weights(expected, final(training.folder))
    resumed = training.resumed_at(moment.time)
    assert resumed is None or resumed >= (moment.saved if saved is None else saved)
    lost, seconds = training.cost_of(moment.time)
    print(f"\n| {fault} | finished, same weights | {lost} | {seconds:.0f} |")
    return seconds


def start(tmp_path, corpus, *options, pace=PACE, data_pace=0.0):
    return Recorded(tmp_path, corpus, "run", *options, pace=pace, data_pace=data_pace, epochs=EPOCHS)


@pytest.mark.parametrize("workers", [1, 2])
def test_train__a_worker_is_killed(workers, rng, undisturbed, tmp_path, demo_corpus):
    expected = undisturbed[workers]
    training = start(tmp_path, demo_corpus, *(ALONE if workers == 1 else TWO))
    moment = reach(training, rng, expected.step)
    kill(rng.choice(training.workers()))
    check_recovery(training, moment, f"kill -9 of a worker, of {workers}", expected)
    assert training.resumed_at(moment.time) is not None


def test_train__a_data_process_is_killed(rng, undisturbed, tmp_path, demo_corpus):
    # Without these settings, all data would be ready before half of the steps are taken.
    training = start(tmp_path, demo_corpus, *ALONE, "resources.utterances_per_block=8", data_pace=0.3)
    moment = reach(training, rng, undisturbed[1].step // 2)
    busy = []
    training.wait_until(lambda: busy.extend(frozen_at_work(training)) or busy, "a data process at work")
    victims = training.pids("SSLSV_ROLE=data")
    for pid in victims:
        kill(pid)
    training.wait_until(lambda: set(training.pids("SSLSV_ROLE=data")) - set(victims), "a new one")
    check_recovery(training, moment, "kill -9 of all data processes, at work", undisturbed[1])
    assert training.resumed_at(moment.time) is None  # the trainer itself went on


def frozen_at_work(training):
    """Stop a data process within a block of batches; return it in a list, empty if none was caught."""
    for pid in training.pids("SSLSV_ROLE=data"):
        if "MapBatches" in title(pid):
            os.kill(pid, signal.SIGSTOP)
            if "MapBatches" in title(pid):
                return [pid]
            os.kill(pid, signal.SIGCONT)
    return []


def test_train__rays_controller_is_killed(rng, undisturbed, tmp_path, demo_corpus):
    training = start(tmp_path, demo_corpus, *ALONE)
    moment = reach(training, rng, undisturbed[1].step)
    (controller,) = [pid for pid in training.pids() if "TrainController" in title(pid)]
    kill(controller)
    check_recovery(training, moment, "kill -9 of Ray's controller", undisturbed[1])
    assert training.resumed_at(moment.time) is not None


def test_train__the_driver_is_killed(rng, undisturbed, tmp_path, demo_corpus):
    killed = start(tmp_path, demo_corpus, *ALONE)
    moment = reach(killed, rng, undisturbed[1].step)
    kill(killed.process.pid)
    killed.process.wait(timeout=30)
    again = start(tmp_path, demo_corpus, *ALONE)
    check_recovery(again, moment, "kill -9 of the command, started again", undisturbed[1])


def test_train__ctrl_c_ends_it_and_the_same_command_goes_on(rng, undisturbed, tmp_path, demo_corpus):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits "ignored"
    stopped = start(tmp_path, demo_corpus, *ALONE)
    moment = reach(stopped, rng, undisturbed[1].step)
    for pid in [stopped.process.pid, *stopped.workers()]:  # a terminal signals all processes of the command
        os.kill(pid, signal.SIGINT)
    code, output = stopped.wait(timeout=60)
    assert code == 130, output
    assert not stopped.pids()
    again = start(tmp_path, demo_corpus, *ALONE)
    check_recovery(again, moment, "Ctrl-C, started again", undisturbed[1])


@pytest.mark.parametrize("method", METHODS)
def test_train__everything_is_killed_whatever_the_method_does_between_epochs(
    method, rng, tmp_path, demo_corpus
):
    options = (*ALONE, METHODS[method])
    (tmp_path / "undisturbed").mkdir()
    training = Recorded(tmp_path / "undisturbed", demo_corpus, "whole", *options, epochs=EPOCHS)
    code, output = training.wait()
    assert code == 0, output
    expected = final(training.folder)
    killed = start(tmp_path, demo_corpus, *options)
    moment = reach(killed, rng, expected.step)
    killed.kill()
    again = start(tmp_path, demo_corpus, *options)
    check_recovery(again, moment, f"kill -9 of everything, {method}", expected)


def test_train__the_newest_checkpoint_is_damaged(rng, undisturbed, tmp_path, demo_corpus):
    killed = start(tmp_path, demo_corpus, *ALONE)
    moment = reach(killed, rng, undisturbed[1].step)
    killed.kill()
    (saved, _), (_, name) = list_checkpoints(killed.folder)[-2:]
    newest = killed.folder.path(f"checkpoints/{name}")
    os.truncate(newest, os.path.getsize(newest) // 2)
    again = start(tmp_path, demo_corpus, *ALONE)
    fault = "newest checkpoint cut in half, after kill -9 of everything"
    check_recovery(again, moment, fault, undisturbed[1], saved)
    assert again.resumed_at(moment.time) == saved


def test_train__a_worker_stops_answering(rng, undisturbed, tmp_path, demo_corpus):
    training = start(tmp_path, demo_corpus, *TWO, "resources.hang_minutes=0.5")
    moment = reach(training, rng, undisturbed[2].step)
    os.kill(rng.choice(training.workers()), signal.SIGSTOP)
    fault = "SIGSTOP of a worker, of 2 (hang_minutes=0.5)"
    check_recovery(training, moment, fault, undisturbed[2])
    assert training.resumed_at(moment.time) is not None


@pytest.mark.parametrize("machines", [2, 3])
def test_train__a_machine_is_lost(machines, rng, undisturbed, tmp_path, demo_corpus):
    with local_cluster(3, *[3] * (machines - 1)) as cluster:
        training = start(tmp_path, demo_corpus, *SPREAD)
        moment = reach(training, rng, undisturbed[2].step)
        used = {cluster.machine_of(line["pid"]) for line in training.lines()} - {None}
        cluster.kill(used.pop())
        if machines == 2:
            time.sleep(5)
            cluster.add(3)
        recovery = {2: "another comes 5 s later", 3: "2 workers"}[machines]
        fault = f"machine lost, of {machines}; {recovery}"
        check_recovery(training, moment, fault, undisturbed[2])


def test_train__the_corpus_is_gone_for_a_while(rng, undisturbed, tmp_path, demo_corpus):
    corpus = tmp_path / "corpus"
    shutil.copytree(demo_corpus, corpus)
    training = start(tmp_path, corpus, *ALONE, "resources.utterances_per_block=8")
    moment = reach(training, rng, undisturbed[1].step)
    corpus.rename(tmp_path / "unmounted")
    time.sleep(8)
    (tmp_path / "unmounted").rename(corpus)
    pause = check_recovery(training, moment, "corpus folder gone for 8 s", undisturbed[1])
    assert pause > 3  # otherwise all data were made before the fault


def test_train__the_object_store_is_too_small(rng, undisturbed, tmp_path, demo_corpus):
    # 200 MB of audio in one block.
    block = ("resources.utterances_per_block=320", "model.crop_seconds=20")
    with local_cluster(3, object_store_mb=75):  # the smallest size that Ray allows
        training = start(tmp_path, demo_corpus, *ALONE, *block, pace=0.0)
        code, output = training.wait(timeout=500)
    assert code in (0, 1) and "Traceback" not in output, output
    if code == 0:
        whole = Recorded(tmp_path / "with room", demo_corpus, "whole", *ALONE, *block, epochs=EPOCHS)
        assert whole.wait(timeout=500)[0] == 0
        assert_same_weights(final(whole.folder), final(training.folder))
    else:
        assert "error: " in output, output
    outcome = "finished by spilling to disk, same weights" if code == 0 else "stopped with a sentence"
    print(f"\n| object store smaller than a block of batches | {outcome} | - | - |")


def test_train__the_disk_is_full(rng, undisturbed, tmp_path, demo_corpus):
    storage = tmp_path / "runs"
    storage.mkdir()
    options = ("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(storage))
    if subprocess.run(options, capture_output=True).returncode:
        # Mounting needs root; a quota or a file size limit would test another fault.
        pytest.skip("a small file system can't be mounted here")
    try:
        training = start(tmp_path, demo_corpus, *ALONE)
        reach(training, rng, undisturbed[1].step)
        with contextlib.suppress(OSError), open(storage / "filler", "wb") as file:
            while True:
                file.write(bytes(2**16))
                file.flush()
        code, output = training.wait()
        assert code == 1 and "No space left on device" in output and "Traceback" not in output, output
        saved = list_checkpoints(training.folder)[-1][0]
        (storage / "filler").unlink()
        again = start(tmp_path, demo_corpus, *ALONE)
        code, output = again.wait()
        assert code == 0 and f"from step {saved}" in output, output
        assert_same_weights(undisturbed[1], final(again.folder))
        print("\n| disk full | stopped with a sentence; started again with room: same weights | - | - |")
    finally:
        subprocess.run(["umount", str(storage)], check=True)
