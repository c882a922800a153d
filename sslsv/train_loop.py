"""What one training worker does, top to bottom.

`train_worker` is what Ray Train starts in every worker; `Training` is the loop itself.  Of Ray it knows the
data pipeline and the `report` function that it is given, so that a search can also run it directly.
"""

import os
from collections.abc import Callable, Generator
from typing import Any

import ray
import torch
from torch import Tensor

from sslsv import distributed, validation
from sslsv.checkpoint_writer import CheckpointWriter
from sslsv.config import Config, read_config, to_dict
from sslsv.data.pipeline import train_batches
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker
from sslsv.label_free import open_probe
from sslsv.meter import Meter
from sslsv.models.base import Progress
from sslsv.optim import clip_gradients
from sslsv.report import write_report
from sslsv.run_folder import RunFolder
from sslsv.run_log import Board, RunLog, WandbMode
from sslsv.schedules import learning_rate
from sslsv.training_state import build_state, checkpoint_of, restore_state, wrap_model
from sslsv.validation import TrainingError
from sslsv.verification import PRECISIONS, Embedder, open_trial_sets

MAX_SPAN_STEPS = 4096  # of one Ray Data execution: starting one costs 0.25 s, and its plan must stay small


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Entry of a Ray Train worker: find the device, run the loop, hand a TrainingError back as text.

    Raising it would count as a crash, and Ray would start the workers again.
    """
    import ray.train.torch

    os.environ.update(job["environment"])
    config = read_config(job["config"])
    device = ray.train.torch.get_device() if job["has_gpu"] else torch.device("cpu")
    if device.type == "cpu":
        # Ray allows one thread; the cores of this machine are for its training workers to share.
        workers_here = ray.train.get_context().get_local_world_size()
        threads = (os.cpu_count() or 1) // workers_here
        torch.set_num_threads(config.resources.threads_per_worker or max(1, threads))
    else:
        torch.cuda.set_device(device)  # collectives of Python objects go through the current device
    training = Training(
        config,
        RunFolder(job["storage"], job["name"]),
        device=device,
        board=job["board"],
        wandb_mode=job["wandb_mode"],
        report=ray.train.report,
    )
    try:
        return training.run()
    except TrainingError as error:
        return {"error": str(error)}


class Training:
    """One run, from the newest sound checkpoint of its folder, or from nothing, to the end.

    `report` gets the record of every validation, on every worker and equally often; its checkpoint is there
    after `checkpoints.wait()`.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        *,
        device: torch.device,
        board: Board | None = None,
        wandb_mode: WandbMode = "disabled",
        report: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        self.config, self.folder, self.device, self.report = config, folder, device, report
        # Who is trained on, who is held out, and the order of everything.
        manifest, self.validation, self.tests = open_trial_sets(config)
        self.num_utterances = len(manifest)
        self.bad_indices: set[int] = set()  # unreadable utterances that this worker met since the last record
        self.bad_bank_files: set[int] = set()  # likewise: noises and rooms
        self.plan = Plan.from_config(manifest.speakers, config)
        self.total_steps = config.train.epochs * self.plan.steps_per_epoch
        # The model, and where to go on.
        self.state = build_state(config, device)
        restore_state(self.state, folder)
        self.model = wrap_model(self.state.model, config, device)
        self.maker = ViewMaker(manifest, self.state.model.view_groups, config.data, config.seed)
        self.probe = open_probe(manifest, config)
        # Who watches.
        batch_seconds = config.evaluation.batch_seconds
        self.embedder = Embedder(self.state.model, device, config.train.precision, batch_seconds)
        self.meter = Meter(
            batch_size=config.train.batch_size,
            total_steps=self.total_steps,
            steps_per_epoch=self.plan.steps_per_epoch,
            first_step=self.state.step,
            seconds=self.state.seconds,
        )
        self.checkpoints = CheckpointWriter(folder, config.run)
        self.log: RunLog | None = None
        if distributed.is_main():
            self.log = RunLog(
                folder,
                first_step=self.state.step,
                config=to_dict(config),
                use_tensorboard=config.run.tensorboard,
                wandb_mode=wandb_mode,
                wandb_project=config.run.wandb_project,
                board=board,
            )

    def run(self) -> dict[str, Any]:
        """Train to the end and return the summary (what `summary.json` holds)."""
        state, folder, steps_per_epoch = self.state, self.folder, self.plan.steps_per_epoch
        batches = self.batches()
        try:
            while state.step < self.total_steps and state.stop_reason is None:
                with self.meter.waiting():
                    batch = next(batches)
                self.bad_indices.update(i for i in batch.pop("bad_utterance").tolist() if i >= 0)
                self.bad_bank_files.update(i for i in batch.pop("bad_bank_file").tolist() if i >= 0)
                self.meter.add(self.take_step(batch))
                is_epoch_end = state.step % steps_per_epoch == 0
                if is_epoch_end or state.step % self.config.train.log_every_steps == 0:
                    self.finish_interval(is_epoch_end)
            self.checkpoints.wait()
            trials = (self.validation, self.tests, self.probe)
            summary = validation.summarize(state, folder, self.embedder, *trials, self.meter, self.config)
            if self.log is not None:
                folder.write_json("summary.json", summary)
        finally:
            batches.close()
            self.checkpoints.close()
            if self.log is not None:
                self.log.close()
                write_report(folder)
        return summary

    def batches(self) -> Generator[dict[str, Tensor], None, None]:
        """This worker's share of every global batch that is still to come."""
        config, steps_per_epoch = self.config.resources, self.plan.steps_per_epoch
        # Put once: data processes keep what they have decoded while the reference is the same.
        maker = ray.put(self.maker)
        span = max(MAX_SPAN_STEPS // steps_per_epoch, 1) * steps_per_epoch
        step = self.state.step
        while step < self.total_steps:
            last = min(self.total_steps, (step // span + 1) * span)
            yield from train_batches(
                self.plan,
                maker,
                step,
                last,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                batches_per_block=config.batches_per_block,
                data_tasks=config.data_tasks,
                cpus_per_task=config.cpus_per_data_task,
            )
            step = last

    def take_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One optimizer step; returns loss, its terms, gradient norm and learning rate.

        They are tensors on the device: reading one of them here would make a GPU wait.
        """
        state, config, steps_per_epoch = self.state, self.config, self.plan.steps_per_epoch
        progress = Progress(state.step, self.total_steps, state.step // steps_per_epoch, config.train.epochs)
        if state.step % steps_per_epoch == 0:
            state.model.start_epoch(progress)
        # What a model draws depends on (seed, step, rank) alone, so that a resumed run draws the same.
        key = (config.seed * 1_000_003 + state.step) * 65_537 + distributed.rank()
        torch.manual_seed(key % 2**63)
        rate = learning_rate(
            config.optimizer.schedule,
            config.optimizer.learning_rate,
            state.step,
            self.total_steps,
            steps_per_epoch,
        )
        for group in state.optimizer.param_groups:
            group["lr"] = rate

        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        dtype = PRECISIONS[config.train.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            output = self.model(batch, progress)
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(output.loss).backward()
        state.scaler.unscale_(state.optimizer)
        state.model.before_step(progress)
        gradient_norm = clip_gradients(state.model, config.optimizer.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.model.after_step(progress)
        state.step += 1
        numbers = {"gradient_norm": gradient_norm, "learning_rate": torch.tensor(rate, device=self.device)}
        return {"loss": output.loss, **output.metrics, **numbers}

    def finish_interval(self, is_epoch_end: bool) -> None:
        """Log what the last steps came to; where due, validate, test, decide whether to stop, and save."""
        state, config = self.state, self.config
        record = self.meter.record()
        validation.check_finite(record, config)
        self.merge_bad_files()
        epoch = state.step // self.plan.steps_per_epoch
        is_last = state.step == self.total_steps
        is_validated = is_epoch_end and (epoch % config.evaluation.every_epochs == 0 or is_last)
        test_every = config.evaluation.test_every_epochs
        with self.meter.paused():
            if is_validated:
                record |= validation.validate(self.embedder, self.validation, self.probe, state, config)
                state.stop_reason = validation.reason_to_stop(record, state, config)
            if is_epoch_end and test_every and epoch % test_every == 0 and not is_last:
                record |= validation.test(self.embedder, self.tests, state)
            if self.log is not None:
                self.log.write(record)
                if is_validated or self.checkpoints.is_due():
                    state.seconds = self.meter.seconds
                    self.checkpoints.save(checkpoint_of(state, config))
            if is_validated:
                self.report(record)

    def merge_bad_files(self) -> None:
        """Tell every worker which files any of them could not read; too many utterances stop the run."""
        found = {index for indices in distributed.gather_objects(self.bad_indices) for index in indices}
        self.bad_indices = set()
        for index in sorted(found):
            path = self.maker.path(index)
            if path not in self.state.bad_utterances:
                self.state.bad_utterances[path] = self.maker.explain(index)
        bank = {index for indices in distributed.gather_objects(self.bad_bank_files) for index in indices}
        self.bad_bank_files = set()
        for index in sorted(bank):
            self.state.bad_bank_files.setdefault(
                self.maker.bank_path(index), self.maker.explain_bank_file(index)
            )
        seen = min(self.state.step * self.config.train.batch_size, self.num_utterances)
        validation.check_bad_share(self.state.bad_utterances, seen, self.config)
