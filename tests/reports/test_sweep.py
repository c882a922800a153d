"""The page of a sweep, and what it is made of, from a sweep whose trials are numbers."""

import io
import math
import re

import pyarrow.parquet as pq
import pytest
from ray import tune

from sslsv.reports.sweep import warnings_of, write_sweep_report
from sslsv.reports.sweep_charts import Scale
from sslsv.search import Asha, When
from sslsv.search.analysis import importance, rung_correlations, savings
from sslsv.search.results import write_results
from tests.search.test_sweep import open_sweep, train

PARAMETERS = {
    "model.temperature": tune.loguniform(0.01, 1.0),
    "data.augment.noise.probability": tune.uniform(0.0, 1.0),
    "data.crop_overlap": tune.choice(["any", "disjoint"]),
    "optimizer.name": tune.choice(["adamw", "sgd"]),
    "optimizer.momentum": When("optimizer.name", {"sgd": tune.uniform(0.5, 0.95)}),
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A finished sweep in which half the EER is the pseudo-trial EER; do not change it."""
    found = open_sweep(tmp_path_factory.mktemp("sweep"), parameters=PARAMETERS, scheduler=Asha(3), trials=18)
    while not found.is_over:
        leg = found.next_leg(at_once=1)
        if leg is None:
            continue
        train(found, leg, "collapsed" if leg.index == 7 else "reached")
    for record in found.folder.records:
        record["label_free/pseudo_eer"] = record["eer"] / 2
    return found


def test_write_sweep_report__has_every_section_and_picture(sweep):
    write_results(sweep)
    write_sweep_report(sweep)
    text = sweep.folder.folder.read("report.html").decode()
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == [
        "Trials",
        "Learning curves",
        "What each setting did",
        "All settings together",
        "Importance",
        "Did early rungs tell the end?",
        "Without labels",
    ]
    assert "<td>pseudo-trial EER</td><td>1</td><td>17</td><td>+1.00</td>" in text
    assert text.count("<svg") == 2 + len(PARAMETERS)
    assert "random forest over 17 trials" in text
    assert "collapsed" in text and "times fewer" in text and "<script" not in text and "http" not in text


def test_write_sweep_report__before_the_first_outcome_says_what_is_searched(tmp_path):
    sweep = open_sweep(tmp_path, parameters=PARAMETERS)
    write_sweep_report(sweep)
    assert "Search over 5 settings" in sweep.folder.folder.read("report.html").decode()


def test_rung_correlations__by_hand_and_warned_of_below_six_tenths():
    def at(*values):
        return {index: {"eer": float(value)} for index, value in enumerate(values) if value is not None}

    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6; against 4 3 2 1: -1.
    same, reversed_ = (
        rung_correlations({1: at(1, 2, 3, 4), 3: at(20, 10, 40, 30), 9: at(9, 8)}, "eer")[:1],
        None,
    )
    assert (same[0].early, same[0].late, same[0].trials) == (1, 3, 4)
    assert same[0].rho == pytest.approx(0.6)
    reversed_ = rung_correlations({1: at(1, 2, 3, 4), 3: at(4, 3, 2, 1)}, "eer")
    (sentence,) = warnings_of(reversed_)
    assert "rank correlation -1.00, below 0.6, over 4 trials" in sentence
    assert rung_correlations({1: at(1, 2), 3: at(1, 2)}, "eer") == []
    (constant,) = rung_correlations({1: at(1, 2, 3), 3: at(5, 5, 5)}, "eer")
    assert constant.rho is None and warnings_of([constant]) == []  # nothing was found, good or bad


def test_importance__finds_the_one_setting_that_matters(sweep):
    shares, count = importance(sweep.suggester, sweep.folder.suggestions, sweep.folder.history)
    assert count == 17  # one of the 18 collapsed
    assert next(iter(shares)) == "model.temperature" and shares["model.temperature"] > 0.5
    assert sum(shares.values()) == pytest.approx(1.0) and "optimizer.momentum" not in shares


def test_savings__counts_every_epoch_once(sweep):
    saved = savings(sweep)
    furthest = [outcome.rung for outcome in sweep.folder.history.last_outcomes().values()]
    # Trial 7 collapsed at epoch 1, and would have without any stopping.
    assert saved.epochs == sum(sweep.rungs[rung] for rung in furthest) and saved.epochs_in_full == 17 * 9 + 1
    assert saved.seconds == 2 * saved.epochs and saved.seconds_in_full == pytest.approx(2 * (17 * 9 + 1))


def test_scale__of_conditions_holds_all_cases():
    dimensions = open_dimensions({"a": When("b", {1: tune.loguniform(1, 10), 2: tune.uniform(0, 1)})})
    assert not Scale.of(dimensions["a"]).is_logarithmic
    dimensions = open_dimensions({"a": When("b", {1: tune.choice([1, 2]), 2: tune.choice([2, [3]])})})
    assert Scale.of(dimensions["a"]).categories == (1, 2, "[3]")
    assert Scale.of(dimensions["a"]).place([3]) == 2.0
    tuples = open_dimensions({"a": tune.choice([(1, 2), ()])})
    assert Scale.of(tuples["a"]).place([]) == 1.0  # what suggestions.jsonl has of ()


def test_scale__what_is_no_number_beside_an_interval_is_not_drawn():
    cases = {"sgd": tune.loguniform(0.1, 10), "adamw": tune.choice([None, 1.0])}
    scale = Scale.of(open_dimensions({"a": When("optimizer.name", cases)})["a"])
    assert math.isnan(scale.place(None)) and math.isnan(scale.number("x")) and scale.place(1.0) == 1.0


def test_write_sweep_report__draws_the_numbers_of_a_setting_that_may_be_null(tmp_path):
    clip = When("optimizer.name", {"sgd": tune.uniform(0.1, 1), "adamw": tune.choice([None])})
    parameters = {**PARAMETERS, "optimizer.clip_norm": clip}
    found = open_sweep(tmp_path, parameters=parameters, scheduler=Asha(3), trials=6)
    while not found.is_over:
        if (leg := found.next_leg(at_once=1)) is not None:
            train(found, leg)
    write_sweep_report(found)
    text = found.folder.folder.read("report.html").decode()
    assert text.count("<svg") == 2 + len(parameters)


def open_dimensions(written):
    from sslsv.search.dimensions import read_dimensions

    return read_dimensions(written)


def test_write_results__the_parquet_table_is_the_csv_with_types(sweep):
    write_results(sweep)
    folder = sweep.folder.folder
    table = pq.read_table(io.BytesIO(folder.read("results.parquet")))
    header, *rows = folder.read("results.csv").decode().splitlines()
    assert table.column_names == header.split(",") and table.num_rows == len(rows) == 18
    assert (
        str(table.schema.field("eer").type) == "double" and str(table.schema.field("trial").type) == "int64"
    )
    momentum = table["optimizer.momentum"].to_pylist()
    assert {
        name for name, value in zip(table["optimizer.name"].to_pylist(), momentum, strict=True) if value
    } == {"sgd"}
