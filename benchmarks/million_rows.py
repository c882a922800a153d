"""What a list of VoxCeleb2's size costs the driver.  python -m benchmarks.million_rows [--rows N]

Writes a list of made-up paths, reads it as training does, plans epochs, and pickles what data processes get.
"""

import argparse
import pickle
import resource
import tempfile
import time
from pathlib import Path

from sslsv.config import load_config
from sslsv.data.manifest import hold_out_speakers, read_train_lists
from sslsv.data.stream import Plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=1_092_009, help="utterances (%(default)s: VoxCeleb2 dev)")
    parser.add_argument("--speakers", type=int, default=5_994)
    given = parser.parse_args()
    config = load_config(Path("configs/simclr.yml"))
    with tempfile.TemporaryDirectory() as root:
        with (Path(root) / "list").open("w") as lines:
            for row in range(given.rows):
                speaker, video = row % given.speakers, row // given.speakers // 7
                path = f"voxceleb2/id{speaker:05d}/video{video:06d}/{row // given.speakers % 7:05d}.wav"
                lines.write(f"id{speaker:05d} {path}\n")
        first = Path(root) / "voxceleb2/id00000/video000000/00000.wav"
        first.parent.mkdir(parents=True)
        first.touch()
        print(f"{'step':<32} seconds   peak memory of the process, MB")
        manifest = measured("read and check the list", lambda: read_train_lists(root, ["list"]))
        kept, _ = measured("hold 40 speakers out", lambda: hold_out_speakers(manifest, 40, 1))
        plan = measured("plan an epoch", lambda: Plan.from_config(kept.speakers, config))
        last = plan.steps_per_epoch
        measured("the rows of its last step", lambda: plan.rows(last - 1, last))
        measured("pickle for the data processes", lambda: pickle.dumps(kept, protocol=5))


def measured(what, call):  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    result = call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<32} {time.perf_counter() - started:7.2f}   {peak:6.0f}", flush=True)
    return result


if __name__ == "__main__":
    main()
