import re
from types import SimpleNamespace

import numpy as np
import pytest

from sslsv.reports.evaluation import evaluation_page
from sslsv.reports.page import Link

LONG = "cosine, AS-norm (598 training utterances, top 300)"
METRICS = {
    "eer": {"value": 7.0, "threshold": 0.2, "low": 5.5, "high": 9.25},
    "min_dcf(p_target=0.01,c_miss=1,c_fa=1)": {"value": 0.5},
}


def scored_list():
    """Return a list of 1,000 Gaussian scores of 12 speakers with 6 recordings each."""
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(12), 6)
    enrol, test = generator.permutation(np.triu_indices(len(speakers), 1), axis=1)[:, :1000]
    targets = speakers[enrol] == speakers[test]
    scores = generator.normal(size=len(enrol)) + 3 * targets
    paths = [f"vox/id{s}/{i}.wav" for i, s in enumerate(speakers)]
    scorings = {"cosine": METRICS, "cosine_calibrated": METRICS | {"cllr": {"value": 0.25}}}
    counts = {"trials": 4000, "skipped_trials": 7}
    return SimpleNamespace(
        name="trials",
        trials=SimpleNamespace(paths=paths, enrol=enrol, test=test, targets=targets),
        scores={"cosine": scores, "cosine_calibrated": 8 * scores - 2},
        summary={"file": "/corpora/x", "sha256": "0123abcd", "counts": counts, "scorings": scorings}
        | {"titles": {"cosine": LONG, "cosine_calibrated": f"{LONG}, calibrated"}},
    )


EVALUATION = {
    "run": "/runs/vicreg",
    "checkpoint": {"files": ["step_00001170-0123.pt"], "steps": [1170]},
    "notes": ["Their labels were used for <two> numbers."],
    "warnings": [],
    "labels_were_used": {"scoring": False},
    "seconds": 83.0,
    "environment": {"torch": "2.99"},
    "settings": "seed: 1  # <script>\n",
}
OF_RUN = {"trained": {"speech": "2 hours"}, "links": [Link("Run vicreg", "../report.html")]}


@pytest.fixture(scope="module")
def small():
    return scored_list()


@pytest.fixture(scope="module")
def page(small):
    return evaluation_page(EVALUATION, [small], **OF_RUN).decode()


@pytest.mark.parametrize(
    "text",
    [
        "7.00 %\n5.50 to 9.25",
        "Evaluation of vicreg",
        "1,170",
        "step_00001170-0123.pt",
        "SHA-256 of the list</td><td>0123abcd",
        "4,000 trials, 7 skipped trials",
        "2.99",
        "Their labels were used for &lt;two&gt; numbers.",
        "<td>speech</td><td>2 hours</td>",
        '<a href="../report.html">Run vicreg</a>',
        f"<th>metric</th><th>{LONG}</th></tr>",
        "<td>Cllr, calibrated</td><td>0.2500\n</td>",
    ],
)
def test_evaluation_page__shows_metrics_with_intervals_and_what_was_evaluated(page, text):
    assert text in page


def test_evaluation_page__shows_what_calibration_leaves_as_it_is_once(page):
    assert "EER, calibrated" not in page
    assert page.count("<svg") == 2 and "calibrated</text>" not in page


def test_evaluation_page__names_the_hardest_trials(page, small):
    trials, scores = small.trials, small.scores["cosine"]
    lowest = min(np.flatnonzero(trials.targets), key=lambda j: scores[j])
    highest = max(np.flatnonzero(~trials.targets), key=lambda j: scores[j])
    for j in (lowest, highest):
        cells = [f"{scores[j]:.4f}", trials.paths[trials.enrol[j]], trials.paths[trials.test[j]]]
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page


def test_evaluation_page__names_every_scoring_whole_in_the_legend(page):
    legend = page.partition("<svg")[2].partition("</svg>")[0]
    assert " ".join(re.findall(r">(cosine, AS-norm[^<]*|[^<>]*top 300\))</text>", legend)) == LONG
