"""Do gates find wrong labels?  python -m benchmarks.gates --corpus CORPUS --init RUN -- [key=value ...]

Gives a share of the training utterances a wrong label on purpose. Then trains the supervised stage of
`configs/corpus/pseudo_label.yml` on them, starting from the encoder of RUN: without a gate, with a gate, and
with a gate and correction. Prints the share of right labels among all utterances and among those that the
gate kept in the end, the AUC of losses as detectors of wrong labels, and the validation EER. True labels are
used for these numbers only. The seed determines the held-out speakers, as in RUN.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.command import parser_of
from sslsv import train
from sslsv.data.lists import Manifest
from sslsv.evaluation.trials import open_training_side
from sslsv.models.gates import KEPT
from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.tasks.pseudo_labels import load_loop, stage_config, training_settings

NO_GATE = ["model.gate.name=none", "model.correction=null"]
WAYS = {"none": NO_GATE, "gate": ["model.correction=null"], "gate and correction": []}


def main() -> int:
    parser = parser_of("gates", __doc__)
    add = parser.add_argument
    add("--corpus", required=True, metavar="DIR", help="real speech with labels")
    add("--init", required=True, metavar="RUN", help="run whose encoder the training starts from")
    add("--share", type=float, default=0.2, help="share of the utterances that get a wrong label")
    add("--out", type=Path, metavar="FILE.jsonl", help="append a line for each training")
    add("overrides", nargs="*", metavar="key=value", help="settings of configs/corpus/pseudo_label.yml")
    args = parser.parse_args()
    for way, changes in WAYS.items():
        try:
            line = measured(args, way, changes)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print(json.dumps(line), flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
    return 0


def measured(given: argparse.Namespace, way: str, changes: list[str]) -> dict[str, Any]:
    """Train in one way and return the shares of right and wrong labels that the gate kept."""
    overrides = [f"data.root={given.corpus}", f"init={given.init}", "large_margin=null", *given.overrides]
    settings = load_loop("configs/corpus/pseudo_label.yml", [*overrides, *changes])
    manifest, _ = open_training_side(settings)
    is_wrong, labels = with_wrong_labels(manifest, given.share, settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        train_list = Path(folder) / "train_list"
        lines = [f"{label:06d} {path}\n" for label, path in zip(labels, manifest.paths, strict=True)]
        train_list.write_text("".join(lines), errors="surrogateescape")
        config = stage_config(training_settings(settings), folder, "run", str(train_list), given.init)
        summary = train.run(config)
        if "error" in summary:
            sys.exit(f"error: {summary['error']}")
        run = RunFolder(folder, "run")
        model = read_checkpoint(run, find_checkpoint(run, "last")).model
        validation = [record["eer"] for record in run.metrics() if record.get("eer") is not None]
    line = {
        "way": way,
        "seed": settings.seed,
        "utterances": len(labels),
        "right": float(1 - is_wrong.mean()),
        "eer_best": min(validation),
        "eer_last": validation[-1],
        "test": {key: value for key, value in summary["best"].items() if key.startswith("test/")},
    }
    if "gate.outcomes" in model:
        is_kept = model["gate.outcomes"].numpy() == KEPT
        losses = model["gate.losses"].numpy()
        line |= {
            "kept": float(is_kept.mean()),
            "right_of_kept": float(1 - is_wrong[is_kept].mean()),
            "right_kept": float(is_kept[~is_wrong].mean()),
            "wrong_kept": float(is_kept[is_wrong].mean()),
            "auc": float(roc_auc_score(is_wrong, losses)),
        }
    return line


def with_wrong_labels(
    manifest: Manifest, share: float, seed: int
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return a mask of utterances with a wrong label, and all labels; wrong labels are drawn uniformly."""
    rng = np.random.default_rng(seed)
    labels = manifest.speakers.astype(np.int64)
    is_wrong = np.zeros(len(labels), dtype=bool)
    is_wrong[rng.permutation(len(labels))[: round(share * len(labels))]] = True
    shifts = rng.integers(1, manifest.num_speakers, size=len(labels))
    return is_wrong, np.where(is_wrong, (labels + shifts) % manifest.num_speakers, labels)


if __name__ == "__main__":
    sys.exit(main())
