"""Validate and test a training run, and decide whether it continues."""

import contextlib
import math
import socket
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from sslsv.config import Config, Criterion, is_better
from sslsv.evaluation.diagnostics import collapse_report
from sslsv.evaluation.probe import Probe
from sslsv.evaluation.trials import TrialSet
from sslsv.evaluation.verification import Embedder, Verification, verify
from sslsv.ops import distributed
from sslsv.training.state import TrainingState

ANOTHER_RUN = "need another run.name; encoder.init=RUN (this run's folder) starts it from this encoder"


class TrainingError(RuntimeError):
    """Report to the user why training can't continue; all workers raise it, and a restart would not help."""


def start_together(prepare: Callable[[], None]) -> None:
    """Run `prepare`, which may fail on a single worker, for example because data is missing on its machine.

    If it fails, every worker raises TrainingError, because the other workers would otherwise wait for the
    failed one. If the cause is an OSError, another attempt may succeed.
    """
    problem, cause = None, None
    try:
        prepare()
    except (ValueError, OSError) as error:
        sentence = f"Training worker {distributed.rank()} on {socket.gethostname()} can't start: {error}"
        problem, cause = (sentence, isinstance(error, OSError)), error
    for sentence, is_os_error in filter(None, distributed.gather_objects(problem)):
        raise TrainingError(sentence) from (cause or (OSError(sentence) if is_os_error else None))


def validate(
    embedder: Embedder, validation: TrialSet | None, probe: Probe | None, state: TrainingState, config: Config
) -> dict[str, Any]:
    """Return EER, minDCF and spread of embeddings on validation trials, and the probe's values.

    Updates the best value and step in `state`, or the number of validations without improvement.
    """
    record: dict[str, Any] = {}
    if validation is not None:
        result = _verify(embedder, validation, state)
        record |= result.metrics | collapse_report(torch.from_numpy(result.embeddings))
    if probe is not None:
        with _as_training_error():
            record |= probe.measure(embedder)
        state.skipped["trial_recordings"].update(probe.bad_recordings)
    # Results differ in the last bits between kinds of machines, but all workers must choose alike.
    record = distributed.broadcast_object(record)
    if criterion := config.evaluation.selection_criterion:
        note_best(record, criterion, state, config)
        record |= {"criterion": criterion, "best_value": state.best_value}
    return record


def note_best(record: dict[str, Any], criterion: Criterion, state: TrainingState, config: Config) -> None:
    """Record in `state` a new best value of the criterion, or one more validation without improvement."""
    value = record[criterion]
    # The embeddings of a collapsed model are rounding errors in all directions, which look like a high rank.
    can_win = not (criterion.startswith("label_free/") and _has_collapsed(record, config))
    if can_win and (state.best_value is None or is_better(criterion, value, state.best_value)):
        state.best_value, state.best_step, state.validations_without_gain = value, state.step, 0
    else:
        state.validations_without_gain += 1


def test(
    embedder: Embedder, tests: list[TrialSet], state: TrainingState, replicates: int = 0
) -> dict[str, float]:
    """Return the metrics of every test list as `test/<list>/<metric>`; they do not influence training."""
    return {
        f"test/{t.name}/{key}": value
        for t in tests
        for key, value in _verify(embedder, t, state, replicates).metrics.items()
    }


def _verify(
    embedder: Embedder, trial_set: TrialSet, state: TrainingState, replicates: int = 0
) -> Verification:
    with _as_training_error():
        result = verify(embedder, trial_set, replicates)
    state.skipped["trial_recordings"].update(result.bad_recordings)
    return result


@contextlib.contextmanager
def _as_training_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise TrainingError(str(error)) from error


def reason_to_stop(record: dict[str, Any], state: TrainingState, config: Config) -> str | None:
    """Return the reason to stop now, or None; mark the record if the model has collapsed.

    Every worker returns the same answer, because all have the same record and state.
    """
    collapse = config.train.collapse
    if _has_collapsed(record, config) and collapse.action != "ignore":
        record["has_collapsed"] = True
        record["notice"] = (
            f"The embeddings have collapsed at step {state.step}: their spread is {_spread(record):.3f}, "
            f"below train.collapse.min_feature_std ({collapse.min_feature_std}), so all recordings sound "
            "alike to the model. Lower the learning rate, try another temperature, or raise the variance "
            "weight."
        )
        if collapse.action == "stop":
            return str(record["notice"])
    patience = config.train.patience
    if patience is None or state.validations_without_gain < patience:
        return None
    best = "none yet" if state.best_value is None else f"the best is {state.best_value:.4g}"
    return (
        f"Stopped early at step {state.step}: {config.evaluation.selection_criterion} has not improved in "
        f"{patience} validations (train.patience); {best}."
    )


def _has_collapsed(record: dict[str, Any], config: Config) -> bool:
    return _spread(record) < config.train.collapse.min_feature_std


def _spread(record: dict[str, Any]) -> float:
    """Return `feature_std` of the validation recordings, else of the probe, else of the batches."""
    keys = ("feature_std", "label_free/feature_std", "batch_feature_std")
    return next(float(record[key]) for key in keys if key in record)


def check_finite(record: dict[str, Any], model: nn.Module, config: Config) -> None:
    """Raise TrainingError if the loss of a record (a mean over all workers) or a weight is not finite."""
    norms = torch.stack(torch._foreach_norm([p.detach() for p in model.parameters()]))
    is_broken = not bool(norms.isfinite().all())
    if is_broken or not math.isfinite(record["loss"]):
        problem = "The weights became infinite or NaN" if is_broken else f"The loss became {record['loss']}"
        raise TrainingError(
            f"{problem} by step {record['step']} (loss {record['loss']:.3g}, gradient norm "
            f"{record['gradient_norm']:.3g}, learning rate {record['learning_rate']:.3g}, precision "
            f"{config.train.precision}). Lower optimizer.learning_rate, set optimizer.clip_norm, or use "
            f"train.precision=fp32; the last checkpoint was saved before that. Other settings {ANOTHER_RUN}."
        )


def check_bad_share(bad_utterances: dict[str, str], seen: int, config: Config) -> None:
    """Raise TrainingError, listing them, if too large a share of the utterances seen can't be read."""
    share = len(bad_utterances) / seen
    # A single bad utterance never stops a run: at the start, it would be a large share.
    if share > config.data.max_bad_share and len(bad_utterances) > 1:
        listed = "\n  ".join(bad_utterances.values())
        raise TrainingError(
            f"{len(bad_utterances)} of the {seen} utterances seen so far ({share:.1%}) can't be read, more "
            f"than data.max_bad_share ({config.data.max_bad_share:.1%}) allows. Repair them, or raise the "
            f"share, to go on. Lists without them {ANOTHER_RUN}:\n  {listed}"
        )
