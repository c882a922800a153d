"""Run the training loop of one worker, called by `cluster/worker.py` or directly by a search."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from torch import Tensor

from sslsv.config import Config
from sslsv.data.pipeline import share_maker
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker
from sslsv.evaluation.probe import Probe
from sslsv.evaluation.trials import count_trials, open_trial_sets
from sslsv.evaluation.verification import Embedder
from sslsv.ops import distributed
from sslsv.runs.checkpoint import CheckpointWriter, find_checkpoint, read_checkpoint
from sslsv.runs.environment import describe_environment
from sslsv.runs.folder import RunFolder
from sslsv.runs.log import RunLog, WandbMode
from sslsv.training import validation
from sslsv.training.corpus import TrainingCorpus
from sslsv.training.meter import Meter
from sslsv.training.state import build_state, checkpoint_of, restore_state, wrap_model
from sslsv.training.step import take_step

# Largest size of one execution of Ray Data, unless an epoch is longer. Each start costs 0.25 s, but every
# worker keeps the sample order of the entire execution in memory.
MAX_SPAN_STEPS, MAX_SPAN_SAMPLES = 4096, 2**20

REPLICATES = 1000  # bootstrap draws for the intervals of the final tests, as in `sslsv evaluate`

# Steps between two exchanges on whether to stop; on GPUs, each exchange waits for all queued work.
ASK_EVERY_STEPS = {"cpu": 1, "cuda": 8}


class Interrupted(RuntimeError):
    """End every worker after a save, so that training can start again with other workers."""


class Training:
    """Train one run to its end, starting from the newest undamaged checkpoint in its folder, if there is one.

    `asked_to_stop` returns why this worker should stop early, or None. If any worker returns a reason, all
    workers save and raise Interrupted after the same step.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        *,
        device: torch.device,
        wandb_mode: WandbMode = "disabled",
        asked_to_stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.config, self.folder, self.device, self.asked_to_stop = config, folder, device, asked_to_stop
        # Indices of the files that this worker could not read since the last record.
        self.unreadable: dict[str, set[int]] = {"utterances": set(), "bank_files": set()}
        validation.start_together(self.open)  # if one worker fails, all raise TrainingError
        self.total_steps = config.train.epochs * self.plan.steps_per_epoch
        restore_state(self.state, folder, config)
        self.model = wrap_model(self.state.model, config, device)
        precision, batch_seconds = config.train.precision, config.evaluation.batch_seconds
        self.embedder = Embedder(self.state.model, device, precision, batch_seconds)
        self.meter = Meter(self.plan, self.total_steps, self.state)
        self.checkpoints = CheckpointWriter(
            folder, keep=config.run.keep_checkpoints, every_minutes=config.run.checkpoint_every_minutes
        )
        self.log: RunLog | None = None
        if distributed.is_main():
            settings = asdict(config)
            self.log = RunLog(folder, first_step=self.state.step, config=settings, wandb_mode=wandb_mode)
            folder.write_json("trained.json", self.describe())

    def open(self) -> None:
        """Open the lists, plan the order of the samples, and build the model.

        Raises ValueError if the corpus is too small, crops are too short, or a setting is not supported.
        """
        config = self.config
        self.manifest, self.validation, self.tests = open_trial_sets(config)
        self.corpus = TrainingCorpus(self.manifest, config, self.device)
        self.plan = Plan(len(self.manifest), config.train.batch_size, config.seed)
        self.probe = Probe(self.manifest, config) if config.evaluation.label_free.utterances else None
        self.state = build_state(config, self.corpus.size, self.device)
        model = self.state.model
        self.maker = ViewMaker(self.manifest, model.views, config.data, config.seed, model.needs_labels)

    def describe(self) -> dict[str, Any]:
        """Return the sizes of model and corpus, and the environment, for the report."""
        model = self.state.model
        parts = {"parameters": model, "encoder_parameters": model.get_submodule(model.embedder)}
        return {
            **{name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
            "utterances": len(self.manifest),
            "speakers": self.manifest.num_speakers,
            "hours": self.corpus.hours(),
            "workers": distributed.world_size(),
            "environment": describe_environment(),
        }

    def run(self, until_epoch: int | None = None) -> dict[str, Any]:
        """Train to the end and return the summary (the content of `summary.json`).

        If `until_epoch` is before the end, train to it and return {}; it needs a validation, which saves.
        """
        state, steps_per_epoch = self.state, self.plan.steps_per_epoch
        last_step = min((until_epoch or self.config.train.epochs) * steps_per_epoch, self.total_steps)
        batches = self.batches()
        try:
            while state.step < last_step and state.stop_reason is None:
                self.meter.add(self.take_step(self.next_batch(batches)))
                is_epoch_end = state.step % steps_per_epoch == 0
                is_asked = is_any_asked(self.asked_to_stop() is not None, state.step, self.device)
                is_leaving = is_asked and state.step < last_step
                if is_epoch_end or is_leaving or state.step % self.config.train.log_every_steps == 0:
                    self.finish_interval(is_epoch_end, is_leaving)
                if is_leaving and state.stop_reason is None:
                    self.leave()
            self.checkpoints.wait()
            if last_step < self.total_steps and state.stop_reason is None:
                return {}
            summary = self.summarize()
            if self.log is not None:
                self.folder.write_json("summary.json", summary)
        finally:
            batches.close()
            self.checkpoints.close()
            if self.log is not None:
                self.log.close()
        return summary

    def batches(self) -> Generator[dict[str, Tensor], None, None]:
        """Yield this worker's share of every remaining global batch."""
        maker = share_maker(self.maker)
        span = steps_at_once(self.config.train.batch_size, self.plan.steps_per_epoch)
        step = self.state.step
        while step < self.total_steps:
            end = min(self.total_steps, (step // span + 1) * span)
            yield from self.corpus.batches(self.plan, maker, step, end)
            step = end

    def next_batch(self, batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Wait for the next batch, and record the files in it that could not be read."""
        with self.meter.spent_on("waiting"):
            batch = next(batches)
        for column, kind in (("bad_utterance", "utterances"), ("bad_bank_file", "bank_files")):
            self.unreadable[kind].update(index for index in batch.pop(column).tolist() if index >= 0)
        return batch

    def take_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take one optimizer step; see `step.take_step`."""
        return take_step(
            self.state,
            self.model,
            batch,
            config=self.config,
            steps_per_epoch=self.plan.steps_per_epoch,
            device=self.device,
            corpus=self.corpus,
        )

    def leave(self) -> NoReturn:
        """Wait until the checkpoint of this step is in the run's folder, then raise Interrupted."""
        self.checkpoints.wait()
        distributed.barrier()  # Ray stops all at the first exception, so wait until rank 0 has written.
        reasons = filter(None, distributed.gather_objects(self.asked_to_stop()))
        raise Interrupted(f"step {self.state.step}: {next(reasons, 'asked to stop')}")

    def finish_interval(self, is_epoch_end: bool, is_leaving: bool = False) -> None:
        """Log the last steps; if due, validate, test, decide whether to stop, and save."""
        state, config = self.state, self.config
        record = self.meter.record()
        validation.check_finite(record, state.model, config)
        self.merge_skipped()
        epoch = state.step // self.plan.steps_per_epoch
        is_last = state.step == self.total_steps
        is_validated = is_epoch_end and (epoch % config.evaluation.every_epochs == 0 or is_last)
        test_every = config.evaluation.test_every_epochs
        with self.meter.spent_on("pause"):
            if is_epoch_end:
                distributed.share_buffers(state.model)
            if is_validated:
                record |= validation.validate(self.embedder, self.validation, self.probe, state, config)
                state.stop_reason = validation.reason_to_stop(record, state, config)
            if is_epoch_end and test_every and epoch % test_every == 0 and not is_last:
                record |= validation.test(self.embedder, self.tests, state)
            if self.log is not None:
                is_saving = is_validated or is_leaving or self.checkpoints.is_due()
                self.log.write(record, is_urgent=is_saving)
                if is_saving:
                    state.seconds = self.meter.seconds
                    self.checkpoints.save(checkpoint_of(state, config))

    def merge_skipped(self) -> None:
        """Exchange unreadable files between workers; raises TrainingError if too many utterances are bad."""
        for kind in ("utterances", "bank_files"):
            skipped, gathered = self.state.skipped[kind], distributed.gather_objects(self.unreadable[kind])
            self.unreadable[kind] = set()
            for index in sorted(set().union(*gathered)):
                path, reason = self.maker.explain(kind, index)
                skipped.setdefault(path, reason)
        seen = min(self.state.step * self.config.train.batch_size, len(self.manifest))
        validation.check_bad_share(self.state.skipped["utterances"], seen, self.config)

    def summarize(self) -> dict[str, Any]:
        """Return test metrics of the last and the best checkpoint, counts, time and environment.

        If there are test lists, `state.model` has the best weights afterwards.
        """
        state, seconds = self.state, self.meter.seconds  # before the final tests
        last = validation.test(self.embedder, self.tests, state, REPLICATES)
        best: dict[str, Any] = {}
        if state.best_step is not None:
            criterion = self.config.evaluation.selection_criterion
            best = {"step": state.best_step, "criterion": criterion, "value": state.best_value}
            if state.best_step == state.step:
                best |= last
            elif self.tests:
                name = None  # stays None if the file is damaged or missing
                if distributed.is_main():
                    with contextlib.suppress(ValueError):
                        name = find_checkpoint(self.folder, "best")
                if name := distributed.broadcast_object(name):
                    state.model.load_state_dict(read_checkpoint(self.folder, name).model)
                    best |= validation.test(self.embedder, self.tests, state, REPLICATES)
        trial_sets = [each for each in (self.validation, *self.tests) if each is not None]
        counts = {each.name: count_trials(each.trials) for each in trial_sets}
        return {
            "is_finished": True,
            "stop_reason": state.stop_reason,
            "last": {"step": state.step, **last},
            "best": best,
            "trial_sets": counts | ({"label-free probe": self.probe.describe()} if self.probe else {}),
            "skipped": state.skipped,
            "seconds": seconds,
            "workers": distributed.world_size(),
            "environment": describe_environment(),
        }


def is_any_asked(is_asked: bool, step: int, device: torch.device) -> bool:
    """Return, on all workers alike, whether any was asked to stop; all must call this after every step."""
    if distributed.world_size() == 1:
        return is_asked
    if step % ASK_EVERY_STEPS.get(device.type, 1) != 0:
        return False
    return bool(distributed.all_reduce_sum(torch.tensor(float(is_asked), device=device)) > 0)


def steps_at_once(batch_size: int, steps_per_epoch: int) -> int:
    """Return the number of steps of one execution of Ray Data, a multiple of the steps of an epoch."""
    max_steps = min(MAX_SPAN_STEPS, MAX_SPAN_SAMPLES // batch_size)
    return max(max_steps // steps_per_epoch, 1) * steps_per_epoch
