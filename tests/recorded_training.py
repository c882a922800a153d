"""Record `sslsv.train`: python tests/recorded_training.py NOTES PACE DATA_PACE SETTINGS.yml [key=value ...]

Each worker appends a line per step to NOTES/<pid>.jsonl: step, time, number of workers, and for every sample
of its part of the batch a checksum of the audio. A step takes at least PACE seconds, a
block of data DATA_PACE.
"""

import functools
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sslsv import train
from sslsv.cluster import fit
from sslsv.ops import distributed
from sslsv.training.loop import Training


def record(training: Training, notes: str, pace: float, data_pace: float) -> dict[str, Any]:
    """Run the training of a Ray Train worker and record its steps."""
    take_step = training.take_step

    class Slow:  # a local class, so that it is sent to the data processes
        def __init__(self, maker: Any, seconds: float) -> None:
            self.maker, self.seconds = maker, seconds

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(self.maker, name)

        def make_batch(self, rows: Any) -> Any:
            time.sleep(self.seconds)
            return self.maker.make_batch(rows)

    if data_pace:
        training.maker = Slow(training.maker, data_pace)  # type: ignore[assignment]

    def noted(batch: dict[str, Any]) -> Any:
        start = time.monotonic()
        views = [value.numpy() for name, value in sorted(batch.items()) if value.ndim == 3]
        rows = {
            int(sample): hashlib.sha256(b"".join(view[row].tobytes() for view in views)).hexdigest()[:12]
            for row, sample in enumerate(batch["sample"].tolist())
        }
        line = {"step": training.state.step, "time": time.time(), "rows": rows}
        with open(Path(notes) / f"{os.getpid()}.jsonl", "a") as file:
            file.write(json.dumps(line | {"workers": distributed.world_size()}) + "\n")
        numbers = take_step(batch)
        time.sleep(max(0.0, pace - (time.monotonic() - start)))
        return numbers

    training.take_step = noted  # type: ignore[method-assign]
    return training.run()


if __name__ == "__main__":
    notes, *paces = sys.argv[1:4]
    pace, data_pace = map(float, paces)
    fit.fit = functools.partial(fit.fit, task=record, notes=notes, pace=pace, data_pace=data_pace)
    sys.exit(train.main(sys.argv[4:]))
