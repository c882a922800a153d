"""What `python -m sslsv.evaluate` may be asked, and what of it can't be meant."""

import argparse
import posixpath
from collections import Counter
from collections.abc import Callable

from sslsv.evaluation.embeddings import Crops
from sslsv.evaluation.encoder_options import add_computing_options, add_process_option, add_weights_options
from sslsv.evaluation.evaluation import Scoring

# Options that change nothing without another one: what they need, in words and as a test.
PARTNERS: dict[str, tuple[str, Callable[[argparse.Namespace], bool]]] = {
    "top": ("--norm as", lambda options: options.norm == "as"),
    "ddof": ("--norm", lambda options: options.norm is not None),
    "cohort": ("--norm or --centre", lambda options: options.norm is not None or options.centre),
    "cohort_size": ("--norm or --centre", lambda options: options.norm is not None or options.centre),
    "crop_seconds": ("--crops", lambda options: options.crops is not None),
}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Arguments of the command line; None where an option was not given and has no default here."""
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.evaluate", description="Verification errors of a run on trial lists."
    )
    add = parser.add_argument
    add_weights_options(parser)
    add("--trials", nargs="+", metavar="LIST", help="`1|0 enrol test` lists (default: the run's test lists)")
    add("--root", help="folder that paths in these lists are relative to (default: the run's data.root)")
    add(
        "--train-root",
        help="where the run's training data is now, for validation trials and cohort (default: data.root)",
    )
    add("--out", help="folder for the results (default: RUN/evaluation)")
    add("--allow-missing", action="store_true", help="leave out and count trials that can't be scored")
    add("--crops", type=int, metavar="N", help="embed N evenly spaced crops instead of whole recordings")
    add("--crop-seconds", type=float, help=f"length of such a crop (default {Crops.seconds:g})")
    add("--norm", choices=["z", "t", "s", "as"], help="normalise scores by those against a cohort")
    add("--centre", action="store_true", help="subtract the cohort's mean embedding")
    add(
        "--cohort",
        choices=["utterances", "clusters", "speakers"],
        help="training utterances (default), their k-means clusters, or speaker means (uses labels)",
    )
    add(
        "--cohort-size",
        type=int,
        help=f"training utterances, or clusters (default {Scoring.cohort_size})",
    )
    add("--top", type=int, help=f"cohort scores that AS-norm keeps (default {Scoring.top})")
    add(
        "--ddof",
        type=int,
        choices=[0, 1],
        help=f"0: population deviation, 1: sample deviation (default {Scoring.ddof})",
    )
    add(
        "--fuse",
        nargs="+",
        default=[],
        metavar="RUN",
        help="other runs whose scores are fused with this one's; best where --checkpoint is a file",
    )
    add("--no-calibration", action="store_true", help="do not calibrate on the run's validation trials")
    add("--replicates", type=int, default=1000, help="of the bootstrap for intervals; 0 = none")
    add_computing_options(parser)
    add_process_option(parser)
    return parser.parse_args(arguments)


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for an option without the one that it belongs to, and for lists that share a name."""
    for name, (partner, is_there) in PARTNERS.items():
        if getattr(options, name) is not None and not is_there(options):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is given without {partner} and would change nothing: leave it out")
    names = Counter(posixpath.basename(name.partition("?")[0]) for name in options.trials or ())
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(
            f"two lists of --trials have the file name {' and '.join(map(repr, twice))}, under which their "
            "results are kept: rename one, or name it once"
        )


def scoring_of(options: argparse.Namespace) -> Scoring:
    """Scorings that the command line asks for."""
    given = {name: getattr(options, name) for name in ("cohort", "cohort_size", "top", "ddof")}
    return Scoring(
        norm=options.norm,
        is_centred=options.centre,
        is_mean_of_crops=options.crops is not None,
        replicates=options.replicates,
        **{name: value for name, value in given.items() if value is not None},
    )


def crops_of(options: argparse.Namespace) -> Crops | None:
    """Crops that the command line asks for, if any."""
    if options.crops is None:
        return None
    return Crops(options.crops, Crops.seconds if options.crop_seconds is None else options.crop_seconds)
