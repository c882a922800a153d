from types import SimpleNamespace

import numpy as np
import pytest

from sslsv.data.lists import Trials
from sslsv.evaluation.calibration import Calibration, fit_calibration
from sslsv.evaluation.metrics import ErrorCurve, bayes_threshold
from sslsv.evaluation.plda import fit_plda
from sslsv.evaluation.scorer import Scoring, measure, notes
from sslsv.evaluation.scoring import cosine_scores, normalise_scores
from sslsv.evaluation.trials import TrialList

SPEAKERS, RECORDINGS = 30, 6


def some_trials():
    """All pairs of 30 speakers' 6 recordings."""
    speakers = np.repeat(np.arange(SPEAKERS), RECORDINGS)
    enrol, test = np.triu_indices(len(speakers), k=1)
    paths = [f"{i}.wav" for i in range(len(speakers))]
    return Trials(paths=paths, enrol=enrol, test=test, targets=speakers[enrol] == speakers[test])


def embeddings_of(seed):
    """Embeddings (180, 32) of length about 98."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(SPEAKERS), RECORDINGS)
    rows = rng.normal(size=(SPEAKERS, 32))[speakers] + 0.8 * rng.normal(size=(len(speakers), 32))
    return (98 / np.sqrt(32 * 1.64) * rows).astype(np.float32)


@pytest.mark.parametrize("norm", [None, "as"])
def test_scores__centring_takes_a_constant_offset_away(norm):
    scoring, found = Scoring(norm=norm, cohort_size=180, top=20, is_centred=True, replicates=0), []
    for length in (0, 1000):  # ten times the embeddings' own
        rows, cohort = (embeddings_of(seed) + np.float32(length / np.sqrt(32)) for seed in (1, 2))
        found.append(next(iter(scoring.scores(rows, some_trials(), cohort).values())))
    assert np.corrcoef(found)[0, 1] > 0.97  # lengths differ where there is an offset, so it is not quite 1
    assert found[1].std() == pytest.approx(found[0].std(), rel=0.05)


def test_scores__without_centring_take_embeddings_and_cohort_as_they_are():
    trials, rows, cohort = some_trials(), embeddings_of(1), embeddings_of(2)
    scoring = Scoring(norm="as", cohort_size=180, top=20, is_centred=False, replicates=0)
    found = scoring.scores(rows, trials, cohort)
    plain = cosine_scores(rows, trials.enrol, trials.test)
    normalised = normalise_scores("as", plain, rows, trials.enrol, trials.test, cohort, top=20)
    assert list(found) == ["cosine_as_norm", "cosine"]
    assert np.array_equal(next(iter(found.values())), normalised)
    assert np.array_equal(found["cosine"], plain)


@pytest.mark.parametrize(
    ("changes", "name", "title"),
    [
        ({}, "cosine", "cosine"),
        ({}, "cosine_calibrated", "cosine, calibrated"),
        ({"norm": "as"}, "cosine_as_norm", "cosine, AS-norm (180 training utterances, top 20)"),
        ({"norm": "as"}, "cosine", "cosine"),
        ({"norm": "z", "is_centred": True}, "centred_cosine_z_norm_calibrated",
         "centred cosine, z-norm (180 training utterances), calibrated"),
        ({"is_plda": True}, "plda", "PLDA (8 dimensions)"),
    ],
)  # fmt: skip
def test_in_words__names_a_scoring_with_what_it_was_made_with(changes, name, title):
    scoring = Scoring(
        **{"norm": None, "cohort_size": 180, "top": 20, "is_centred": False, "replicates": 0} | changes
    )
    plda = fit_plda(embeddings_of(2), np.repeat(np.arange(SPEAKERS), RECORDINGS), 8)
    assert scoring.in_words(name, embeddings_of(2), plda) == title


def measured(calibration, tmp_path):
    trials = some_trials()
    scores = cosine_scores(embeddings_of(1), trials.enrol, trials.test).astype(np.float64)
    (tmp_path / "mine").write_text("the list")
    item = TrialList("mine", str(tmp_path / "mine"), "", trials, {})
    return measure(item, {"cosine": scores}, {"cosine": calibration}, 20, embeddings_of(1))


def test_measure__thresholds_of_calibrated_scores_are_ratios(tmp_path):
    trials = some_trials()
    scores = cosine_scores(embeddings_of(1), trials.enrol, trials.test)
    found = measured(fit_calibration(scores, trials.targets), tmp_path)
    raw, calibrated = found.summary["scorings"].values()
    curve = ErrorCurve.of(found.scores["cosine_calibrated"], trials.targets)
    assert calibrated["eer"]["threshold"] == curve.eer_threshold()
    key = "min_dcf(p_target=0.01,c_miss=1,c_fa=1)"
    assert calibrated[key]["threshold"] == curve.min_dcf_threshold(0.01)
    # Fitted to these trials, the best threshold is near the one that theory gives.
    assert calibrated[key]["threshold"] == pytest.approx(bayes_threshold(0.01), abs=1.5)
    assert raw["eer"]["value"] == calibrated["eer"]["value"]
    assert [raw["eer"][end] for end in ("low", "high")] == [calibrated["eer"][end] for end in ("low", "high")]


def test_measure__a_calibration_that_says_nothing_has_the_errors_of_chance(tmp_path):
    raw, calibrated = measured(Calibration(0.0, 0.0), tmp_path).summary["scorings"].values()
    assert raw["eer"]["value"] < 20
    assert [calibrated["eer"][name] for name in ("value", "low", "high")] == [50, 50, 50]
    assert calibrated["min_cllr"]["value"] == pytest.approx(1)
    for table in (raw, calibrated):
        for metric in table.values():
            assert metric["low"] <= metric["value"] <= metric["high"]


def test_scores__ratios_of_plda_come_before_cosines():
    trials, rows = some_trials(), embeddings_of(1)
    plda = fit_plda(embeddings_of(2), np.repeat(np.arange(SPEAKERS), RECORDINGS), 8)
    scoring = Scoring(norm=None, cohort_size=1, top=1, is_centred=False, replicates=0, is_plda=True)
    found = scoring.scores(rows, trials, None, plda)
    assert list(found) == ["plda", "cosine"]
    assert np.array_equal(found["plda"], plda.scores(rows, trials.enrol, trials.test))


@pytest.mark.parametrize(
    ("needs_labels", "sentence"),
    [(True, "itself was trained with them (simclr)"), (False, "by simclr, used none")],
)
def test_notes__say_whether_the_training_used_the_labels_that_plda_did(needs_labels, sentence):
    config = SimpleNamespace(
        model=SimpleNamespace(name="simclr"), evaluation=SimpleNamespace(validation=None)
    )
    model = SimpleNamespace(needs_labels=needs_labels)
    encoder = SimpleNamespace(config=config, notes=(), model=model)
    scoring = Scoring(norm=None, cohort_size=1, top=1, is_centred=False, replicates=0, is_plda=True)
    (note,) = notes(encoder, scoring, [], None)
    assert note.startswith("Labels were used: PLDA") and sentence in note
