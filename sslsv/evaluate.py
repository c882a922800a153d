"""Evaluate a run: `python -m sslsv.evaluate RUN [--trials LIST ...] [--norm as] ...`.

Embeds every recording of the trial lists once, whole, scores every trial, and writes evaluation.json, the
scores, report.html and, for `verify`, a calibration fitted to the run's validation trials.

Exit codes: 0 done, 2 the request can't be met, 130 interrupted (what was embedded completely is kept).
"""

import argparse
import posixpath
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sslsv.evaluation.arguments import encoder_parser, load_encoder, run_command

# The first line of a list's table names these counts; the others say what was left out.
COUNTED = ("trials", "targets", "nontargets", "recordings", "speakers")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = encoder_parser("evaluate", "Verification errors of a run on trial lists.", has_workers=True)
    add = parser.add_argument
    add("--trials", nargs="+", metavar="LIST", help="`1|0 enrol test` lists (default: the run's test lists)")
    add("--root", help="folder that paths in these lists are relative to (default: the run's data.root)")
    train_root_help = "where the training data is now, for calibration and cohort (default: data.root)"
    add("--train-root", help=train_root_help)
    add("--out", help="folder for the results (default: RUN/evaluation)")
    add("--allow-missing", action="store_true", help="leave out and count trials that can't be scored")
    add("--crops", type=int, metavar="N", help="embed N evenly spaced crops instead of whole recordings")
    add("--crop-seconds", type=float, help="length of such a crop (default 4)")
    add("--norm", choices=["z", "t", "s", "as"], help="normalise scores by those against a cohort")
    add("--centre", action="store_true", help="subtract the cohort's mean embedding")
    cohort_help = "training utterances (default), or means of training speakers (uses labels)"
    add("--cohort", choices=["utterances", "speakers"], help=cohort_help)
    add("--cohort-size", type=int, help="training utterances (default 1000; of speakers 20 times as many)")
    add("--top", type=int, help="cohort scores that AS-norm keeps (default 300)")
    fuse_help = "other runs whose scores are fused with this one's; best where --checkpoint is a file"
    add("--fuse", nargs="+", default=[], metavar="RUN", help=fuse_help)
    add("--no-calibration", action="store_true", help="do not calibrate on the run's validation trials")
    add("--replicates", type=int, default=1000, help="draws of speakers for the intervals; 0 = no intervals")
    return run_command(run, parser.parse_args(arguments))


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for an option without the one that it belongs to, and for lists that share a name."""
    has_cohort = options.norm is not None or options.centre
    belongs_to = {
        "top": ("--norm as", options.norm == "as"),
        "cohort": ("--norm or --centre", has_cohort),
        "cohort_size": ("--norm or --centre", has_cohort),
        "crop_seconds": ("--crops", options.crops is not None),
    }
    for name, (partner, is_there) in belongs_to.items():
        if getattr(options, name) is not None and not is_there:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is given without {partner} and would change nothing: leave it out")
    names = [posixpath.basename(name.partition("?")[0]) for name in options.trials or ()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"two lists of --trials have the file name {' and '.join(map(repr, twice))}, under which their "
            "results are kept: rename one, or name it once"
        )


def run(options: argparse.Namespace) -> int:
    """Evaluate as asked, write the results and print them; returns the exit code.

    Raises ValueError or OSError with a sentence; mistakes in lists are found before anything is embedded.
    """
    started = time.monotonic()
    check_options(options)
    # A checkpoint file is the first run's; the runs fused with it use their best.
    which_of_others = options.checkpoint if options.checkpoint in ("best", "last", "average") else "best"
    encoders = [load_encoder(options, options.run, options.checkpoint)]
    encoders += [load_encoder(options, other, which_of_others) for other in options.fuse]
    # These import PyTorch, for which the mistakes found so far need not wait.
    from sslsv.config import to_yaml
    from sslsv.evaluation import scorer
    from sslsv.evaluation.embedding import Crops, EmbeddingStore, embedding_by
    from sslsv.evaluation.trials import open_list
    from sslsv.reports.evaluation import evaluation_page
    from sslsv.runs.environment import describe_environment
    from sslsv.runs.folder import RunFolder, below

    crops = {"count": options.crops, "seconds": options.crop_seconds}
    given = {name: getattr(options, name) for name in ("cohort", "cohort_size", "top")}
    scoring = scorer.Scoring(
        norm=options.norm,
        is_centred=options.centre,
        crops=None if options.crops is None else Crops(**_without_none(crops)),
        replicates=options.replicates,
        **_without_none(given),
    )
    if options.train_root:
        data = replace(encoders[0].config.data, root=options.train_root)
        encoders = [replace(encoder, config=replace(encoder.config, data=data)) for encoder in encoders]
    config = encoders[0].config
    names, root = options.trials or config.evaluation.test, options.root or config.data.root
    if not names:
        raise ValueError(f"{options.run} was trained without test lists; name some with --trials")
    lists = [open_list(root, name, is_lenient=options.allow_missing) for name in names]
    manifest, validation = scorer.training_side(
        encoders,
        needs_cohort=scoring.num_cohort_utterances > 0,
        needs_validation=bool(options.fuse) or not options.no_calibration,
    )
    is_calibrated = validation is not None and not options.no_calibration
    notes = scorer.notes(encoders, scoring, lists, validation, is_calibrated=is_calibrated)
    outcomes: list[scorer.Outcome] = []
    for encoder in encoders:
        count = sum(len(item.trials.paths) for item in lists) + scoring.num_cohort_utterances
        with embedding_by(encoder, scoring.crops, count, options.workers, options.device) as embed:
            store = EmbeddingStore(encoder, RunFolder.at(encoder.run), scoring.crops, embed)
            sides = manifest, validation, lists
            outcomes.append(scorer.score(encoder, store, scoring, *sides, is_lenient=options.allow_missing))
        lists = outcomes[-1].lists  # Recordings that one encoder could not read are not asked of the next.
    scored, calibration = scorer.measure(outcomes, validation, scoring, is_calibrated=is_calibrated)
    described, *fused_with = [encoder.describe() for encoder in encoders]
    evaluation = {
        **described,
        "fused_with": fused_with,
        "environment": describe_environment(),
        "settings": to_yaml(config),
        "notes": notes,
        "lists": {item.name: item.summary for item in scored},
        "seconds": time.monotonic() - started,
    }
    out = RunFolder.at(options.out or below(encoders[0].run, "evaluation"))
    scorer.write_results(out, evaluation, scored)
    out.write("report.html", evaluation_page(evaluation, scored).encode())
    if calibration is not None:
        try:
            scorer.keep_calibration(encoders[0], calibration)
        except OSError as error:
            print(f"the calibration is not kept for sslsv.verify: {error}", file=sys.stderr)
    lines = [line for item in scored for line in results_lines(item.name, item.summary)]
    print("\n".join([*lines, *[f"note: {note}" for note in notes]]))
    print(f"results: {out.location}\nreport: {below(out.location, 'report.html')}")
    return 0


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def results_lines(name: str, summary: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a small table for the terminal."""
    counts = summary["counts"]
    yield (
        f"{name}: {counts['trials']} trials ({counts['targets']} target, {counts['nontargets']} nontarget), "
        f"{counts['recordings']} recordings of {counts['speakers']} speakers"
    )
    yield from (f"  {key.replace('_', ' ')}: {counts[key]}" for key in counts if key not in COUNTED)
    for scoring, table in summary["scorings"].items():
        yield f"  {scoring}"
        for metric, values in table.items():
            form, unit = (".2f", " %") if metric.startswith("eer") else (".4f", "")
            interval = f" ({values['low']:{form}} to {values['high']:{form}})" if "low" in values else ""
            yield f"    {metric:<40}{values['value']:{form}}{unit}{interval}"


if __name__ == "__main__":
    sys.exit(main())
