"""Evaluate a run: `python -m sslsv.evaluate RUN [--trials LIST ...] [--norm as] ...`.

Embeds every recording of the trial lists once, whole, scores every trial, and writes evaluation.json, the
scores, report.html and, for `verify`, a calibration fitted to the run's validation trials.

Exit codes: 0 done, 2 the request can't be met, 130 interrupted.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from sslsv.calibration import Calibration, fit_calibration
from sslsv.data.manifest import Manifest
from sslsv.embeddings import FEW, Crops, EmbeddingStore
from sslsv.evaluation import Scores, Scoring, evaluate_list
from sslsv.evaluation_files import describe_run, keep_calibration, notes_of, results_text, write_results
from sslsv.run_folder import RunFolder
from sslsv.scored_list import ScoredList
from sslsv.scoring_system import ScoringSystem, check_same_validation
from sslsv.speaker_encoder import SpeakerEncoder, folder_of
from sslsv.storage import below
from sslsv.trial_lists import TrialList, TrialListError, open_list
from sslsv.verification import TrialSet, open_trial_sets


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        out, lists = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was embedded completely is kept", file=sys.stderr)
        return 130
    print(results_text(lists))
    print(f"results: {out.location}")
    print(f"report: {below(out.location, 'report.html')}")
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sslsv.evaluate", description="Verification errors of a run on trial lists."
    )
    add = parser.add_argument
    add("run", help="a run folder, such as runs/simclr, or a checkpoint file")
    add("--checkpoint", default="best", help="best (default), last, average, or a file")
    add("--average", type=int, default=5, metavar="N", help="newest checkpoints in an average (default 5)")
    add("--trials", nargs="+", metavar="LIST", help="`1|0 enrol test` lists (default: the run's test lists)")
    add("--root", help="folder that paths in lists are relative to (default: the run's data.root)")
    add("--out", help="folder for the results (default: RUN/evaluation)")
    add("--allow-missing", action="store_true", help="leave out and count trials that can't be scored")
    add("--crops", type=int, metavar="N", help="embed N evenly spaced crops instead of whole recordings")
    add("--crop-seconds", type=float, default=4.0, help="length of such a crop (default 4)")
    add("--norm", choices=["z", "t", "s", "as"], help="normalise scores by those against a cohort")
    add("--centre", action="store_true", help="subtract the cohort's mean embedding")
    add(
        "--cohort",
        choices=["utterances", "clusters", "speakers"],
        default="utterances",
        help="training utterances (default), their k-means clusters, or speaker means (uses labels)",
    )
    add("--cohort-size", type=int, default=1000, help="training utterances, or clusters (default 1000)")
    add("--top", type=int, default=300, help="cohort scores that AS-norm keeps (default 300)")
    add("--ddof", type=int, choices=[0, 1], default=0, help="0: population deviation, 1: sample deviation")
    add(
        "--fuse",
        nargs="+",
        default=[],
        metavar="RUN",
        help="other runs whose scores are fused with this one's",
    )
    add("--no-calibration", action="store_true", help="do not calibrate on the run's validation trials")
    add("--replicates", type=int, default=1000, help="of the bootstrap for intervals; 0 = none")
    add("--precision", choices=["fp32", "bf16", "fp16"], help="of the encoder (default: as trained)")
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add(
        "--workers",
        type=int,
        help="processes that embed (default: one; for many files one per GPU or CPU of the cluster)",
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> tuple[RunFolder, list[ScoredList]]:
    """Evaluate as asked and write the results; returns where they are and what they are.

    Raises ValueError or OSError with a sentence; mistakes in lists are found before anything is embedded.
    """
    started = time.monotonic()
    scoring = scoring_of(options)
    locations = [options.run, *options.fuse]
    encoders = [load(options, location) for location in locations]
    root, names = encoders[0].config.data.root, options.trials or encoders[0].config.evaluation.test
    if not names:
        raise TrialListError(f"{options.run} was trained without test lists; name some with --trials")
    lists = [open_list(root, name, is_lenient=options.allow_missing) for name in names]
    cohort, validation = training_side(encoders, options, scoring)
    with systems_of(encoders, locations, scoring, cohort, lists, options) as systems:
        calibrations, fusion = fit(systems, validation)
        scored = [score(item, systems, calibrations, fusion, options, scoring) for item in lists]
    folder = folder_of(options.run)
    out = RunFolder.at(options.out or below(folder.location, "evaluation"))
    evaluation = {
        **describe_run(options, encoders[0]),
        "notes": list(notes_of(options, validation)),
        "lists": {item.name: item.summary for item in scored},
        "seconds": time.monotonic() - started,
    }
    write_results(out, evaluation, scored)
    if "cosine" in calibrations:
        keep_calibration(folder, encoders[0], calibrations["cosine"])
    return out, scored


def load(options: argparse.Namespace, location: str) -> SpeakerEncoder:
    """The encoder of a run, with the corpus's folder as asked."""
    which = options.checkpoint if location == options.run else "best"
    encoder = SpeakerEncoder.load(
        location, which, device=options.device, precision=options.precision, num_averaged=options.average
    )
    if not options.root:
        return encoder
    config = replace(encoder.config, data=replace(encoder.config.data, root=options.root))
    return replace(encoder, config=config)


def scoring_of(options: argparse.Namespace) -> Scoring:
    """Scorings that the command line asks for."""
    return Scoring(
        norm=options.norm,
        cohort=options.cohort,
        cohort_size=options.cohort_size,
        top=options.top,
        ddof=options.ddof,
        is_centred=options.centre,
        is_mean_of_crops=bool(options.crops),
        replicates=options.replicates,
    )


def training_side(
    encoders: Sequence[SpeakerEncoder], options: argparse.Namespace, scoring: Scoring
) -> tuple[Manifest | None, TrialSet | None]:
    """Training utterances for a cohort, and validation trials, each None where nothing needs it."""
    needs_validation = bool(options.fuse) or not options.no_calibration
    if not scoring.needs_cohort and not needs_validation:
        return None, None
    manifest, validation, _ = open_trial_sets(encoders[0].config)
    if options.fuse and validation is None:
        raise ValueError(f"{options.run} has no validation trials to fit a fusion to")
    for location, encoder in zip(options.fuse, encoders[1:], strict=True):
        if validation is not None:
            check_same_validation(validation, open_trial_sets(encoder.config)[1], encoder.config, location)
    return manifest if scoring.needs_cohort else None, validation if needs_validation else None


@contextlib.contextmanager
def systems_of(
    encoders: Sequence[SpeakerEncoder],
    locations: Sequence[str],
    scoring: Scoring,
    cohort: Manifest | None,
    lists: Sequence[TrialList],
    options: argparse.Namespace,
) -> Iterator[list[ScoringSystem]]:
    """A scoring system per encoder; with many recordings, in processes of their own as long as this lasts."""
    crops = Crops(options.crops, options.crop_seconds) if options.crops else None
    count = sum(len(item.trials.paths) for item in lists) + (scoring.num_cohort_utterances if cohort else 0)
    is_parallel = options.workers is not None or count > FEW
    with contextlib.ExitStack() as stack:
        systems = []
        for location, encoder in zip(locations, encoders, strict=True):
            embed, root = None, encoder.config.data.root
            if is_parallel:
                from sslsv.embedding_workers import workers  # Ray takes seconds to import

                embed = stack.enter_context(workers(encoder, root, crops, options.workers))
            store = EmbeddingStore(encoder, folder_of(location), root, crops, embed)
            systems.append(ScoringSystem(encoder, store, scoring, cohort))
        yield systems


def fit(
    systems: Sequence[ScoringSystem], validation: TrialSet | None
) -> tuple[dict[str, Calibration], Calibration | None]:
    """Calibrations of the first system's scorings, and the fusion of all systems, from validation trials."""
    if validation is None:
        return {}, None
    each = [system.validation_scores(validation) for system in systems]
    targets = validation.trials.targets
    calibrations = {name: fit_calibration(values, targets) for name, values in each[0].items()}
    if len(systems) == 1:
        return calibrations, None
    return calibrations, fit_calibration(principal(each), targets)


def principal(scores: Sequence[dict[str, Scores]]) -> Scores:
    """The principal scores of several systems, (K, J)."""
    return np.stack([next(iter(one.values())) for one in scores])


def score(
    item: TrialList,
    systems: Sequence[ScoringSystem],
    calibrations: dict[str, Calibration],
    fusion: Calibration | None,
    options: argparse.Namespace,
    scoring: Scoring,
) -> ScoredList:
    """Embed and score one list with every system, and count the errors."""
    embeddings = []
    for system in systems:
        item, rows = system.embed_list(item, is_lenient=options.allow_missing)
        embeddings.append(rows)
    each = [system.scores(rows, item.trials) for system, rows in zip(systems, embeddings, strict=True)]
    scores = each[0]
    llrs = {name: calibration.apply(scores[name]) for name, calibration in calibrations.items()}
    if fusion is not None:
        llrs["fused"] = fusion.apply(principal(each))
    return evaluate_list(item.name, item.trials, embeddings[0], scores, llrs, scoring, item.describe())


if __name__ == "__main__":
    sys.exit(main())
