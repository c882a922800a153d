"""Command-line options of all commands that load a trained encoder: which weights, and how they compute."""

import argparse

from sslsv.evaluation.speaker_encoder import NUM_AVERAGED, SpeakerEncoder


def add_weights_options(parser: argparse.ArgumentParser) -> None:
    """The run and its checkpoint."""
    add = parser.add_argument
    add("run", help="a run folder, such as runs/simclr, or a checkpoint file")
    add("--checkpoint", default="best", help="best (default), last, average, or a file")
    add(
        "--average",
        type=int,
        metavar="N",
        help=f"newest checkpoints in an average (default {NUM_AVERAGED})",
    )


def add_computing_options(parser: argparse.ArgumentParser) -> None:
    """Precision and device; see `add_process_option` for many recordings."""
    add = parser.add_argument
    add("--precision", choices=["fp32", "bf16", "fp16"], help="of the encoder (default: as trained)")
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")


def add_process_option(parser: argparse.ArgumentParser) -> None:
    """How many processes embed."""
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that embed (default: one; for many files one per GPU or CPU of the cluster)",
    )


def load_encoder(
    options: argparse.Namespace,
    run: str,
    checkpoint: str,
    *,
    device: str | None = None,
    precision: str | None = None,
) -> SpeakerEncoder:
    """Load a checkpoint of a run; `options` says of how many an average is.

    Raises ValueError or FileNotFoundError with a sentence.
    """
    if options.average is not None and options.checkpoint != "average":
        raise ValueError(
            "--average is given without --checkpoint average and would change nothing: leave it out"
        )
    count = NUM_AVERAGED if options.average is None else options.average
    return SpeakerEncoder.load(run, checkpoint, device=device, precision=precision, num_averaged=count)
