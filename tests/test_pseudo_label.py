"""The whole command on the synthetic corpus, killed wherever it is, and what it refuses."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sslsv import pseudo_label
from sslsv.runs.folder import RunFolder
from tests.conftest import REPOSITORY
from tests.processes import pids_with
from tests.tasks.test_rounds import records_of
from tests.training_command import assert_same_weights, final, kill

SETTINGS = """
num_rounds: 2
clustering: {{name: kmeans_agglomerative, num_clusters: [4, 6], min_members: 2}}
large_margin: {{model.margin: 0.4, train.epochs: 2}}
data: {{root: {root}, train_lists: [voxceleb2_train_list], augment: [{{name: noise, probability: 0.5}}]}}
encoder: {{name: thin_resnet34, width: 4, embedding_dim: 64}}
model: {{name: supervised, crop_seconds: 0.6, gate: {{name: mixture, start_epoch: 2}}, correction: {{start_epoch: 3}}}}
optimizer: {{learning_rate: 3e-3}}
train: {{epochs: 6, batch_size: 8, log_every_steps: 1}}
evaluation: {{held_out_speakers: 3, every_epochs: 2, test: [trials]}}
run: {{storage: {storage}, checkpoint_every_minutes: 0.001, wandb: disabled, tensorboard: false}}
"""


def written(tmp_path, corpus):
    file = tmp_path / "settings.yml"
    file.write_text(SETTINGS.format(root=corpus, storage=tmp_path / "runs"))
    return str(file)


class Command:
    """`python -m sslsv.pseudo_label` in a process of its own, whose Ray processes carry a mark."""

    def __init__(self, tmp_path, corpus, name):
        self.folder = RunFolder(str(tmp_path / "runs"), name)
        mark = f"{name}{time.monotonic()}"
        self.mark = f"SSLSV_TEST_MARK={mark}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sslsv.pseudo_label", written(tmp_path, corpus), f"run.name={name}"],
            env={**os.environ, "SSLSV_TEST_MARK": mark, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self):
        output, _ = self.process.communicate(timeout=300)
        return self.process.returncode, output

    def kill_when(self, is_time):
        deadline = time.monotonic() + 200
        while not is_time(self.folder):
            assert self.process.poll() is None and time.monotonic() < deadline, self.process.communicate()[0]
            time.sleep(0.005)
        self.process.send_signal(signal.SIGSTOP)  # it must not go on while the others are killed
        for pid in [self.process.pid, *pids_with(self.mark)]:
            kill(pid)
        self.process.wait(timeout=30)


def is_training(stage, step):
    def check(folder):
        records = RunFolder(folder.location, stage).metrics()
        return bool(records) and records[-1]["step"] >= step

    return check


@pytest.mark.slow
def test_pseudo_label__killed_again_and_again_ends_as_if_nothing_had_been(tmp_path, demo_corpus):
    """In clustering, in a round's training, between rounds and in the last stage, each kill -9 of everything."""
    whole = Command(tmp_path, demo_corpus, "whole")
    code, output = whole.wait()
    assert code == 0, output
    assert "round_2:" in output and "large_margin:" in output and "best: " in output
    for is_time in (
        lambda folder: bool(folder.names("embeddings")),
        is_training("round_1", 7),
        lambda folder: folder.has("rounds.jsonl"),
        is_training("large_margin", 2),
    ):
        killed = Command(tmp_path, demo_corpus, "killed")
        killed.kill_when(is_time)
        assert not killed.folder.has("summary.json")
    again = Command(tmp_path, demo_corpus, "killed")
    code, output = again.wait()
    assert code == 0, output
    assert "going on with the unfinished loop" in output
    assert records_of(again.folder) == records_of(whole.folder)
    for stage in ("round_1", "round_2", "large_margin"):
        runs = [RunFolder(each.folder.location, stage) for each in (whole, again)]
        assert_same_weights(*map(final, runs))
    assert pseudo_label.main([written(tmp_path, demo_corpus), "run.name=whole"]) == 2


def refusal(capsys, *arguments):
    assert pseudo_label.main(list(arguments)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.name=simclr", "what learns clusters is 'supervised'"),
        ("clustering.num_clusters=[4, 900]", "clustering.num_clusters is 900, but there are only"),
        ("init=runs/nothing", "runs/nothing"),
        ("large_margin={train.epoch: 3}", "did you mean train.epochs?"),
        ("labels=no_list", "no_list"),
        ("clustering.name=ward", "clustering.name is 'ward'"),
    ],
)
def test_pseudo_label__what_cannot_be_is_refused_before_anything_starts(
    override, sentence, tmp_path, demo_corpus, capsys
):
    assert sentence in refusal(capsys, written(tmp_path, demo_corpus), override)
    assert not os.path.exists(tmp_path / "runs" / "settings")


def test_pseudo_label__a_finished_loop_another_one_and_a_run_are_refused(tmp_path, demo_corpus, capsys):
    yaml = written(tmp_path, demo_corpus)
    config = pseudo_label.load_loop(yaml)
    folder = RunFolder(str(tmp_path / "runs"), "settings")
    folder.write("loop.yml", pseudo_label.loop_to_yaml(config).encode())
    other = refusal(capsys, yaml, "round_settings=[{model.margin: 0.1}]")
    assert "a loop with other settings (round_settings: () -> ({'model.margin': 0.1},))" in other
    folder.write("summary.json", b"{}")
    assert "holds a finished loop of the same settings" in refusal(capsys, yaml)
    RunFolder(str(tmp_path / "runs"), "run").write("config.yml", b"")
    assert "holds a training run" in refusal(capsys, yaml, "run.name=run")
