"""Evaluate a run: `sslsv evaluate RUN [--trials LIST ...] [--norm as] ...`.

Embeds every recording of the trial lists once, at full length, and scores all trials. Writes the scores,
evaluation.json and report.html, and fits a calibration for `verify` to the run's validation trials.

`--task probe --train LIST --test LIST` instead trains a linear classifier of labels on embeddings. Its lists
have `label path` or `label path speaker` lines. It writes probe.json and probe.html; use one --out per probe.

Exit codes: 0 done, 2 the request can't be met, 130 interrupted (embeddings of finished lists are kept).
"""

import argparse
import posixpath
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sslsv import registry
from sslsv.evaluation.arguments import encoder_parser, load_encoder, run_command, same_encoder
from sslsv.settings import command_name

if TYPE_CHECKING:
    from sslsv.evaluation.speaker_encoder import SpeakerEncoder


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = encoder_parser("evaluate", "Verification errors of a run on trial lists.", has_workers=True)
    add = parser.add_argument
    add("--trials", nargs="+", metavar="LIST", help="`1|0 enrol test` lists (default: the run's test lists)")
    add("--root", help="folder that paths in these lists are relative to (default: the run's data.root)")
    train_root_help = "folder of the training data, for calibration, cohort and PLDA (default: data.root)"
    add("--train-root", help=train_root_help)
    add("--out", help="folder for the results (default: RUN/evaluation)")
    add("--allow-missing", action="store_true", help="leave out and count trials that can't be scored")
    scoring_help = "cosine (default), or plda: log-likelihood ratios, fitted with training labels"
    add("--scoring", choices=["cosine", "plda"], help=scoring_help)
    add("--lda-dim", type=int, help="dimensions that plda keeps (default: all in which speakers differ)")
    add("--norm", choices=["z", "t", "s", "as"], help="normalise scores with scores against a cohort")
    add("--centre", action="store_true", help="subtract the cohort's mean embedding")
    add("--cohort-size", type=int, help="training utterances of the cohort (default 1000)")
    add("--top", type=int, help="cohort scores that AS-norm keeps (default 300)")
    add("--no-calibration", action="store_true", help="do not calibrate on the run's validation trials")
    add("--task", choices=registry.names("tasks"), help="task to run instead of scoring trials")
    add("--train", metavar="LIST", help="with --task: list of `label path [speaker]` lines to train on")
    add("--test", metavar="LIST", help="with --task: list of the same form to test on")
    add("--replicates", type=int, default=1000, help="bootstrap draws for the intervals; 0 = no intervals")
    options = parser.parse_args(arguments)
    return run_command(run_task if options.task else run, options)


def run(options: argparse.Namespace) -> int:
    """Evaluate the run, write the results and print them; returns the exit code.

    Raises ValueError or OSError. The lists are checked before anything is embedded.
    """
    started, is_plda, is_calibrated = time.monotonic(), options.scoring == "plda", not options.no_calibration
    check_numbers(options)
    if options.train or options.test:
        raise ValueError("--train and --test are lists of a task: add --task probe, or name --trials")
    if is_plda and (options.norm or options.centre):
        raise ValueError("--norm and --centre change cosines, and --scoring plda has none: leave them out")
    if options.lda_dim is not None and not is_plda:
        raise ValueError("--lda-dim is a setting of PLDA: add --scoring plda")
    if options.cohort_size is not None and not (options.norm or options.centre):
        raise ValueError("--cohort-size needs a cohort, and there is none: add --norm or --centre")
    if options.top is not None and options.norm != "as":
        raise ValueError("--top is a setting of AS-norm: add --norm as")
    files = [posixpath.basename(name.rstrip("/")) for name in options.trials or ()]
    if duplicates := {name for name in files if files.count(name) > 1}:
        raise ValueError(
            f"two lists of --trials have the file name {' and '.join(map(repr, duplicates))}, under which "
            "their results are kept: rename one, or name it once"
        )
    from sslsv.runs.folder import RunFolder, below, here

    if options.out and (kind := RunFolder.at(options.out).kind()):
        raise ValueError(
            f"--out {options.out} is the folder of a {kind}, whose report an evaluation would replace: name "
            "another one, or leave it out"
        )
    encoder = load_encoder(options)
    if is_calibrated and not encoder.is_calibratable:
        raise ValueError(
            "the runs have no validation trials in common (another list, or held-out speakers of other "
            "lists, number or seed), so one may have trained on those of another: add --no-calibration"
        )
    # These modules import PyTorch, which would delay the errors reported above.
    from sslsv.evaluation import overlap, scorer
    from sslsv.evaluation.calibration import OVERCONFIDENT, UNINFORMATIVE
    from sslsv.evaluation.embedding import EmbeddingStore, embedding_by
    from sslsv.evaluation.plda import check_speakers
    from sslsv.evaluation.trials import open_list
    from sslsv.reports.evaluation import evaluation_page, terminal_lines
    from sslsv.reports.training import of_run, update_report

    scoring = scorer.Scoring(
        norm=options.norm,
        **{key: value for key in ("cohort_size", "top") if (value := getattr(options, key)) is not None},
        is_centred=options.centre,
        replicates=options.replicates,
        is_plda=is_plda,
        lda_dim=options.lda_dim,
    )
    root = options.root or encoder.config.data.root
    if options.train_root:
        encoder = encoder.with_root(options.train_root)
    config, folder, is_lenient = encoder.config, RunFolder.at(encoder.run), options.allow_missing
    names = options.trials or config.evaluation.test
    if not names:
        raise ValueError(f"{options.run} was trained without test lists; name some with --trials")
    lists = [open_list(root, name, is_lenient=is_lenient) for name in names]
    manifest, validation = scorer.training_side(config, scoring, is_calibrated=is_calibrated)
    if is_plda and manifest is not None:
        check_speakers(manifest.speakers, encoder.model.embedding_dim, options.lda_dim)
    training_data = [overlap.trained_on(part.config, RunFolder.at(part.run)) for part in encoder.parts]
    sources = [source for sources_of_part, _ in training_data for source in sources_of_part]
    overlaps = {item.name: overlap.find_overlap(item.trials, item.root, sources) for item in lists}
    descriptions = [overlap.describe(name, shared) for name, shared in overlaps.items()]
    inits = [part.config.encoder.init for part in encoder.parts]
    if validation is not None and config.evaluation.validation is None and any(inits):
        # A run whose weights this run started from may have held out other speakers.
        shared = overlap.find_overlap(validation.trials, config.data.root, sources)
        descriptions.append((overlap.describe("validation", shared)[0], []))
    warnings = [sentence for sentences, _ in descriptions for sentence in sentences]
    notes = [*scorer.notes(encoder, scoring, lists, validation)]
    notes += [gap for _, gaps in training_data for gap in gaps]
    unnamed = [name for name, shared in overlaps.items() if not shared["speakers"]["all"]]
    notes += map(scorer.SPEAKERS_UNNAMED.format, unnamed)
    notes += [sentence for _, sentences in descriptions for sentence in sentences]
    count = sum(len(item.trials.paths) for item in lists) + scoring.num_training(manifest)
    with embedding_by(encoder, count, options.workers, options.device) as embed:
        store = EmbeddingStore(encoder, folder, embed)
        fitted = scorer.Scorer.fit(scoring, store, manifest, config.data.root)
        scored, calibrations = scorer.evaluate(
            encoder, store, fitted, lists, validation, is_lenient=is_lenient
        )
    useless = [name for name, each in calibrations.items() if each.scale == 0]
    warnings += [UNINFORMATIVE.format(fitted.in_words(name)) for name in useless]
    calibration = None if "cosine" in useless else calibrations.get("cosine")
    if calibration is not None and calibration.is_too_sure:
        warnings.append(OVERCONFIDENT)
    evaluation = {
        **described(encoder, started),
        "warnings": warnings,
        "notes": notes,
        "scoring": asdict(scoring),
        "labels_were_used": {
            "training": encoder.model.needs_labels,
            "scoring": is_plda,
            "calibration": validation is not None,
        },
        "lists": {item.name: item.summary | {"overlap": overlaps[item.name]} for item in scored},
    }
    out = RunFolder.at(options.out or below(encoder.run, "evaluation"))
    scorer.write_results(out, evaluation, scored)
    out.write("report.html", evaluation_page(evaluation, scored, **of_run(folder, out)))
    update_report(folder, out)
    lines = [line for item in scored for line in terminal_lines(item)]
    lines += [f"warning: {sentence}" for sentence in warnings]
    print("\n".join([*lines, *[f"note: {note}" for note in notes]]))
    location = here(out.location)
    print(f"results: {location}\nreport: {below(location, 'report.html')}")
    if calibration is not None:
        try:
            scorer.save_calibration(encoder, calibration)
            print(f"next: {command_name('verify')} {same_encoder(options)} ENROLMENT.wav TEST.wav")
        except OSError as error:
            print(f"the calibration can't be stored for `{command_name('verify')}`: {error}", file=sys.stderr)
    return 0


def check_numbers(options: argparse.Namespace) -> None:
    """Raise ValueError for a number that is too small."""
    for name, minimum in (("cohort_size", 2), ("top", 2), ("replicates", 0)):
        if (value := getattr(options, name)) is not None and value < minimum:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; give {minimum} or more")


def run_task(options: argparse.Namespace) -> int:
    """Run the requested task, write its results and print them; returns the exit code, raises as `run`."""
    started, name = time.monotonic(), options.task
    check_numbers(options)
    if not options.train or not options.test:
        raise ValueError(f"--task {name} needs both lists: --train LIST --test LIST")
    trial_options = ["trials", "allow_missing", "norm", "centre", "cohort_size", "top", "lda_dim", "scoring"]
    trial_options += ["train_root", "no_calibration"]
    if given_options := [f"--{key.replace('_', '-')}" for key in trial_options if getattr(options, key)]:
        raise ValueError(f"{given_options[0]} is for trials, and --task {name} scores none")
    encoder = load_encoder(options)
    from sslsv.evaluation.embedding import EmbeddingStore, embedding_by
    from sslsv.reports.task import task_lines, task_page
    from sslsv.reports.training import of_run, update_report
    from sslsv.runs.folder import RunFolder, below, here

    task_class, root = registry.find("tasks", name), options.root or encoder.config.data.root
    settings, folder = task_class.Config(replicates=options.replicates), RunFolder.at(encoder.run)
    task = task_class(settings, root, options.train, options.test)
    with embedding_by(encoder, len(task), options.workers, options.device) as embed:
        task_result = task.run(EmbeddingStore(encoder, folder, embed))
    notes = [*encoder.notes, *task_result["notes"]]
    result = {"task": name, **task_result, **described(encoder, started), "notes": notes}
    out = RunFolder.at(options.out or below(encoder.run, "evaluation"))
    out.write_json(f"{name}.json", result)
    out.write(f"{name}.html", task_page(result, **of_run(folder, out)))
    update_report(folder, out)
    location = here(out.location)
    print("\n".join(task_lines(result)))
    print(f"results: {below(location, f'{name}.json')}\nreport: {below(location, f'{name}.html')}")
    return 0


def described(encoder: "SpeakerEncoder", started: float) -> dict[str, Any]:
    """Return the entries of every result file on the encoder, the machine and the time since `started`."""
    from sslsv.config import to_yaml
    from sslsv.runs.environment import describe_environment

    about = {"environment": describe_environment(), "settings": to_yaml(encoder.config)}
    return {**encoder.describe(), **about, "seconds": time.monotonic() - started}


if __name__ == "__main__":
    sys.exit(main())
