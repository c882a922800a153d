"""Export a trained encoder: `python -m sslsv.export RUN [--format safetensors|onnx]`.

Writes one file that works without the training code, then compares what it computes with the original.

Exit codes: 0 written and equal, 1 written but not equal, 2 the request can't be met.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sslsv import __version__
from sslsv.data.audio import AudioError
from sslsv.evaluation.encoder_file import load_encoder as read_encoder
from sslsv.evaluation.encoder_file import save_encoder
from sslsv.evaluation.encoder_options import add_weights_options, load_encoder
from sslsv.evaluation.onnx_export import open_onnx, require_packages, save_onnx
from sslsv.evaluation.parity import (
    MIN_COSINE,
    Embed,
    Floats,
    embed_with,
    find_recordings,
    measure_parity,
    recorded_batches,
    synthetic_batches,
)
from sslsv.evaluation.speaker_encoder import SpeakerEncoder


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        return export(options)
    except (ValueError, OSError, AudioError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.export", description="Write a trained encoder as one file, and check it."
    )
    add = parser.add_argument
    add_weights_options(parser)
    add("--format", choices=("safetensors", "onnx"), default="safetensors", help="default: safetensors")
    add("--out", type=Path, metavar="FILE", help="default: <run>-step_<step>.<format> in this folder")
    check_help = "recordings, or lists of them, to compare on (default: synthetic ones of 0.5 to 20 s)"
    add("--check", nargs="+", default=[], metavar="FILE", help=check_help)
    return parser.parse_args(arguments)


def export(options: argparse.Namespace) -> int:
    """Write the file, print the parity report and return the exit code.

    Raises ValueError, OSError or AudioError, with a sentence, before anything is written where that can be
    known.
    """
    is_onnx = options.format == "onnx"
    if is_onnx:
        require_packages()
    recordings = find_recordings(options.check)
    trained = load_encoder(options, options.run, options.checkpoint, device="cpu", precision="fp32")
    encoder, facts = trained.model.encoder, describe_origin(trained)
    if options.checkpoint == "best" and not options.run.endswith(".pt"):
        facts["criterion"] = str(trained.config.evaluation.chosen_by)
    name = trained.config.run.name or trained.config.model.name
    out = options.out or Path(f"{name}-step_{trained.steps[-1]:08d}.{options.format}")
    check_target(out, options.format)
    (save_onnx if is_onnx else save_encoder)(out, encoder, facts)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB) from {facts['checkpoint']}")
    batches = recorded_batches(recordings) if recordings else synthetic_batches()
    exported = open_onnx(out) if is_onnx else embed_with(read_encoder(out))
    return report_parity(embed_with(encoder), exported, batches)


def check_target(out: Path, file_format: str) -> None:
    """Refuse a folder that is not there and a suffix that promises the other format."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} of --out does not exist; make it first")
    if out.is_dir():
        raise ValueError(f"--out is {out}, a folder; name a file in it")
    if out.suffix in {".onnx", ".safetensors"} - {f".{file_format}"}:
        raise ValueError(f"--out is {out}, but the format is {file_format}; set --format {out.suffix[1:]}")


def describe_origin(trained: SpeakerEncoder) -> dict[str, str]:
    """Where the weights come from, as text; a checkpoint's name has the first 16 digits of its SHA-256."""
    return {
        "model": trained.config.model.name,
        "checkpoint": " ".join(trained.checkpoints),  # several: these weights are their average
        "step": str(trained.steps[-1]),
        "training_precision": trained.config.train.precision,  # exported weights are float32 in any case
        "sslsv_version": __version__,
    }


def report_parity(original: Embed, exported: Embed, batches: Iterable[tuple[str, Floats]]) -> int:
    """Print a line per batch and the verdict; 1 if a cosine is below the tolerance, else 0."""
    print(
        f"{'seconds':>9} {'batch':>5} {'max diff':>9} {'cosine':>11} {'torch s':>8} {'export s':>8}  "
        "recording"
    )
    rows = []
    for name, waveforms in batches:
        row = measure_parity(original, exported, name, waveforms)
        rows.append(row)
        print(
            f"{row.seconds:9.3f} {row.rows:5d} {row.max_difference:9.1e} {row.min_cosine:11.8f} "
            f"{row.torch_seconds:8.3f} {row.exported_seconds:8.3f}  {row.name}"
        )
    is_equal = all(row.is_equal for row in rows)
    lowest = np.min([row.min_cosine for row in rows])  # NaN, if there is one
    print(
        f"{'equal' if is_equal else 'NOT EQUAL'}: lowest cosine {lowest:.8f} over {len(rows)} batches "
        f"(tolerance: at least {MIN_COSINE})"
    )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
