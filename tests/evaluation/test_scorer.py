import numpy as np
import pytest

from sslsv.data.lists import Trials
from sslsv.evaluation.calibration import Calibration, fit_calibration
from sslsv.evaluation.embedding import Crops
from sslsv.evaluation.metrics import ErrorCurve, bayes_threshold
from sslsv.evaluation.scorer import Scoring, evaluate_list
from sslsv.evaluation.scoring import cosine_scores, normalise_scores, unit_rows
from sslsv.evaluation.trials import TrialList

SPEAKERS, RECORDINGS = 30, 6


def some_trials():
    """All pairs of 30 speakers' 6 recordings."""
    speakers = np.repeat(np.arange(SPEAKERS), RECORDINGS)
    enrol, test = np.triu_indices(len(speakers), k=1)
    paths = [f"{i}.wav" for i in range(len(speakers))]
    return Trials(paths=paths, enrol=enrol, test=test, targets=speakers[enrol] == speakers[test])


def embeddings_of(seed, scale=98.0):
    """Embeddings (180, 32) of raw length about `scale`, and the speaker of each."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(SPEAKERS), RECORDINGS)
    rows = rng.normal(size=(SPEAKERS, 32))[speakers] + 0.8 * rng.normal(size=(len(speakers), 32))
    return (scale / np.sqrt(32 * 1.64) * rows).astype(np.float32), speakers


def moved(rows, length):
    """The rows plus one constant vector of a length."""
    return rows + np.float32(length / np.sqrt(rows.shape[1]))


@pytest.mark.parametrize("cohort", ["utterances", "speakers"])
@pytest.mark.parametrize(
    ("norm", "is_mean_of_crops"), [(None, False), ("as", False), (None, True)], ids=["plain", "as", "crops"]
)
def test_scores__centring_takes_a_constant_offset_away(cohort, norm, is_mean_of_crops):
    options = Scoring(
        norm=norm,
        cohort=cohort,
        cohort_size=180 if cohort == "utterances" else SPEAKERS,
        top=20,
        is_centred=True,
        crops=Crops() if is_mean_of_crops else None,
    )
    found = []
    for length in (0, 1000):  # ten times the embeddings' own
        (rows, speakers), (training, _) = embeddings_of(1), embeddings_of(2)
        rows, training = moved(rows, length), moved(training, length)
        if is_mean_of_crops:
            rows, training = 0.9 * unit_rows(rows), 0.9 * unit_rows(training)
        cohort_rows = options.cohort_of(training, speakers)
        found.append(next(iter(options.scores(rows, some_trials(), cohort_rows).values())))
    assert np.corrcoef(found)[0, 1] > 0.97  # lengths differ where there is an offset, so it is not quite 1
    assert found[1].std() == pytest.approx(found[0].std(), rel=0.05)


def test_scores__centred_ones_of_crops_are_cosines():
    trials, (rows, _), (training, speakers) = some_trials(), embeddings_of(1), embeddings_of(2)
    options = Scoring(is_centred=True, crops=Crops(), cohort_size=180)
    lengths = np.linspace(0.5, 1, len(rows), dtype=np.float32)[:, None]  # crops that agree more or less
    cohort = options.cohort_of(unit_rows(training), speakers)
    (scores,) = options.scores(unit_rows(rows), trials, cohort).values()
    (shorter,) = options.scores(lengths * unit_rows(rows), trials, cohort).values()
    np.testing.assert_allclose(scores, shorter, atol=1e-6)
    assert np.abs(scores).max() <= 1


def test_scores__without_centring_take_embeddings_and_cohort_as_they_are():
    trials, (rows, _), (training, speakers) = some_trials(), embeddings_of(1), embeddings_of(2)
    options = Scoring(norm="as", top=20, cohort_size=180)
    found = options.scores(rows, trials, options.cohort_of(training, speakers))
    plain = cosine_scores(rows, trials.enrol, trials.test)
    normalised = normalise_scores("as", plain, rows, trials.enrol, trials.test, training, top=20)
    assert list(found) == ["cosine_as_norm(cohort=utterances,size=180,top=20)", "cosine"]
    assert np.array_equal(next(iter(found.values())), normalised)
    assert np.array_equal(found["cosine"], plain)


def evaluated(calibration, tmp_path):
    trials, (rows, _) = some_trials(), embeddings_of(1)
    scores = {"cosine": cosine_scores(rows, trials.enrol, trials.test).astype(np.float64)}
    llrs = {"cosine": calibration.apply(scores["cosine"])}
    (tmp_path / "mine").write_text("the list")
    item = TrialList("mine", str(tmp_path / "mine"), "", trials, {})
    return evaluate_list(item, scores, llrs, 20).summary["scorings"], llrs["cosine"]


def test_evaluate_list__thresholds_of_calibrated_scores_are_ratios(tmp_path):
    trials = some_trials()
    scores = cosine_scores(embeddings_of(1)[0], trials.enrol, trials.test)
    tables, llrs = evaluated(fit_calibration(scores, trials.targets), tmp_path)
    raw, calibrated = tables["cosine"], tables["cosine_calibrated"]
    curve = ErrorCurve.of(llrs, trials.targets)
    assert calibrated["eer"]["threshold"] == curve.eer_threshold()
    key = "min_dcf(p_target=0.01,c_miss=1,c_fa=1)"
    assert calibrated[key]["threshold"] == curve.min_dcf_threshold(0.01)
    # Fitted to these trials, the best threshold is near the one that theory gives.
    assert calibrated[key]["threshold"] == pytest.approx(bayes_threshold(0.01), abs=1.5)
    assert raw["eer"]["value"] == calibrated["eer"]["value"]
    assert [raw["eer"][end] for end in ("low", "high")] == [calibrated["eer"][end] for end in ("low", "high")]


def test_evaluate_list__a_calibration_that_says_nothing_has_the_errors_of_chance(tmp_path):
    tables, _ = evaluated(Calibration(0.0, 0.0), tmp_path)
    raw, calibrated = tables["cosine"], tables["cosine_calibrated"]
    assert raw["eer"]["value"] < 20
    assert [calibrated["eer"][name] for name in ("value", "low", "high")] == [50, 50, 50]
    assert calibrated["min_cllr"]["value"] == pytest.approx(1)
    for table in (raw, calibrated):
        for metric in table.values():
            assert metric["low"] <= metric["value"] <= metric["high"]
