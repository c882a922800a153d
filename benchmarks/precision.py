"""Does bf16 learn what fp32 learns?  python -m benchmarks.precision CONFIG [key=value ...] [--steps 300]

Trains the config's model in both precisions on the same batches, in this process without Ray, then prints
the errors of both on the config's validation and test trials, and how near the embeddings of whole
recordings are when one set of weights is read in both precisions (cosine). Takes as long as two short
trainings; `--seeds` repeats it, which shows how far apart two runs of one precision are.
"""

import argparse
import dataclasses

import numpy as np
import torch

from sslsv.config import Config, load_config
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker
from sslsv.evaluation.trials import TrialSet, open_trial_sets
from sslsv.evaluation.verification import Embedder, verify
from sslsv.models.base import CorpusSize
from sslsv.training.state import TrainingState, build_state
from sslsv.training.step import take_step
from tests.data.batches import plain_batches

PRECISIONS = ("fp32", "bf16")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_both(config: Config, steps: int | None) -> tuple[dict[str, TrainingState], list[TrialSet]]:
    """Models of both precisions after the same batches, by precision, and the trials to measure them on."""
    manifest, validation, tests = open_trial_sets(config)
    plan = Plan(len(manifest), config.train.batch_size, config.seed)
    last = min(
        steps or plan.steps_per_epoch * config.train.epochs, plan.steps_per_epoch * config.train.epochs
    )
    variants = {name: with_precision(config, name) for name in PRECISIONS}
    states = {name: build_state(variant, CorpusSize(), DEVICE) for name, variant in variants.items()}
    maker = ViewMaker(manifest, states["fp32"].model.views, config.data, config.seed)
    for batch in plain_batches(plan, maker, 0, last):
        for name, state in states.items():
            take_step(
                state,
                state.model,
                batch,
                config=variants[name],
                steps_per_epoch=plan.steps_per_epoch,
                device=DEVICE,
                corpus=None,
            )
    return states, [trials for trials in (validation, *tests) if trials is not None]


def with_precision(config: Config, precision: str) -> Config:
    """The same config in another precision; without compilation, which is not the question."""
    train = dataclasses.replace(config.train, precision=precision, compile=False)  # type: ignore[arg-type]
    return dataclasses.replace(config, train=train)


def cosines(state: TrainingState, trials: TrialSet, config: Config) -> np.ndarray:
    """Cosine between fp32's and bf16's embedding of each recording, by the same weights."""
    rows = []
    for precision in PRECISIONS:
        embedder = Embedder(state.model, DEVICE, precision, config.evaluation.batch_seconds)
        embeddings, _ = embedder.embed_recordings(trials.read, len(trials.trials.paths))
        rows.append(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12))
    return (rows[0] * rows[1]).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, help="stop after so many; default: the config's epochs")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the config's")
    given = parser.parse_intermixed_args()
    base = load_config(given.config, given.overrides)
    print("  seed trials               precision    EER %  minDCF  cosine: least    median")
    for seed in given.seeds or [base.seed]:
        config = dataclasses.replace(base, seed=seed)
        states, trial_sets = train_both(config, given.steps)
        for trials in trial_sets:
            for name, state in states.items():
                embedder = Embedder(state.model, DEVICE, name, config.evaluation.batch_seconds)
                metrics = verify(embedder, trials).metrics
                near = cosines(state, trials, config)
                print(
                    f"{seed:6} {trials.name:20} {name:10} {metrics['eer']:7.2f} {metrics['min_dcf']:7.4f} "
                    f"{near.min():14.6f} {np.median(near):9.6f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
