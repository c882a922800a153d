"""Start, watch and end commands in tests, mainly `python -m sslsv.train`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

import torch

from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint
from sslsv.runs.folder import RunFolder
from tests.conftest import REPOSITORY
from tests.processes import pids_with

SETTINGS = """
data: {{root: {root}, train_lists: [voxceleb2_train_list], augment: [{{name: reverb, probability: 0.5}}, {{name: noise, probability: 0.5}}]}}
encoder: {{name: thin_resnet34, width: 4, embedding_dim: 64}}
model: {{name: {model}, crop_seconds: 0.6}}
optimizer: {{learning_rate: 3e-3, schedule: {{name: warmup_cosine, warmup_epochs: 1}}}}
train: {{epochs: {epochs}, batch_size: 8, log_every_steps: 1}}
evaluation: {{held_out_speakers: 3, every_epochs: 5, test: [trials]}}
run: {{storage: {storage}, checkpoint_every_minutes: 0.001, wandb: disabled, keep_checkpoints: 3}}
"""

COMMAND = (sys.executable, "-m", "sslsv.train", "{yaml}")


class Command:
    """Run a command line as a subprocess; a mark in the environment identifies all its processes."""

    def __init__(self, *command):
        self.mark = f"SSLSV_TEST_MARK={uuid.uuid4().hex}"
        key, value = self.mark.split("=")
        self.process = subprocess.Popen(
            command,
            env={**os.environ, key: value, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, timeout=600):
        """Return exit code and output."""
        try:
            output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode, output

    def wait_until(self, is_true, what, timeout=300):
        """Wait until a condition holds; fail if the command ends before, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not is_true():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
            time.sleep(0.05)

    def pids(self, *wanted):
        return pids_with(self.mark, *wanted)

    def kill(self):
        """Send SIGKILL to every process of the command."""
        for pid in [self.process.pid, *self.pids()]:
            kill(pid)
        self.process.wait(timeout=30)


class Training(Command):
    """Run `python -m sslsv.train` with a small network."""

    def __init__(self, tmp_path, corpus, name, *overrides, model="simclr", epochs=20, command=COMMAND):
        yaml = tmp_path / "settings.yml"
        yaml.write_text(SETTINGS.format(root=corpus, storage=tmp_path / "runs", model=model, epochs=epochs))
        self.folder = RunFolder(str(tmp_path / "runs"), name)
        super().__init__(*(part.format(yaml=yaml) for part in command), f"run.name={name}", *overrides)

    def wait_for_step(self, step):
        def is_there():
            records = self.folder.metrics()
            return bool(records) and records[-1]["step"] >= step

        self.wait_until(is_there, f"step {step}")


def title(pid):
    """Return the title of a process, such as `ray::IDLE`; empty if it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return ""


def final(folder):
    return read_checkpoint(folder, find_checkpoint(folder, "last"))


def assert_same_weights(a, b):
    assert a.step == b.step
    for name, weight in a.model.items():
        assert torch.equal(weight, b.model[name]), name
    assert a.best_value == b.best_value


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
