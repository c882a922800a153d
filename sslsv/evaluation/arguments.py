"""Command-line parts shared by all commands for a trained encoder; this module does not import PyTorch."""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sslsv.settings import Failed, command_name

if TYPE_CHECKING:
    from sslsv.evaluation.speaker_encoder import SpeakerEncoder


class Parser(argparse.ArgumentParser):
    """Parse arguments; if the run is missing, the error lists the existing runs."""

    def error(self, message: str) -> NoReturn:
        """Print an error in the arguments and exit with code 2."""
        super().error(f"{message}. {known_runs()}" if "required: run" in message else message)


def known_runs() -> str:
    """Return a sentence that lists the runs with checkpoints below runs/."""
    runs = sorted({str(file.parent.parent) for file in Path("runs").glob("*/checkpoints/*.pt")})
    return f"Runs here: {', '.join(runs)}." if runs else "There is no run below runs/ yet."


def encoder_parser(command: str, about: str, *, has_workers: bool = False, embeds: bool = True) -> Parser:
    """Return a parser of `sslsv <command>`; `embeds` adds the options --with, --precision and --device."""
    parser = Parser(prog=command_name(command), description=about)
    parser.set_defaults(others=[])
    add = parser.add_argument
    add("run", help="a run folder, such as runs/simclr, or a checkpoint file")
    if embeds:
        help_text = "a further run, whose cosines are averaged with those of the first; may be repeated"
        add("--with", dest="others", action="append", metavar="RUN", help=help_text)
        add("--precision", choices=["fp32", "bf16", "fp16"], help="arithmetic (default: as trained)")
        add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add("--checkpoint", default="best", help="best (default), last, average, or a file name")
    if has_workers:
        help_text = "processes that embed (default: one; for many files one per GPU or CPU of the cluster)"
        add("--workers", type=int, help=help_text)
    return parser


def run_command(
    command: Callable[[argparse.Namespace], int], options: argparse.Namespace, after_interrupt: str = ""
) -> int:
    """Run a command, print its error if it raises one, and return its exit code.

    1 means `Failed`, 2 an error in the input, 130 Ctrl-C, after which `after_interrupt` is printed: what the
    same command will do next time.
    """
    try:
        return command(options)
    except (Failed, ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1 if isinstance(error, Failed) else 2
    except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into SystemExit.
        print(f"stopped; {after_interrupt}" if after_interrupt else "stopped", file=sys.stderr)
        return 130


def same_encoder(options: argparse.Namespace) -> str:
    """Return the arguments that make another command use the same encoder."""
    from sslsv.runs.folder import here

    words = [here(options.run), *(word for run in options.others for word in ("--with", here(run)))]
    for name, default in (("checkpoint", "best"), ("precision", None), ("device", None)):
        if (value := getattr(options, name)) != default:
            words += [f"--{name}", value]
    return shlex.join(words)


def load_encoder(options: argparse.Namespace) -> "SpeakerEncoder":
    """Load the encoder of the options and print its notes; raises ValueError or FileNotFoundError."""
    from sslsv.runs.display import LiveLine
    from sslsv.runs.folder import RunFolder

    # Check the runs first: the import of PyTorch takes more than a second.
    for run in (runs := [options.run, *options.others]):
        if not run.endswith(".pt") and not RunFolder.at(run).names("checkpoints"):
            raise ValueError(
                f"{RunFolder.at(run).location} has no checkpoints: no training began there, or it ended "
                f"before the first. {known_runs()}"
            )
    with LiveLine("loading the encoder", sys.stderr.isatty()):
        from sslsv.evaluation.speaker_encoder import SpeakerEncoder

        kwargs = {"device": options.device, "precision": options.precision}
        encoder, *others = [SpeakerEncoder.load(run, options.checkpoint, **kwargs) for run in runs]
        encoder = encoder.fuse(others) if others else encoder
    for note in encoder.notes:
        print(f"note: {note}", file=sys.stderr)
    return encoder
