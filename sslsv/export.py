"""Export a trained encoder: `python -m sslsv.export RUN [--format safetensors|onnx]`.

Writes one file that works without the training code, then compares what it computes with the original.

Exit codes: 0 written and equal, 1 written but not equal, 2 the request can't be met.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from sslsv import __version__
from sslsv.evaluation.arguments import encoder_parser, load_encoder

MIN_COSINE = 0.9999  # below it, scores would move by more than the last digit that anyone prints


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        return export(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = encoder_parser("export", "Write a trained encoder as one file, and check it.")
    add = parser.add_argument
    add("--format", choices=("safetensors", "onnx"), default="safetensors", help="default: safetensors")
    add("--out", type=Path, metavar="FILE", help="default: <run>-step_<step>.<format> in this folder")
    parser.set_defaults(device="cpu", precision="fp32")
    return parser.parse_args(arguments)


def export(options: argparse.Namespace) -> int:
    """Write the file, print how far its embeddings are from the run's, and return the exit code.

    Raises ValueError or OSError, with a sentence, before anything is written where that can be known.
    """
    if options.out is not None:
        check_target(options.out, options.format)
    from sslsv.evaluation.export import lowest_cosine, require_onnx, save_encoder, save_onnx

    is_onnx = options.format == "onnx"
    if is_onnx:
        require_onnx()
    trained = load_encoder(options, options.run, options.checkpoint)
    facts = {
        "model": trained.config.model.name,
        "checkpoint": " ".join(trained.checkpoints),  # several: these weights are their average
        "step": str(trained.steps[-1]),
        "training_precision": trained.config.train.precision,  # exported weights are float32 in any case
        "sslsv_version": __version__,
        "method": json.dumps(dataclasses.asdict(trained.config.model)),
    }
    if options.checkpoint == "best" and not options.run.endswith(".pt") and not trained.notes:
        facts["criterion"] = str(trained.config.evaluation.chosen_by)
    name = trained.config.run.name or trained.config.model.name
    out = options.out or Path(f"{name}-step_{trained.steps[-1]:08d}.{options.format}")
    (save_onnx if is_onnx else save_encoder)(out, trained.network, facts)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB) from {facts['checkpoint']}")
    cosine = lowest_cosine(trained.network, out, is_onnx=is_onnx)
    is_equal = cosine >= MIN_COSINE
    print(
        f"{'equal' if is_equal else 'NOT EQUAL'}: lowest cosine {cosine:.8f} of the embeddings of noises of "
        f"0.5 to 10 s (tolerance: at least {MIN_COSINE})"
    )
    return 0 if is_equal else 1


def check_target(out: Path, file_format: str) -> None:
    """Refuse a folder that is not there and a suffix that promises the other format."""
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} of --out does not exist; make it first")
    if out.is_dir():
        raise ValueError(f"--out is {out}, a folder; name a file in it")
    if out.suffix in {".onnx", ".safetensors"} - {f".{file_format}"}:
        raise ValueError(f"--out is {out}, but the format is {file_format}; set --format {out.suffix[1:]}")


if __name__ == "__main__":
    sys.exit(main())
