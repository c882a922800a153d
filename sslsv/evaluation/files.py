"""What an evaluation leaves behind: evaluation.json, scores, report, and a calibration in the run folder."""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from sslsv.config import Config
from sslsv.evaluation.calibration import Calibration
from sslsv.evaluation.options import crops_of
from sslsv.evaluation.scored_list import ScoredList
from sslsv.evaluation.speaker_encoder import CALIBRATION_FILE, SpeakerEncoder
from sslsv.evaluation.trial_lists import TrialList, count_shared
from sslsv.evaluation.verification import TrialSet, listed_trials
from sslsv.reports.evaluation import evaluation_page
from sslsv.runs.folder import RunFolder

COUNTED = ("trials", "targets", "nontargets", "recordings", "speakers")  # beside these: what was left out


def describe_run(which: str, encoder: SpeakerEncoder) -> dict[str, Any]:
    """What was evaluated: the run, and which of its checkpoints."""
    return {
        "run": encoder.run,
        "checkpoint": {"which": which, "files": list(encoder.checkpoints), "steps": list(encoder.steps)},
        "identity": encoder.identity,
        "precision": encoder.precision,
    }


def notes_of(
    options: argparse.Namespace, encoders: Sequence[SpeakerEncoder], validation: TrialSet | None
) -> Iterator[str]:
    """Sentences that a reader of the results needs: what labels were used for, what was not whole."""
    if options.fuse:
        yield f"Fused with {', '.join(options.fuse)}; the weights were fitted to the validation trials."
    if validation is not None and not options.no_calibration:
        yield (
            f"Calibrated on {len(validation.trials)} validation trials of {len(validation.trials.paths)} "
            "recordings: their labels were used for two numbers, scale and offset."
        )
    if options.norm or options.centre:
        uses = "Their labels were used: " if options.cohort == "speakers" else "No labels were used: "
        what = {
            "utterances": "the cohort is training utterances as they are",
            "clusters": "the cohort is means of k-means clusters of training utterances",
            "speakers": "the cohort is means of training speakers, so the result is not free of labels",
        }[options.cohort or "utterances"]
        yield f"{uses}{what}."
    if (crop := crops_of(options)) is not None:
        crops = f"{crop.count} evenly spaced crops of {crop.seconds:g} seconds"
        centred = "the cosine of the centred mean unit embeddings of the crops"
        what = centred if options.centre else "the mean cosine over all pairs of crops"
        yield f"Every recording is {crops}; a score is {what}."
    if options.checkpoint == "average":
        for encoder in encoders:
            steps = ", ".join(map(str, encoder.steps))
            yield f"The weights of {encoder.run} are the mean of the checkpoints of steps {steps}."


def leaks(lists: Sequence[TrialList], validation: TrialSet | None, config: Config) -> Iterator[str]:
    """A sentence for every list with trials that chose the checkpoint or were calibrated on."""
    if validation is None and config.evaluation.validation is not None:
        with contextlib.suppress(ValueError, OSError):  # it is not needed here, and may be gone
            validation = listed_trials(config.data.root, config.evaluation.validation)
    if validation is None:
        return
    for item in lists:
        shared = count_shared(item.trials, item.root, validation.trials, config.data.root)
        if shared:
            yield (
                f"{shared} of the {len(item.trials)} trials of {item.name} are validation trials, which "
                "choose checkpoint and calibration: its errors are no test results."
            )


def write_results(out: RunFolder, evaluation: dict[str, Any], lists: Sequence[ScoredList]) -> None:
    """Write everything into the folder `out`, in place of an earlier evaluation; the report last."""
    if out.has("evaluation.json"):  # else the folder may be anyone's
        out.delete_folder("scores")
    for item in lists:
        out.write(f"scores/{item.name}.txt", scores_text(item))
    out.write_json("evaluation.json", evaluation)
    out.write("report.html", evaluation_page(evaluation, list(lists)).encode())


def scores_text(item: ScoredList) -> bytes:
    """The list again, `1|0 enrol test`, with a column per scoring, which the first line names."""
    trials, names = item.trials, list(item.scores)
    buffer = io.StringIO()
    buffer.write(" ".join(["#target", "enrolment", "test", *names]) + "\n")
    columns = [item.scores[name].tolist() for name in names]
    paths, enrol, test = trials.paths, trials.enrol.tolist(), trials.test.tolist()
    for target, first, second, *values in zip(trials.targets.tolist(), enrol, test, *columns, strict=True):
        numbers = " ".join(f"{value:.6f}" for value in values)
        buffer.write(f"{int(target)} {paths[first]} {paths[second]} {numbers}\n")
    return buffer.getvalue().encode(errors="surrogateescape")


def keep_calibration(encoder: SpeakerEncoder, calibration: Calibration) -> None:
    """Add a calibration of cosine scores to the weights' folder, where `verify` finds it by the weights."""
    folder = RunFolder.at(encoder.run)
    known: dict[str, Any] = folder.read_json(CALIBRATION_FILE) if folder.has(CALIBRATION_FILE) else {}
    known[encoder.identity] = {
        "calibration": calibration.to_dict(),
        "checkpoints": list(encoder.checkpoints),
        "precision": encoder.precision,
    }
    try:
        folder.write_json(CALIBRATION_FILE, known)
    except OSError as error:
        print(f"the calibration is not kept for sslsv.verify: {error}", file=sys.stderr)


def results_text(lists: Sequence[ScoredList]) -> str:
    """The results as a small table for the terminal."""
    lines = []
    for item in lists:
        counts = item.summary["counts"]
        lines.append(
            f"{item.name}: {counts['trials']} trials ({counts['targets']} target, {counts['nontargets']} "
            f"nontarget), {counts['recordings']} recordings of {counts['speakers']} speakers"
        )
        left_out = [key for key in counts if key not in COUNTED]
        lines += [f"  {key.replace('_', ' ')}: {counts[key]}" for key in left_out]
        for scoring, table in item.summary["scorings"].items():
            lines.append(f"  {scoring}")
            lines += [f"    {metric:<40}{shown(metric, values)}" for metric, values in table.items()]
    return "\n".join(lines)


def shown(metric: str, values: dict[str, float]) -> str:
    """A value with its interval, `13.80 % (11.02 to 17.13)`."""
    form, unit = (".2f", " %") if metric.startswith("eer") else (".4f", "")
    text = f"{values['value']:{form}}{unit}"
    return text + (f" ({values['low']:{form}} to {values['high']:{form}})" if "low" in values else "")
