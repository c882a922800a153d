"""Are a packed corpus's batches those of its files?  python -m benchmarks.packed CONFIG ROOT ROOT ...

Makes the first global batches of a configuration from each root (a folder of files, or a packed one), in this
process alone, and prints how many equal the first root's and the CPU time per sample.
"""

import argparse
import time

from benchmarks.determinism import checksum
from sslsv.build import build_model
from sslsv.config import load_config
from sslsv.data.pipeline import plain_batches
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker
from sslsv.evaluation.trials import open_trial_sets
from sslsv.models.base import CorpusSize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("config")
    parser.add_argument("roots", nargs="+")
    parser.add_argument("--steps", type=int, default=100, help="global batches (%(default)s)")
    given = parser.parse_args()
    reference: list[str] = []
    print(f"{'root':<40} equal to the first   CPU ms a sample")
    for root in given.roots:
        config = load_config(given.config, [f"data.root={root}"])
        manifest, _, _ = open_trial_sets(config)
        plan = Plan(len(manifest), config.train.batch_size, config.seed)
        maker = ViewMaker(manifest, build_model(config, CorpusSize()).views, config.data, config.seed)
        seconds, sums = 0.0, []
        batches = plain_batches(plan, maker, 0, given.steps)
        for _ in range(given.steps):
            started = time.process_time()
            batch = next(batches)
            seconds += time.process_time() - started
            sums.append(checksum([batch]))
        reference = reference or sums
        equal = sum(a == b for a, b in zip(sums, reference, strict=True))
        samples = given.steps * config.train.batch_size
        print(f"{root:<40} {equal:>8} of {given.steps:<8} {1000 * seconds / samples:10.3f}", flush=True)


if __name__ == "__main__":
    main()
