"""Export a trained encoder: `sslsv export RUN [--format safetensors|onnx]`.

Writes one file that works without the training code.
"""

import argparse
import dataclasses
import json
import posixpath
import sys
from importlib.util import find_spec

from sslsv import __version__
from sslsv.evaluation.arguments import encoder_parser, load_encoder, run_command

ONNX_PACKAGES = ("onnx", "onnxscript")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = encoder_parser("export", "Write a trained encoder as one file.", embeds=False)
    add = parser.add_argument
    add("--format", choices=("safetensors", "onnx"), default="safetensors", help="default: safetensors")
    add("--out", metavar="FILE", help="may be a URI; default: <run>-step_<step>.<format> in this folder")
    parser.set_defaults(device="cpu", precision="fp32")
    return run_command(export, parser.parse_args(arguments))


def export(options: argparse.Namespace) -> int:
    """Write the file; raises ValueError or OSError before anything is written."""
    out, form = options.out, options.format
    if out and not out.endswith(f".{form}"):
        raise ValueError(f"--out is {out}, which does not end in .{form}: add that, or set --format")
    if form == "onnx" and (missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]):
        raise ValueError(f"ONNX needs {' and '.join(missing)}: pip install {' '.join(ONNX_PACKAGES)}")
    trained = load_encoder(options)
    from sslsv.evaluation.export import pack_encoder, pack_onnx
    from sslsv.runs.folder import RunFolder, is_uri

    facts = {
        "model": trained.config.model.name,
        "checkpoint": " ".join(trained.checkpoints),  # if several, the weights are their average
        "step": str(trained.steps[-1]),
        "training_precision": trained.config.train.precision,  # exported weights are always float32
        "sslsv_version": __version__,
        "method": json.dumps(dataclasses.asdict(trained.config.model)),
    }
    name = trained.config.run.name or trained.config.model.name
    out = out or f"{name}-step_{trained.steps[-1]:08d}.{form}"
    network = trained.model.get_submodule(trained.model.embedder)
    content = (pack_onnx if form == "onnx" else pack_encoder)(network, facts)
    folder, file = posixpath.split(out)
    RunFolder.at(folder or ".").write(file, content)
    print(f"wrote {out} ({len(content) / 1e6:.1f} MB) from {facts['checkpoint']}")
    if form == "safetensors" and not is_uri(out):  # encoder.init can only read from a disk
        print(f"next: encoder.init={out} starts a training from it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
