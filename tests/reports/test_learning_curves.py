import re

from sslsv.reports.learning_curves import columns, curve_sections


def titles_of(sections):
    """Headings, each with the captions below it."""
    found = {}
    for section in sections:
        if section:
            captions = re.findall("<figcaption>(.*?)<", section)
            found[re.findall("<h2>(.*?)</h2>", section)[0]] = captions
    return found


def test_columns__leave_out_gaps_and_what_is_no_number():
    records = [
        {"step": 1, "epoch": 0.1, "loss": 2.0, "has_collapsed": True, "notice": "x", "criterion": "eer"},
        {"step": 2, "loss": None, "eer": 5, "best_value": 5.0, "seconds_left": 3.0},
    ]
    assert columns(records) == {"loss": ([1], [2.0]), "eer": ([2], [5])}


def test_curve_sections__sort_every_key_and_take_unknown_ones_for_loss_terms():
    keys = ["gradient_norm", "loss", "redundancy", "eer", "test/a/eer", "test/b/eer", "test/a/cllr"]
    keys += ["effective_rank", "label_free/lidar", "label_free/new", "data_wait_share"]
    sections = curve_sections([{"step": step, **dict.fromkeys(keys, 1.0)} for step in (1, 2)], None)
    assert titles_of(sections) == {
        "Verification": ["EER, percent", "Cllr, bits"],
        "Training": ["Loss", "Loss term: redundancy", "Gradient norm"],
        "Embeddings": ["Effective rank"],
        "Training utterances, without labels": ["LiDAR", "new"],
        "Speed": ["Share of time waiting for data"],
    }


def test_curve_sections__put_all_lists_of_a_metric_into_one_chart():
    records = [{"step": step, "eer": 9.0, "test/a/eer": 8.0, "test/b/eer": 7.0} for step in (1, 2)]
    verification = next(iter(curve_sections(records, best_step=2)))
    assert re.findall(r">(validation|a|b)</text>", verification) == ["validation", "a", "b"]
    assert "dotted: the best checkpoint" in verification


def test_curve_sections__of_no_records_are_empty():
    assert not any(curve_sections([], None))
