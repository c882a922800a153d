"""What one training worker does, top to bottom.

`train_worker` is what Ray Train starts in every worker; `run_training` is the loop itself.  It knows Ray only through the data pipeline
and the `report` function it is given, so that a search can also call it directly.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
from torch import Tensor, nn

from sslsv import distributed
from sslsv.checkpoint import find_checkpoint, read_checkpoint
from sslsv.config import Config, read_config, to_dict
from sslsv.data.pipeline import train_batches
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker
from sslsv.diagnostics import collapse_report
from sslsv.environment import describe_environment
from sslsv.meter import Meter, is_finite
from sslsv.models.base import Progress
from sslsv.optim import clip_gradients
from sslsv.report import write_report
from sslsv.run_folder import RunFolder
from sslsv.run_log import Board, RunLog
from sslsv.schedules import learning_rate
from sslsv.training_state import TrainingState, build_state, restore_state, save_state, wrap_model
from sslsv.verification import Embedder, TrialSet, describe_trials, open_trial_sets, verify


class TrainingError(RuntimeError):
    """Training can't go on, for a reason that all workers see and that a restart would meet again; the message is for the user."""


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Entry of a Ray Train worker: find the device, run the loop, hand a TrainingError back as text instead of raising it.

    An exception would count as a crash, and Ray would start the workers again.
    """
    import ray.train
    import ray.train.torch

    device = ray.train.torch.get_device() if job["has_gpu"] else torch.device("cpu")
    if (
        device.type == "cpu"
    ):  # Ray allows one thread; the cores of this machine are for its training workers to share
        workers_here = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers_here))
    try:
        return run_training(
            read_config(job["config"]),
            RunFolder(job["storage"], job["name"]),
            device=device,
            board=job["board"],
            wandb_mode=job["wandb_mode"],
            report=ray.train.report,
        )
    except TrainingError as error:
        return {"error": str(error)}


def run_training(
    config: Config,
    folder: RunFolder,
    *,
    device: torch.device,
    board: Board | None = None,
    wandb_mode: str = "disabled",
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Train from the newest sound checkpoint of `folder`, or from nothing, to the end, and return the summary."""
    # Who is trained on, who is held out, and the order of everything.
    manifest, validation, tests = open_trial_sets(config)
    plan = Plan(
        manifest.speakers,
        config.train.batch_size,
        config.seed,
        config.data.positives,
        config.data.max_utterances_per_speaker,
    )
    total_steps = config.train.epochs * plan.steps_per_epoch

    # The model, and where to go on.
    state = build_state(config, device)
    restore_state(state, folder)
    model = wrap_model(state.model, config, device)
    maker = ViewMaker(manifest, state.model.view_groups, config.data, config.seed)
    embedder = Embedder(state.model, device, config.train.precision, config.evaluation.batch_seconds)
    meter = Meter(
        batch_size=config.train.batch_size,
        total_steps=total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        first_step=state.step,
        seconds=state.seconds,
    )
    log = None
    if distributed.is_main():
        log = RunLog(
            folder,
            first_step=state.step,
            config=to_dict(config),
            use_tensorboard=config.run.tensorboard,
            wandb_mode=wandb_mode,
            wandb_project=config.run.wandb_project,
            board=board,
        )

    stop_reason = None
    last_saved = time.monotonic()
    batches = batches_of(config, plan, maker, state.step, total_steps)
    while state.step < total_steps and stop_reason is None:
        with meter.waiting():
            batch = next(batches)
        note_bad_utterances(batch.pop("bad_utterance"), state, maker, config, len(manifest))
        epoch, step_in_epoch = divmod(state.step, plan.steps_per_epoch)
        progress = Progress(state.step, total_steps, epoch, config.train.epochs)
        if step_in_epoch == 0:
            state.model.start_epoch(progress)
        meter.add(take_step(model, state, batch, progress, config, plan.steps_per_epoch, device))

        is_epoch_end = step_in_epoch + 1 == plan.steps_per_epoch
        is_last = state.step == total_steps
        is_validated = is_epoch_end and ((epoch + 1) % config.evaluation.every_epochs == 0 or is_last)
        if state.step % config.train.log_every_steps == 0 or is_epoch_end:
            record = meter.record()
            if not is_finite(record):
                raise TrainingError(not_finite(record, config))
            with meter.paused():
                if is_validated:
                    record |= validate(embedder, validation, state)
                    is_tested = (
                        config.evaluation.test_every_epochs
                        and (epoch + 1) % config.evaluation.test_every_epochs == 0
                    )
                    record |= test(embedder, tests) if is_tested and not is_last else {}
                    stop_reason = reason_to_stop(record, state, config)
                if log is not None:
                    log.write(record)
                is_due = time.monotonic() - last_saved >= 60 * config.run.checkpoint_every_minutes
                if is_validated or is_due:
                    state.seconds = meter.seconds
                    last_saved = time.monotonic()
                    if log is not None:
                        save_state(state, folder, config)
                if is_validated:
                    report(record)
    batches.close()

    summary = summarize(state, folder, embedder, validation, tests, meter, stop_reason)
    if log is not None:
        folder.write_json("summary.json", summary)
        write_report(folder)
        log.close(summary["last"])
    return summary


def batches_of(
    config: Config, plan: Plan, maker: ViewMaker, first_step: int, total_steps: int
) -> Iterator[dict[str, Tensor]]:
    """This worker's share of every global batch from `first_step` on.

    One Ray Data execution per span of up to 4096 steps (but at least an epoch): starting one costs 0.25 s, and its plan must stay small.
    """
    reference = ray.put(
        maker
    )  # once: data processes keep what they have decoded while the reference is the same
    span = max(4096 // plan.steps_per_epoch, 1) * plan.steps_per_epoch
    step = first_step
    while step < total_steps:
        last = min(total_steps, (step // span + 1) * span)
        yield from train_batches(
            plan,
            reference,
            step,
            last,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            batches_per_block=config.resources.batches_per_block,
            data_tasks=config.resources.data_tasks,
            cpus_per_task=config.resources.cpus_per_data_task,
        )
        step = last


def take_step(
    model: nn.Module,
    state: TrainingState,
    batch: dict[str, Tensor],
    progress: Progress,
    config: Config,
    steps_per_epoch: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """One optimizer step; returns loss, its terms and the gradient norm as tensors on the device: reading them would make it wait."""
    # What a model draws depends on (seed, step, rank) alone, so that a resumed run draws the same.
    torch.manual_seed((config.seed * 1_000_003 + progress.step) * 65_537 + distributed.rank())
    batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    schedule = config.optimizer.schedule
    rate = learning_rate(
        schedule, config.optimizer.learning_rate, progress.step, progress.total_steps, steps_per_epoch
    )
    for group in state.optimizer.param_groups:
        group["lr"] = rate

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.train.precision]
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = model(batch, progress)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(output.loss).backward()
    state.scaler.unscale_(state.optimizer)
    state.model.before_step(progress)
    gradient_norm = clip_gradients(state.model, config.optimizer.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.model.after_step(progress)
    state.step += 1
    return {
        "loss": output.loss,
        **output.metrics,
        "gradient_norm": gradient_norm,
        "learning_rate": torch.tensor(rate, device=device),
    }


def validate(embedder: Embedder, validation: TrialSet | None, state: TrainingState) -> dict[str, Any]:
    """EER and minDCF on the validation trials and the spread of their embeddings; keeps the best value in `state`."""
    if validation is None:
        return {}
    metrics, embeddings = verify(embedder, validation)
    if state.best_value is None or metrics["eer"] < state.best_value:
        state.best_value, state.best_step, state.validations_without_gain = metrics["eer"], state.step, 0
    else:
        state.validations_without_gain += 1
    return {**metrics, "best_eer": state.best_value, **collapse_report(torch.from_numpy(embeddings))}


def test(embedder: Embedder, tests: list[TrialSet]) -> dict[str, float]:
    """Metrics of every test list, as `test/<list>/<metric>`; reported, never used to choose."""
    return {f"test/{t.name}/{key}": value for t in tests for key, value in verify(embedder, t)[0].items()}


def reason_to_stop(record: dict[str, Any], state: TrainingState, config: Config) -> str | None:
    """Why to stop now, if so.  Every worker comes to the same answer: all hold the same record and state."""
    patience, collapse = config.train.patience, config.train.collapse
    spread = record.get("feature_std")
    if spread is not None and spread < collapse.min_feature_std and collapse.action != "ignore":
        record["has_collapsed"] = True
        record["notice"] = (
            f"The embeddings have collapsed at step {state.step}: their spread is {spread:.3f} (train.collapse.min_feature_std "
            f"{collapse.min_feature_std}), so all recordings sound alike to the model."
        )
        if collapse.action == "stop":
            return str(record["notice"])
    if patience is not None and state.validations_without_gain >= patience:
        return (
            f"Stopped early at step {state.step}: no better validation EER than {state.best_value:.2f} % "
            f"in {patience} validations (train.patience)."
        )
    return None


def note_bad_utterances(
    bad: Tensor, state: TrainingState, maker: ViewMaker, config: Config, num_utterances: int
) -> None:
    """Remember which recordings could not be read, and why; raise TrainingError when they are too many."""
    found = distributed.gather(bad)
    for index in found[found >= 0].unique().tolist():
        path = maker.path(index)
        if path not in state.bad_utterances:
            state.bad_utterances[path] = maker.explain(index)
    seen = min((state.step + 1) * config.train.batch_size, num_utterances)
    share = len(state.bad_utterances) / seen
    if share > config.data.max_bad_share and len(state.bad_utterances) > 1:
        listed = "\n  ".join(state.bad_utterances.values())
        raise TrainingError(
            f"{len(state.bad_utterances)} of the {seen} utterances seen so far ({share:.1%}) can't be read, more than data.max_bad_share "
            f"({config.data.max_bad_share:.1%}) allows. Repair them, take them off the list, or raise the share:\n  {listed}"
        )


def not_finite(record: dict[str, Any], config: Config) -> str:
    return (
        f"The loss became {record['loss']} by step {record['step']} (gradient norm {record['gradient_norm']:.3g}, learning rate "
        f"{record['learning_rate']:.3g}, precision {config.train.precision}). Lower optimizer.learning_rate, set "
        "optimizer.clip_norm, or use train.precision=fp32; the last checkpoint is from before."
    )


def summarize(
    state: TrainingState,
    folder: RunFolder,
    embedder: Embedder,
    validation: TrialSet | None,
    tests: list[TrialSet],
    meter: Meter,
    stop_reason: str | None,
) -> dict[str, Any]:
    """What the run came to: test results of the last and of the best checkpoint, counts, time, environment."""
    last = test(embedder, tests)
    best: dict[str, Any] = {}
    if state.best_step is not None:
        best = {"step": state.best_step, "eer": state.best_value}
        if tests and state.best_step != state.step:
            name = distributed.broadcast_object(
                find_checkpoint(folder, "best") if distributed.is_main() else None
            )
            state.model.load_state_dict(read_checkpoint(folder, name).model)
            best |= test(embedder, tests)
        else:
            best |= last
    return {
        "is_finished": True,
        "stop_reason": stop_reason,
        "last": {"step": state.step, **last},
        "best": best,
        "trial_sets": {t.name: describe_trials(t) for t in [validation, *tests] if t is not None},
        "bad_utterances": state.bad_utterances,
        "seconds": meter.seconds,
        "samples_per_second": (state.step - meter.first_step)
        * meter.batch_size
        / max(meter.training_seconds, 1e-9),
        "workers": distributed.world_size(),
        "environment": describe_environment(),
    }
