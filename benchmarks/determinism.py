"""Does anything but (seed, sample) change a batch?  python -m benchmarks.determinism CONFIG [key=value ...]

Makes the same global batches through Ray Data with different numbers of workers, data processes and batches
per block, once from the start and once from the middle of an epoch as a resumed run would, and without Ray.
Prints the checksum of each global batch (utterance order and every sample of audio) and how many are equal.
"""

import argparse
import hashlib
from collections.abc import Iterable

import ray
import torch

from sslsv.build import build_model
from sslsv.config import load_config
from sslsv.data.pipeline import plain_batches, train_batches
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker
from sslsv.evaluation.trials import open_trial_sets
from sslsv.models.base import CorpusSize

# Workers, data processes, batches per block, first step.
CASES = ((1, 1, 4, 0), (1, 3, 1, 0), (2, 2, 4, 0), (2, 3, 2, 0), (4, 4, 3, 0), (1, 2, 4, 5), (2, 2, 3, 5))


def checksum(batches: Iterable[dict[str, torch.Tensor]]) -> str:
    """First digits of the SHA-256 of one global batch, given as the parts of its workers in order."""
    digest = hashlib.sha256()
    parts = list(batches)
    for name in sorted(parts[0]):
        digest.update(torch.cat([part[name] for part in parts]).numpy().tobytes())
    return digest.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=12, help="global batches (%(default)s)")
    given = parser.parse_args()
    config = load_config(given.config, given.overrides)
    manifest, _, _ = open_trial_sets(config)
    data = config.data
    plan = Plan(len(manifest), config.train.batch_size, config.seed)
    maker = ViewMaker(manifest, build_model(config, CorpusSize()).views, data, config.seed)
    reference = [checksum([batch]) for batch in plain_batches(plan, maker, 0, given.steps)]
    print(f"{plan.steps_per_epoch} steps an epoch; without Ray: {' '.join(reference)}")
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    print("workers  data processes  batches per block  first step  equal to the above")
    for workers, tasks, per_block, first in CASES:
        streams = [
            train_batches(
                plan,
                maker,
                first,
                given.steps,
                rank=rank,
                world_size=workers,
                utterances_per_block=per_block * plan.batch_size // workers,
                data_tasks=max(tasks, workers),
                cpus_per_task=0.5,
            )
            for rank in range(workers)
        ]
        made = [checksum(parts) for parts in zip(*streams, strict=True)]
        equal = sum(a == b for a, b in zip(made, reference[first:], strict=True))
        print(
            f"{workers:7d}  {max(tasks, workers):14d}  {per_block:17d}  {first:10d}  {equal} of {len(made)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
