"""Decide whether recordings are from the same speaker: `sslsv verify RUN ENROLMENT ... TEST`.

Prints the cosine and, if `sslsv evaluate` has stored a calibration, the log-likelihood ratio with a
probability and a decision for two cases: equal prior probabilities, and the given operating point.
"""

import argparse
import os
import sys
from typing import Any

from sslsv.evaluation.arguments import encoder_parser, load_encoder, run_command
from sslsv.settings import command_name


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = encoder_parser("verify", "Decide whether recordings are from the same speaker.")
    add = parser.add_argument
    add("recordings", nargs="+", metavar="FILE", help="enrolment of one speaker, then the test recording")
    add("--p-target", type=float, default=0.01, help="prior probability of the same speaker (default 0.01)")
    add("--c-miss", type=float, default=1.0, help="cost of rejecting the same speaker (default 1)")
    add("--c-fa", type=float, default=1.0, help="cost of accepting another speaker (default 1)")
    add("--json", action="store_true", help="print JSON")
    return run_command(run, parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Compare the last recording with the others and print the result; raises ValueError or OSError."""
    *enrolment, test = options.recordings
    if not enrolment:
        raise ValueError(f"only {test} is given; name at least one enrolment recording before it")
    from sslsv.evaluation.metrics import bayes_threshold

    point = {"p_target": options.p_target, "c_miss": options.c_miss, "c_fa": options.c_fa}
    threshold = bayes_threshold(**point)
    if missing := [file for file in options.recordings if not os.path.exists(file)]:
        raise FileNotFoundError(f"{missing[0]} does not exist")
    encoder = load_encoder(options)
    from sslsv.data.audio import AudioError
    from sslsv.evaluation.calibration import OVERCONFIDENT, posterior
    from sslsv.runs.folder import json_text

    try:
        comparison = encoder.compare(enrolment, test, options.p_target)
    except AudioError as error:
        raise ValueError(str(error)) from error
    result: dict[str, Any] = {"enrolment": enrolment, "test": test, "checkpoint": list(encoder.checkpoints)}
    result["cosine"] = comparison.cosine
    if comparison.llr is not None:
        if encoder.calibration is not None and encoder.calibration.is_too_sure:
            result["note"] = OVERCONFIDENT
        elif len(enrolment) > 1:
            result["note"] = (
                "The calibration was fitted to trials of one recording against one; for the mean of "
                f"{len(enrolment)} enrolment recordings the ratio is only roughly right."
            )
        result |= {
            "llr": comparison.llr,
            "probability": comparison.probability,
            "operating_point": point | {"llr_threshold": threshold},
            "is_same_speaker": comparison.llr >= threshold,
        }
        equal = {"probability": float(posterior(comparison.llr, 0.5)), "is_same_speaker": comparison.llr >= 0}
        result["at_equal_prior"] = equal
    print(json_text(result) if options.json else in_words(result))
    return 0


def in_words(result: dict[str, Any]) -> str:
    """Return the result as text for a person."""
    cosine = f"cosine                 {result['cosine']:.4f}"
    if "llr" not in result:
        return (
            f"{cosine}\nNo calibration is stored for these weights, so there is no decision: "
            f"`{command_name('evaluate')} RUN` fits one to the run's validation trials."
        )
    point, equal = result["operating_point"], result["at_equal_prior"]
    costs = f"p_target {point['p_target']:g}, c_miss {point['c_miss']:g}, c_fa {point['c_fa']:g}"
    decisions = [
        ("half of such pairs are of one speaker", equal, "0: as likely as not"),
        (f"{point['p_target']:.4g} of such pairs are", result, f"{point['llr_threshold']:.3f}: {costs}"),
    ]
    ratio = f"log-likelihood ratio   {result['llr']:.3f}  (natural logarithm; above 0 for one speaker)"
    lines = [cosine, ratio]
    for prior, answer, threshold in decisions:
        verdict = "same speaker" if answer["is_same_speaker"] else "different speakers"
        lines += [f"if {prior}", f"  probability          {answer['probability']:.4f}"]
        lines += [f"  decision             {verdict}  (threshold {threshold})"]
    return "\n".join([*lines, *([f"note                   {result['note']}"] if "note" in result else [])])


if __name__ == "__main__":
    sys.exit(main())
