import dataclasses
import re
import time

import numpy as np
import pytest

from sslsv.data.manifest import Trials
from sslsv.evaluation.scorer import Scoring, evaluate_list
from sslsv.evaluation.scoring import cosine_scores
from sslsv.reports.evaluation import evaluation_page, metric_table

EVIL = "<img src=x onerror=alert(1)>.wav"


def make_list(num_speakers, recordings, num_trials, name="trials", replicates=0):
    """A list of Gaussian embeddings, scored and measured as an evaluation does it."""
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(num_speakers), recordings)
    embeddings = generator.normal(size=(num_speakers, 32))[speakers] + generator.normal(
        size=(len(speakers), 32)
    )
    enrol, test = generator.integers(len(speakers), size=(2, num_trials))
    # Half of them targets; all recordings of a speaker are in one, in a ring.
    ring = np.arange(len(speakers))
    enrol[: len(ring)], test[: len(ring)] = ring, ring // recordings * recordings + (ring + 1) % recordings
    half = slice(len(ring), num_trials // 2)
    test[half] = enrol[half] // recordings * recordings + test[half] % recordings
    kept = enrol != test
    enrol, test = enrol[kept], test[kept]
    trials = Trials(
        paths=[f"vox/id{s}/{i}.wav" for i, s in enumerate(speakers)],
        enrol=enrol,
        test=test,
        targets=speakers[enrol] == speakers[test],
    )
    scores = cosine_scores(embeddings, enrol, test).astype(np.float64)
    return evaluate_list(
        name,
        trials,
        embeddings.astype(np.float32),
        {"cosine": scores},
        {"cosine": 8 * scores - 2},
        Scoring(replicates=replicates),
        {"file": f"/corpora/{name}", "sha256": "0123abcd", "counts": {"skipped_trials": 7}},
    )


def evaluation_of(lists):
    return {
        "run": "/runs/vicreg",
        "checkpoint": {"which": "best", "files": ["step_00001170-0123.pt"], "steps": [1170]},
        "notes": ["Their labels were used for <two> numbers."],
        "seconds": 83.0,
        "environment": {"torch": "2.99"},
        "settings": "seed: 1  # <script>\n",
        "lists": {item.name: item.summary for item in lists},
    }


@pytest.fixture(scope="module")
def small():
    return make_list(12, 6, 1000, replicates=50)


@pytest.fixture(scope="module")
def page(small):
    return evaluation_page(evaluation_of([small]), [small])


def test_evaluation_page__shows_metrics_with_intervals(page, small):
    metric = small.summary["scorings"]["cosine"]["eer"]
    assert f"{metric['value']:.2f} % <small>({metric['low']:.2f} to {metric['high']:.2f})</small>" in page
    for title in ("EER", "EER, convex hull", "minDCF p_target=0.01", "actDCF p_target=0.05", "Cllr, bits"):
        assert f"<th>{title}</th>" in page, title
    assert "<td>cosine</td>" in page and "<td>cosine_calibrated</td>" in page


def test_evaluation_page__says_what_was_evaluated(page):
    for text in (
        "Evaluation of vicreg",
        "step 1,170 (step_00001170-0123.pt)",
        "0123abcd",
        "7 skipped trials",
        "2.99",
    ):
        assert text in page, text
    assert "Their labels were used for &lt;two&gt; numbers." in page


def test_evaluation_page__names_the_hardest_trials_and_the_worst_speakers(page, small):
    trials, scores = small.trials, small.scores["cosine"]
    lowest = min(np.flatnonzero(trials.targets), key=lambda j: scores[j])
    highest = max(np.flatnonzero(~trials.targets), key=lambda j: scores[j])
    for j in (lowest, highest):
        cells = [f"{scores[j]:.4f}", trials.paths[trials.enrol[j]], trials.paths[trials.test[j]]]
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    assert re.search(r"<td>id\d+</td><td>6</td><td>\d+ of \d+ \(\d+\.\d %\)</td>", page)
    assert page.count("<svg") == 4


def test_evaluation_page__is_one_file_that_needs_no_other(page):
    assert "http" not in page and "<link" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)


def test_evaluation_page__escapes_file_names(small):
    paths = [f"id{i // 6}<b>$/{i}{EVIL}" for i in range(len(small.trials.paths))]
    item = dataclasses.replace(small, name=EVIL, trials=dataclasses.replace(small.trials, paths=paths))
    page = evaluation_page(evaluation_of([item]), [item])
    assert "<img" not in page and "<b>$" not in page and "<script" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;.wav" in page and "id0&lt;b&gt;$" in page


@pytest.mark.parametrize(
    "missing", ["run", "checkpoint", "notes", "seconds", "environment", "settings", "lists"]
)
def test_evaluation_page__does_without_any_one_part(small, missing):
    evaluation = {key: value for key, value in evaluation_of([small]).items() if key != missing}
    assert "Hardest target trials" in evaluation_page(
        evaluation, [dataclasses.replace(small, scores={"cosine": small.scores["cosine"]})]
    )


def test_evaluation_page__of_nothing_is_a_page():
    assert evaluation_page({}, []).endswith("</html>\n")


def test_evaluation_page__of_a_list_without_summary_still_shows_its_trials(small):
    page = evaluation_page({}, [dataclasses.replace(small, summary={})])
    assert "Hardest nontarget trials" in page and page.count("<svg") == 4


def test_evaluation_page__draws_the_map_of_the_first_list_only(small):
    lists = [small, dataclasses.replace(small, name="other")]
    page = evaluation_page(evaluation_of(lists), lists)
    assert page.count("map of embeddings") == 1 and page.count("<svg") == 7


def test_metric_table__has_a_dash_where_a_scoring_lacks_a_metric():
    table = metric_table(
        {
            "cosine": {"eer": {"value": 5.0}},
            "llr": {"act_dcf(p_target=0.01,c_miss=10,c_fa=1)": {"value": 0.5}},
        }
    )
    assert "<td>cosine</td><td>5.00 %</td><td>–</td>" in table
    assert "<td>llr</td><td>–</td><td>0.5000</td>" in table
    assert "<th>actDCF p_target=0.01 c_miss=10</th>" in table
    assert "intervals" not in table


@pytest.mark.slow
def test_evaluation_page__of_a_million_trials_is_small_and_quick():
    item = make_list(1251, 20, 1_000_000)
    start = time.process_time()
    page = evaluation_page(evaluation_of([item]), [item])
    assert len(page) < 3_000_000
    assert time.process_time() - start < 60
