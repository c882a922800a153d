"""Evaluate a run: `python -m sslsv.evaluate RUN [--trials LIST ...] [--norm as] ...`.

Embeds every recording of the trial lists once, whole, scores every trial, and writes evaluation.json, the
scores, report.html and, for `verify`, a calibration fitted to the run's validation trials.

Exit codes: 0 done, 2 the request can't be met, 130 interrupted.
"""

import argparse
import contextlib
import posixpath
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from sslsv.evaluation.arguments import add_workers, encoder_parser, load_encoder

COUNTED = ("trials", "targets", "nontargets", "recordings", "speakers")  # beside these: what was left out
# Options that change nothing without another one: that one in words, and the test for it.
PARTNERS: dict[str, tuple[str, Callable[[argparse.Namespace], bool]]] = {
    "top": ("--norm as", lambda options: options.norm == "as"),
    "ddof": ("--norm", lambda options: options.norm is not None),
    "cohort": ("--norm or --centre", lambda options: options.norm is not None or options.centre),
    "cohort_size": ("--norm or --centre", lambda options: options.norm is not None or options.centre),
    "crop_seconds": ("--crops", lambda options: options.crops is not None),
}
COHORTS = {
    "utterances": "No labels were used: the cohort is training utterances as they are.",
    "speakers": "Labels were used: the cohort is means of training speakers, so no result is free of labels.",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        check_options(options)
        run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was embedded completely is kept", file=sys.stderr)
        return 130
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; None where an option was not given and has no default here."""
    parser = encoder_parser("evaluate", "Verification errors of a run on trial lists.")
    add = parser.add_argument
    add("--trials", nargs="+", metavar="LIST", help="`1|0 enrol test` lists (default: the run's test lists)")
    add("--root", help="folder that paths in these lists are relative to (default: the run's data.root)")
    add(
        "--train-root", help="where the training data is now, for calibration and cohort (default: data.root)"
    )
    add("--out", help="folder for the results (default: RUN/evaluation)")
    add("--allow-missing", action="store_true", help="leave out and count trials that can't be scored")
    add("--crops", type=int, metavar="N", help="embed N evenly spaced crops instead of whole recordings")
    add("--crop-seconds", type=float, help="length of such a crop (default 4)")
    add("--norm", choices=["z", "t", "s", "as"], help="normalise scores by those against a cohort")
    add("--centre", action="store_true", help="subtract the cohort's mean embedding")
    cohort_help = "training utterances (default), or means of training speakers (uses labels)"
    add("--cohort", choices=list(COHORTS), help=cohort_help)
    add("--cohort-size", type=int, help="training utterances (default 1000; of speakers 20 times as many)")
    add("--top", type=int, help="cohort scores that AS-norm keeps (default 300)")
    add("--ddof", type=int, choices=[0, 1], help="0: population deviation (default), 1: sample deviation")
    fuse_help = "other runs whose scores are fused with this one's; best where --checkpoint is a file"
    add("--fuse", nargs="+", default=[], metavar="RUN", help=fuse_help)
    add("--no-calibration", action="store_true", help="do not calibrate on the run's validation trials")
    add("--replicates", type=int, default=1000, help="draws of speakers for the intervals; 0 = no intervals")
    add_workers(parser)
    return parser.parse_args(arguments)


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for an option without the one that it belongs to, and for lists that share a name."""
    for name, (partner, is_there) in PARTNERS.items():
        if getattr(options, name) is not None and not is_there(options):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is given without {partner} and would change nothing: leave it out")
    names = Counter(posixpath.basename(name.partition("?")[0]) for name in options.trials or ())
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(
            f"two lists of --trials have the file name {' and '.join(map(repr, twice))}, under which their "
            "results are kept: rename one, or name it once"
        )


def run(options: argparse.Namespace) -> None:
    """Evaluate as asked, write the results and print them.

    Raises ValueError or OSError with a sentence; mistakes in lists are found before anything is embedded.
    """
    started = time.monotonic()
    # These import PyTorch, for which mistakes in the options need not wait.
    from sslsv.config import to_yaml
    from sslsv.evaluation.embedding import Crops, EmbeddingStore, embedding_by
    from sslsv.evaluation.scorer import (
        Outcome,
        Scoring,
        keep_calibration,
        measure,
        score,
        training_side,
        write_results,
    )
    from sslsv.evaluation.trials import TrialListError, open_list
    from sslsv.reports.evaluation import evaluation_page
    from sslsv.runs.environment import describe_environment
    from sslsv.runs.folder import RunFolder, below

    seconds = Crops.seconds if options.crop_seconds is None else options.crop_seconds
    given = {name: getattr(options, name) for name in ("cohort", "cohort_size", "top", "ddof")}
    scoring = Scoring(
        norm=options.norm,
        is_centred=options.centre,
        crops=None if options.crops is None else Crops(options.crops, seconds),
        replicates=options.replicates,
        **{name: value for name, value in given.items() if value is not None},
    )
    # A checkpoint file is the first run's; the runs fused with it use their best.
    is_named = options.checkpoint in ("best", "last", "average")
    which = [options.checkpoint, *[options.checkpoint if is_named else "best"] * len(options.fuse)]
    encoders = [
        load_encoder(options, *pair) for pair in zip((options.run, *options.fuse), which, strict=True)
    ]
    if options.train_root:
        data = replace(encoders[0].config.data, root=options.train_root)
        encoders = [replace(encoder, config=replace(encoder.config, data=data)) for encoder in encoders]
    config = encoders[0].config
    names, root = options.trials or config.evaluation.test, options.root or config.data.root
    if not names:
        raise TrialListError(f"{options.run} was trained without test lists; name some with --trials")
    lists = [open_list(root, name, is_lenient=options.allow_missing) for name in names]
    manifest, validation = training_side(
        encoders,
        needs_cohort=scoring.num_cohort_utterances > 0,
        needs_validation=bool(options.fuse) or not options.no_calibration,
    )
    notes = list(notes_of(options, encoders, lists, validation))
    outcomes: list[Outcome] = []
    for encoder in encoders:
        # Recordings that one encoder could not read are not asked of the next.
        asked = [item for item, *_ in outcomes[-1].lists] if outcomes else lists
        count = sum(len(item.trials.paths) for item in asked) + scoring.num_cohort_utterances
        with embedding_by(encoder, scoring.crops, count, options.workers, options.device) as embed:
            store = EmbeddingStore(encoder, RunFolder.at(encoder.run), scoring.crops, embed)
            found = score(
                encoder, store, scoring, manifest, validation, asked, is_lenient=options.allow_missing
            )
        outcomes.append(found)
    scored, calibration = measure(outcomes, validation, scoring, is_calibrated=not options.no_calibration)
    described, *fused_with = [
        {
            "run": encoder.run,
            "checkpoint": {"which": one, "files": list(encoder.checkpoints), "steps": list(encoder.steps)},
            "identity": encoder.identity,
            "precision": encoder.precision,
        }
        for encoder, one in zip(encoders, which, strict=True)
    ]
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
    write_results(out, evaluation, scored)
    out.write("report.html", evaluation_page(evaluation, scored).encode())
    if calibration is not None:
        try:
            keep_calibration(encoders[0], calibration)
        except OSError as error:
            print(f"the calibration is not kept for sslsv.verify: {error}", file=sys.stderr)
    lines = [line for item in scored for line in results_lines(item.name, item.summary)]
    print("\n".join([*lines, *[f"note: {note}" for note in notes]]))
    print(f"results: {out.location}\nreport: {below(out.location, 'report.html')}")


def notes_of(options: argparse.Namespace, encoders: Any, lists: Any, validation: Any) -> Iterator[str]:
    """Yield sentences that a reader of the results needs: how labels were used, what was not whole.

    `encoders` are SpeakerEncoders, `lists` TrialLists, `validation` is a TrialSet or None.
    """
    from sslsv.evaluation.trials import count_shared, listed_trials

    config = encoders[0].config
    for encoder in encoders:
        yield from encoder.notes
        if options.checkpoint == "average":
            steps = ", ".join(map(str, encoder.steps))
            yield f"The weights of {encoder.run} are the mean of the checkpoints of steps {steps}."
    if options.fuse:
        yield f"Fused with {', '.join(options.fuse)}; the weights were fitted to the validation trials."
    if validation is not None and not options.no_calibration:
        yield (
            f"Calibrated on {len(validation.trials)} validation trials of {len(validation.trials.paths)} "
            "recordings: their labels were used for two numbers, scale and offset."
        )
    if options.norm or options.centre:
        yield COHORTS[options.cohort or "utterances"]
    if options.crops is not None:
        centred = "the cosine of the centred mean unit embeddings of the crops"
        crops = (
            f"Every recording is {options.crops} evenly spaced crops of {options.crop_seconds or 4:g} seconds"
        )
        score = centred if options.centre else "the mean cosine over all pairs of crops"
        yield f"{crops}; a score is {score}."
    if validation is None and config.evaluation.validation is not None:
        with contextlib.suppress(ValueError, OSError):  # it is not needed here, and may be gone
            validation = listed_trials(config.data.root, config.evaluation.validation)
    for item in lists:
        if repeated := item.odd.get("repeated_trials"):
            yield f"{item.name} names a pair again in {repeated} trials; they are scored as listed."
        if validation is None:
            continue
        if shared := count_shared(item.trials, item.root, validation.trials, config.data.root):
            yield (
                f"{shared} of the {len(item.trials)} trials of {item.name} are validation trials, which "
                "choose checkpoint and calibration: its errors are no test results."
            )


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
