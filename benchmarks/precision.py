"""Compare training in bf16 and fp32.  python -m benchmarks.precision CONFIG [key=value ...] [--steps 300]

Trains the config's model in both precisions on the same batches, in this process without Ray. Then prints the
errors of both models on the config's validation and test trials and, for each model, the cosine between
embeddings of entire recordings in both precisions. This takes as long as two short trainings. `--seeds`
repeats everything, which shows the variation between runs of one precision.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from benchmarks.command import parser_of
from sslsv.config import Config, load_config
from sslsv.data.lists import Manifest
from sslsv.data.stream import InOrder, Plan
from sslsv.data.views import ViewMaker
from sslsv.evaluation.trials import TrialSet, open_trial_sets
from sslsv.evaluation.verification import Embedder, verify
from sslsv.models.base import CorpusSize, Model
from sslsv.training.corpus import BLOCK_CROPS
from sslsv.training.state import TrainingState, build_state
from sslsv.training.step import take_step
from tests.data.batches import plain_batches

PRECISIONS = ("fp32", "bf16")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class PlainCorpus:
    """Embed all training utterances in this process; see `models.base.Corpus`."""

    def __init__(self, manifest: Manifest, config: Config) -> None:
        self.manifest, self.config = manifest, config
        self.size = CorpusSize(len(manifest), manifest.num_speakers * config.data.classes_per_speaker)

    def embed(self, model: Model, *, seconds: float = 4.0, clean: bool = True) -> Tensor:
        """Return embeddings of one crop of each utterance, (N, D)."""
        data, evaluation = self.config.data, self.config.evaluation
        if clean:
            data = dataclasses.replace(data, speeds=(1.0,), speeds_are_classes=False)
        maker = ViewMaker(self.manifest, [("crop", 1, seconds, clean)], data, self.config.seed)
        plan = InOrder(self.size.num_utterances, BLOCK_CROPS)
        embedder = Embedder(model, DEVICE, self.config.train.precision, evaluation.batch_seconds)
        batches = plain_batches(plan, maker, 0, plan.steps_per_epoch)
        rows = torch.cat([embedder.embed(batch["crop"][:, 0].numpy()) for batch in batches])
        return rows[: self.size.num_utterances]


def train_both(
    variants: dict[str, Config], steps: int | None
) -> tuple[dict[str, TrainingState], list[TrialSet]]:
    """Train both precisions on the same batches; return their states by precision, and the trials."""
    config = variants["fp32"]
    manifest, validation, tests = open_trial_sets(config)
    plan = Plan(len(manifest), config.train.batch_size, config.seed)
    total = plan.steps_per_epoch * config.train.epochs
    corpora = {name: PlainCorpus(manifest, variant) for name, variant in variants.items()}
    states = {name: build_state(variants[name], corpora[name].size, DEVICE) for name in variants}
    model = states["fp32"].model
    maker = ViewMaker(manifest, model.views, config.data, config.seed, model.needs_labels)
    for batch in plain_batches(plan, maker, 0, min(steps or total, total)):
        for name, state in states.items():
            take_step(
                state,
                state.model,
                batch,
                config=variants[name],
                steps_per_epoch=plan.steps_per_epoch,
                device=DEVICE,
                corpus=corpora[name],
            )
    return states, [trials for trials in (validation, *tests) if trials is not None]


def cosines(state: TrainingState, trials: TrialSet, config: Config) -> np.ndarray:
    """Return the cosine between the fp32 and bf16 embedding of each recording, with the same weights."""
    rows = []
    for precision in PRECISIONS:
        embedder = Embedder(state.model, DEVICE, precision, config.evaluation.batch_seconds)
        embeddings, _ = embedder.embed_recordings(trials.read, len(trials.trials.paths))
        rows.append(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12))
    return (rows[0] * rows[1]).sum(1)


def main() -> None:
    parser = parser_of("precision", __doc__)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, help="steps of each training; default: the config's epochs")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the config's seed")
    args = parser.parse_intermixed_args()
    base = load_config(args.config, args.overrides)
    print("  seed trials               precision    EER %  minDCF  cosine: least    median")
    for seed in args.seeds or [base.seed]:
        shared = [*args.overrides, f"seed={seed}", "train.compile=false"]  # only precisions are compared
        variants = {
            name: load_config(args.config, [*shared, f"train.precision={name}"]) for name in PRECISIONS
        }
        states, trial_sets = train_both(variants, args.steps)
        for trials in trial_sets:
            for name, state in states.items():
                embedder = Embedder(state.model, DEVICE, name, base.evaluation.batch_seconds)
                metrics = verify(embedder, trials).metrics
                cosine = cosines(state, trials, base)
                print(
                    f"{seed:6} {trials.name:20} {name:10} {metrics['eer']:7.2f} {metrics['min_dcf']:7.4f} "
                    f"{cosine.min():14.6f} {np.median(cosine):9.6f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
