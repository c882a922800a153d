"""`python tests/recorded_training.py SETTINGS.yml NOTES PACE [key=value ...]`: train, noting every batch.

Each worker appends a line per step to NOTES/<pid>.jsonl: step, number of workers, and for every sample of its
part of the batch a checksum of its audio.  A step takes at least PACE seconds.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sslsv import cluster, distributed
from sslsv.config import load_config
from sslsv.run_folder import RunFolder
from sslsv.train import prepare_folder
from sslsv.training_worker import open_training


def record(job: dict[str, Any]) -> dict[str, Any]:
    """Entry of a Ray Train worker."""
    training = open_training(job)
    take_step = training.take_step

    def noted(batch: dict[str, Any]) -> Any:
        start = time.monotonic()
        views = [value.numpy() for name, value in sorted(batch.items()) if value.ndim == 3]
        rows = {
            int(sample): hashlib.sha256(b"".join(view[row].tobytes() for view in views)).hexdigest()[:12]
            for row, sample in enumerate(batch["sample"].tolist())
        }
        line = {"step": training.state.step, "workers": distributed.world_size(), "rows": rows}
        with open(Path(job["notes"]) / f"{os.getpid()}.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        numbers = take_step(batch)
        time.sleep(max(0.0, job["pace"] - (time.monotonic() - start)))
        return numbers

    training.take_step = noted  # type: ignore[method-assign]
    return training.run()


def main() -> int:
    """Command line entry."""
    settings, notes, pace, *overrides = sys.argv[1:]
    config = load_config(settings, overrides)
    folder = RunFolder(config.run.storage, str(config.run.name))
    with cluster.connection(config.resources) as share:
        prepare_folder(folder, config, is_fresh=False)
        summary = cluster.train(config, folder, share, worker=record, notes=notes, pace=float(pace))
    print(summary.get("error", "finished"))
    return int("error" in summary)


if __name__ == "__main__":
    sys.exit(main())
