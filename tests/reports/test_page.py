import pytest

from sslsv.reports.page import Link, Section, breakable, duration, metric_text, metric_title, render, shown


def test_render__leaves_out_sections_of_nothing_and_escapes_the_rest():
    parts = {"tables": {"t<i>": []}}
    row = {"<b>": "<i>", "c": 1234567}
    sections = [
        Section("empty", **parts),
        Section("full", tables={"": [row, {"d": 0.5}]}, figures=[("a", "<svg/>")]),
    ]
    parts = {"notes": ["café <u>"], "facts": [("n", "v", "r")], "head": {"k": "v", "l": "x" * 40}}
    links = [Link.to("/r/run/a/b<.html", "/r/run", "<page>")]
    text = render("run \udcff<", sections, links=links, **parts).decode()
    assert "empty" not in text and "<h2>full</h2>" in text and "<svg/>" in text
    assert "<title>run ?&lt;</title>" in text and "café &lt;u&gt;" in text
    assert "<th>&lt;b&gt;</th><th>c</th><th>d</th>" in text
    assert '<a href="a/b%3C.html">&lt;page&gt;</a>' in text and text.count("<td>k</td><td>v</td>") == 1
    assert '<td class="long">' + "x" * 40 + "</td>" in text
    assert "<td>&lt;i&gt;</td><td>1,234,567</td><td>–</td>" in text and "<td>0.5</td>" in text
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("page", "folder", "href"),
    [
        ("/r/a/evaluation/report.html", "/r/a", "evaluation/report.html"),
        ("/r/a/report.html", "/r/a/evaluation", "../report.html"),
        ("s3://b/t/report.html", "s3://b/t/trials/0003", "../../report.html"),
        ("trials/0003/report.html", ".", "trials/0003/report.html"),
        ("javascript:x", ".", "javascript%3Ax"),
    ],
)
def test_link_to__leads_from_page_to_page_wherever_both_are_copied_to(page, folder, href):
    assert Link.to(page, folder, "").href == href


def test_breakable__long_names_may_be_broken_at_their_parts_and_nowhere_else():
    assert breakable("data.noise_p <i> a/3") == "data.<wbr>noise_<wbr>p &lt;i&gt; a/<wbr>3"
    assert breakable("0.35 M. All") == "0.35 M. All"


def test_shown__is_what_a_reader_wants():
    values = [1234567, 0.123456, {"a": 1, "b": 0.5}, ["x", 2], True, None]
    assert [*map(shown, values)] == ["1,234,567", "0.1235", "a 1, b 0.5", "x, 2", "True", "None"]
    assert [*map(duration, (0.4, 5400, 180_000))] == ["0:00:00", "1:30:00", "2 days, 2:00:00"]


@pytest.mark.parametrize(
    ("key", "title", "text"),
    [
        ("eer", "EER", "12.35 %"),
        ("label_free/pseudo_eer", "pseudo EER", "12.35 %"),
        ("min_dcf(p_target=0.01,c_miss=1,c_fa=1)", "min DCF p_target=0.01", "12.3457"),
        ("act_dcf(p_target=0.05,c_miss=10,c_fa=1)", "act DCF p_target=0.05 c_miss=10", "12.3457"),
        ("cllr", "Cllr", "12.3457"),
        ("label_free/rankme", "RankMe", "12.35"),
        ("some_value", "some value", "12.35"),
    ],
)
def test_metrics__are_named_and_printed_as_in_papers(key, title, text):
    assert (metric_title(key), metric_text(key, 12.34567)) == (title, text)
