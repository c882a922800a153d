"""Evaluate a run: `python -m sslsv.evaluate RUN [--trials LIST ...] [--norm as] ...`.

Embeds every recording of the trial lists once, whole, scores every trial, and writes evaluation.json, the
scores, report.html and, for `verify`, a calibration fitted to the run's validation trials.

Exit codes: 0 done, 2 the request can't be met, 130 interrupted.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sslsv.config import to_yaml
from sslsv.data.lists import Manifest
from sslsv.evaluation.calibration import Calibration, fit_calibration
from sslsv.evaluation.embeddings import EmbeddingStore, uses_processes
from sslsv.evaluation.encoder_options import load_encoder
from sslsv.evaluation.evaluation import Scores, Scoring, evaluate_list
from sslsv.evaluation.files import (
    describe_run,
    keep_calibration,
    leaks,
    notes_of,
    results_text,
    write_results,
)
from sslsv.evaluation.options import check_options, crops_of, parse_arguments, scoring_of
from sslsv.evaluation.scored_list import ScoredList
from sslsv.evaluation.scoring_system import Outcome, ScoringSystem, check_same_validation
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.evaluation.trial_lists import TrialList, TrialListError, open_list
from sslsv.evaluation.verification import TrialSet, open_training_side
from sslsv.runs.environment import describe_environment
from sslsv.runs.folder import RunFolder, below


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        out, lists, notes = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was embedded completely is kept", file=sys.stderr)
        return 130
    print(results_text(lists))
    for note in notes:
        print(f"note: {note}")
    print(f"results: {out.location}")
    print(f"report: {below(out.location, 'report.html')}")
    return 0


def run(options: argparse.Namespace) -> tuple[RunFolder, list[ScoredList], list[str]]:
    """Evaluate as asked and write the results; returns where they are, what they are, and what to know.

    Raises ValueError or OSError with a sentence; mistakes in lists are found before anything is embedded.
    """
    started = time.monotonic()
    check_options(options)
    scoring = scoring_of(options)
    encoders = [load(options, location) for location in (options.run, *options.fuse)]
    config = encoders[0].config
    names = options.trials or config.evaluation.test
    if not names:
        raise TrialListError(f"{options.run} was trained without test lists; name some with --trials")
    root = options.root or config.data.root
    lists = [open_list(root, name, is_lenient=options.allow_missing) for name in names]
    cohort, validation = training_side(encoders, options, scoring)
    notes = [*notes_of(options, encoders, validation), *leaks(lists, validation, config)]
    outcomes: list[Outcome] = []
    for encoder in encoders:
        # Of recordings that one encoder could not read, the next ones are not asked.
        asked = [item for item, *_ in outcomes[-1].lists] if outcomes else lists
        outcomes.append(score_with(encoder, scoring, cohort, validation, asked, options))
    calibrations, fusion = fit(outcomes, validation, options)
    scored = [measure(outcomes, place, calibrations, fusion, scoring) for place in range(len(lists))]
    out = RunFolder.at(options.out or below(encoders[0].run, "evaluation"))
    evaluation = {
        **describe_run(options.checkpoint, encoders[0]),
        "fused_with": [
            describe_run(which_of(options, location), other)
            for location, other in zip(options.fuse, encoders[1:], strict=True)
        ],
        "environment": describe_environment(),
        "settings": to_yaml(config),
        "notes": notes,
        "lists": {item.name: item.summary for item in scored},
        "seconds": time.monotonic() - started,
    }
    write_results(out, evaluation, scored)
    if "cosine" in calibrations:
        keep_calibration(encoders[0], calibrations["cosine"])
    return out, scored, notes


def load(options: argparse.Namespace, location: str) -> SpeakerEncoder:
    """The encoder of a run, with its training data where it is now."""
    which = which_of(options, location)
    encoder = load_encoder(options, location, which, device=options.device, precision=options.precision)
    if not options.train_root:
        return encoder
    config = replace(encoder.config, data=replace(encoder.config.data, root=options.train_root))
    return replace(encoder, config=config)


def which_of(options: argparse.Namespace, location: str) -> str:
    """The checkpoint of a run that is asked for; of another run's file there is none in the runs fused."""
    is_named = options.checkpoint in ("best", "last", "average")
    return options.checkpoint if is_named or location == options.run else "best"


def training_side(
    encoders: Sequence[SpeakerEncoder], options: argparse.Namespace, scoring: Scoring
) -> tuple[Manifest | None, TrialSet | None]:
    """Training utterances for a cohort, and validation trials, each None where nothing needs it."""
    needs_validation = bool(options.fuse) or not options.no_calibration
    if not scoring.needs_cohort and not needs_validation:
        return None, None
    try:
        manifest, validation = open_training_side(encoders[0].config)
        others = [open_training_side(encoder.config)[1] for encoder in encoders[1:]]
    except (ValueError, OSError) as error:
        raise ValueError(
            f"the run's training data, for calibration or a cohort, can't be used: {error} If it has moved, "
            "give its folder with --train-root; --no-calibration does without validation trials"
        ) from error
    if options.fuse and validation is None:
        raise ValueError(f"{options.run} has no validation trials to fit a fusion to")
    for location, encoder, other in zip(options.fuse, encoders[1:], others, strict=True):
        if validation is not None:
            check_same_validation(validation, other, encoder.config, location)
    return manifest if scoring.needs_cohort else None, validation if needs_validation else None


def score_with(
    encoder: SpeakerEncoder,
    scoring: Scoring,
    cohort: Manifest | None,
    validation: TrialSet | None,
    lists: Sequence[TrialList],
    options: argparse.Namespace,
) -> Outcome:
    """All scores of one encoder; many recordings are embedded by processes that end with it."""
    crops, embed = crops_of(options), None
    count = sum(len(item.trials.paths) for item in lists)
    count += min(scoring.num_cohort_utterances, len(cohort)) if cohort else 0
    with contextlib.ExitStack() as stack:
        if uses_processes(count, options.workers, options.device):
            from sslsv.evaluation.embedding_workers import workers  # Ray takes seconds to import

            embed = stack.enter_context(workers(encoder, crops, options.workers))
        store = EmbeddingStore(encoder, RunFolder.at(encoder.run), crops, embed)
        system = ScoringSystem(encoder, store, scoring, cohort)
        return system.outcome(validation, lists, is_lenient=options.allow_missing)


def fit(
    outcomes: Sequence[Outcome], validation: TrialSet | None, options: argparse.Namespace
) -> tuple[dict[str, Calibration], Calibration | None]:
    """Calibrations of the first encoder's scorings, and the fusion of all, from validation trials."""
    if validation is None:
        return {}, None
    each, targets = [outcome.validation for outcome in outcomes], validation.trials.targets
    wanted = {} if options.no_calibration else each[0]
    calibrations = {name: fit_calibration(values, targets) for name, values in wanted.items()}
    return calibrations, fit_calibration(principal(each), targets) if len(each) > 1 else None


def principal(scores: Sequence[dict[str, Scores]]) -> Scores:
    """The principal scores of several encoders, (K, J)."""
    return np.stack([next(iter(one.values())) for one in scores])


def measure(
    outcomes: Sequence[Outcome],
    place: int,
    calibrations: dict[str, Calibration],
    fusion: Calibration | None,
    scoring: Scoring,
) -> ScoredList:
    """Count the errors of one list, by its place."""
    item = outcomes[-1].lists[place][0]
    _, embeddings, scores = outcomes[0].lists[place]
    llrs = {name: calibration.apply(scores[name]) for name, calibration in calibrations.items()}
    if fusion is not None:
        llrs["fused"] = fusion.apply(principal([outcome.lists[place][2] for outcome in outcomes]))
    return evaluate_list(item.name, item.trials, embeddings, scores, llrs, scoring, item.describe())


if __name__ == "__main__":
    sys.exit(main())
