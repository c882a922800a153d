import pytest

from sslsv.reports.page import (
    Html,
    duration,
    element,
    facts,
    folded,
    joined,
    metric_text,
    metric_title,
    note,
    page,
    pairs,
    plots,
    section,
    table,
)


def test_element__escapes_text_but_not_markup():
    assert element("p", "<b> & 'x'", Html("<i>y</i>")) == "<p>&lt;b&gt; &amp; &#x27;x&#x27;<i>y</i></p>"
    assert element("p", 3, css="muted") == '<p class="muted">3</p>'


def test_html__put_together_with_text_must_be_escaped_again():
    assert joined([Html("<i>") + "<b>"]) == "&lt;i&gt;&lt;b&gt;"


@pytest.mark.parametrize(
    "nothing", [section("x", "", Html()), table(("a",), []), pairs({}), plots([]), facts([]), folded("x")]
)
def test_parts__of_nothing_are_nothing(nothing):
    assert nothing == ""


def test_table__shows_values_as_a_reader_wants_them():
    cells = [1234567, 0.123456, {"a": 1, "b": 0.5}, ["x", 2], "<", True, None]
    assert table((), [cells]).count("<td>") == 7
    for text in ("1,234,567", "0.1235", "a 1, b 0.5", "x, 2", "&lt;", "True", "None"):
        assert f"<td>{text}</td>" in table((), [cells]), text


def test_page__can_be_encoded_whatever_a_file_is_called():
    text = page("run \udcff", note("caf\u00e9 <b>"))
    assert "<title>run ?</title>" in text and "caf\u00e9 &lt;b&gt;" in text
    assert text.startswith("<!doctype html>") and text.encode().endswith(b"</html>\n")


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (59, "59 s"), (60, "1.0 min"), (5400, "1.5 h"), (90_000, "25.0 h"), (260_000, "3.0 days")],
)
def test_duration__is_in_the_unit_that_people_use(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "key, title, text",
    [
        ("eer", "EER", "12.35 %"),
        ("label_free/pseudo_eer", "pseudo-trial EER", "12.35 %"),
        ("min_dcf(p_target=0.01,c_miss=1,c_fa=1)", "minDCF p_target=0.01", "12.3457"),
        ("act_dcf(p_target=0.05,c_miss=10,c_fa=1)", "actDCF p_target=0.05 c_miss=10", "12.3457"),
        ("cllr", "Cllr, bits", "12.3457"),
        ("label_free/rankme", "RankMe", "12.35"),
        ("some_value", "some value", "12.35"),
    ],
)
def test_metrics__are_named_and_printed_as_in_papers(key, title, text):
    assert (metric_title(key), metric_text(key, 12.34567)) == (title, text)
