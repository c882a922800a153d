from types import SimpleNamespace

import numpy as np
import pytest

from sslsv.config import Config
from sslsv.data.lists import Trials
from sslsv.evaluation.calibration import Calibration, fit_calibration
from sslsv.evaluation.metrics import ErrorCurve, bayes_threshold
from sslsv.evaluation.plda import fit_plda
from sslsv.evaluation.scorer import Scorer, Scoring, evaluate, measure, notes
from sslsv.evaluation.scoring import cosine_scores, normalise_scores
from sslsv.evaluation.trials import TrialList, TrialSet
from sslsv.settings import build

SPEAKERS = np.repeat(np.arange(30), 6)
ENROL, TEST = np.triu_indices(len(SPEAKERS), k=1)
TRIALS = Trials(
    paths=[f"{i}.wav" for i in range(len(SPEAKERS))],
    enrol=ENROL,
    test=TEST,
    targets=SPEAKERS[ENROL] == SPEAKERS[TEST],
)


def embeddings_of(seed):
    """Return embeddings (180, 32) of length about 98."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, 32))[SPEAKERS] + 0.8 * rng.normal(size=(180, 32))
    return (98 / np.sqrt(32 * 1.64) * rows).astype(np.float32)


@pytest.mark.parametrize("norm", [None, "as"])
def test_scores__centring_takes_a_constant_offset_away(norm):
    scoring, found = Scoring(norm=norm, top=20, is_centred=True), []
    for length in (0, 1000):  # 1000 is ten times the length of the embeddings
        rows, cohort = (embeddings_of(seed) + np.float32(length / np.sqrt(32)) for seed in (1, 2))
        found.append(next(iter(Scorer(scoring, cohort).scores(rows, ENROL, TEST).values())))
    assert np.corrcoef(found)[0, 1] > 0.97  # the offset changes lengths, so the correlation is not exactly 1
    assert found[1].std() == pytest.approx(found[0].std(), rel=0.05)


def test_scores__without_centring_take_embeddings_and_cohort_as_they_are():
    rows, cohort = embeddings_of(1), embeddings_of(2)
    found = Scorer(Scoring(norm="as", top=20), cohort).scores(rows, ENROL, TEST)
    plain = cosine_scores(rows, ENROL, TEST)
    assert list(found) == ["cosine_as_norm", "cosine"]
    assert np.array_equal(
        found["cosine_as_norm"], normalise_scores("as", plain, rows, ENROL, TEST, cohort, 20)
    )
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
    plda = fit_plda(embeddings_of(2), SPEAKERS, 8)
    assert Scorer(Scoring(top=20, **changes), embeddings_of(2), plda).in_words(name) == title


def measure_with(calibration, tmp_path):
    (tmp_path / "mine").write_text("the list")
    item = TrialList("mine", str(tmp_path / "mine"), "", TRIALS, {})
    return measure(item, Scorer(Scoring(replicates=20)), {"cosine": calibration}, embeddings_of(1))


def test_measure__thresholds_of_calibrated_scores_are_ratios(tmp_path):
    scores = cosine_scores(embeddings_of(1), ENROL, TEST)
    found = measure_with(fit_calibration(scores, TRIALS.targets), tmp_path)
    raw, calibrated = found.summary["scorings"].values()
    curve = ErrorCurve.of(found.scores["cosine_calibrated"], TRIALS.targets)
    assert calibrated["eer"]["threshold"] == curve.eer_threshold()
    key = "min_dcf(p_target=0.01,c_miss=1,c_fa=1)"
    assert calibrated[key]["threshold"] == curve.min_dcf_threshold(0.01)
    # With calibration on these trials, the best threshold is near the theoretical one.
    assert calibrated[key]["threshold"] == pytest.approx(bayes_threshold(0.01), abs=1.5)
    assert [raw["eer"][name] for name in ("value", "low", "high")] == [
        calibrated["eer"][name] for name in ("value", "low", "high")
    ]


def test_measure__a_calibration_that_says_nothing_is_not_measured(tmp_path):
    found = measure_with(Calibration(0.0, 0.0), tmp_path)
    assert list(found.scores) == list(found.summary["titles"]) == ["cosine"]
    (raw,) = found.summary["scorings"].values()
    assert raw["eer"]["value"] < 20
    for metric in raw.values():
        assert metric["low"] <= metric["value"] <= metric["high"]


def test_evaluate__unreadable_validation_recordings_are_refused_or_left_out_and_counted(tmp_path):
    (tmp_path / "mine").write_text("the list")
    item, validation = TrialList("mine", str(tmp_path / "mine"), "", TRIALS, {}), TrialSet("v", TRIALS, None)
    rows, bad = embeddings_of(1), {0: "0.wav is damaged."}
    rows[0] = 0
    store = SimpleNamespace(get=lambda _, root: (rows, bad) if root == "train" else (embeddings_of(1), {}))
    encoder = SimpleNamespace(config=build(Config, {"data": {"root": "train"}}))
    arguments = encoder, store, Scorer(Scoring(norm="s", replicates=0), embeddings_of(2)), [item], validation
    with pytest.raises(ValueError, match=r"1 recordings of .* 0\.wav is damaged\. .*--allow-missing"):
        evaluate(*arguments, is_lenient=False)
    (found,), calibrations = evaluate(*arguments, is_lenient=True)
    is_kept = ENROL != 0  # the lower index of a pair comes first
    scores = cosine_scores(rows, ENROL, TEST)[is_kept]
    expected = fit_calibration(scores, TRIALS.targets[is_kept])
    assert calibrations["cosine"].scale == pytest.approx(expected.scale, rel=1e-5)
    counts = found.summary["counts"]
    assert (counts["unreadable_validation_recordings"], counts["skipped_validation_trials"]) == (1, 179)


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ({"supervised": True}, "by supervised, used them too."),
        ({"simclr": False, "vicreg": False}, "by simclr and vicreg, used none. The results are not self-"),
        ({"simclr": False, "supervised": True}, "by supervised, used them too."),
    ],
)
def test_notes__say_which_training_used_the_labels_that_plda_did(methods, sentence):
    parts = [
        SimpleNamespace(
            config=build(Config, {"model": {"name": name}}),
            model=SimpleNamespace(needs_labels=needs_labels),
        )
        for name, needs_labels in methods.items()
    ]
    encoder = SimpleNamespace(notes=(), parts=parts)
    (note,) = notes(encoder, Scoring(is_plda=True), [], None)
    assert note.startswith("Labels were used: PLDA") and sentence in note
