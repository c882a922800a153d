"""The frame of a report: one HTML file that needs nothing else, readable on a phone and in the dark.

Whatever is put into it is escaped, unless it is `Html`, which only the functions here and the plots make.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1f2733; --muted: #647080; --paper: #fff; --panel: #f5f6f8;
  --line: #e2e5ea; --note: #fff5da; --edge: #d9a300 }
@media (prefers-color-scheme: dark) { :root { --ink: #dce1e8; --muted: #98a3b0; --paper: #14181d;
  --panel: #1d2229; --line: #303741; --note: #2e2813; --edge: #b48c16 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 78rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem }
p { margin: .4rem 0; max-width: 55rem }
.muted, small, figcaption span { color: var(--muted) }
.note { background: var(--note); border-left: 4px solid var(--edge); padding: .5rem .9rem; margin: .7rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .3rem 1.4rem .3rem 0; text-align: left; vertical-align: top }
tr + tr td, thead + tbody td { border-top: 1px solid var(--line) }
th { color: var(--muted); font-weight: 500; font-size: .87rem; vertical-align: bottom }
td:first-child { min-width: 8rem; overflow-wrap: anywhere }
thead + tbody td + td { white-space: nowrap }
td small { display: block; white-space: nowrap }
.facts { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1rem 0 }
.facts div { background: var(--panel); border-radius: .5rem; padding: .6rem 1rem; flex: 1 1 9rem }
.facts b { display: block; font-size: 1.4rem; font-weight: 600; line-height: 1.3; white-space: nowrap }
.facts span, .facts small { display: block; font-size: .85rem; color: var(--muted) }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr));
  gap: 1.5rem 2rem; margin-top: 1rem }
.plots.large { grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)) }
figure { margin: 0; min-width: 0 }
figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .2rem }
figcaption span { display: block; font-weight: 400 }
svg { display: block; width: 100%; height: auto }
svg text { font-family: inherit !important; paint-order: stroke; stroke: var(--paper); stroke-width: 2px }
details { margin: .7rem 0 }
summary { cursor: pointer; font-weight: 600 }
pre { background: var(--panel); border-radius: .5rem; padding: 1rem; overflow-x: auto; font-size: 13px }
"""

METRICS = {
    "eer": "EER",
    "eer_convex_hull": "EER, convex hull",
    "min_dcf": "minDCF",
    "act_dcf": "actDCF",
    "cllr": "Cllr, bits",
    "min_cllr": "min Cllr, bits",
    "label_free/pseudo_eer": "pseudo-trial EER",
    "label_free/rankme": "RankMe",
    "label_free/lidar": "LiDAR",
    "label_free/alpha_req": "alpha-ReQ",
}


class Html(str):
    """Markup: text that is escaped already."""


def element(name: str, *children: object, css: str = "") -> Html:
    """`<name class=css>children</name>`; children that are not Html are escaped."""
    opening = f'{name} class="{css}"' if css else name
    return Html(f"<{opening}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Html:
    """Children one after the other; those that are not Html are escaped."""
    return Html("".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children))


def page(title: str, *parts: Html) -> str:
    """The whole file, which can always be encoded: what is no Unicode in a file name becomes `?`."""
    head = joined(
        [
            Html(
                '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            ),
            element("title", title),
            element("style", Html(STYLE)),
        ]
    )
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{element("h1", title)}'
    text += "\n".join(parts) + "</body></html>\n"
    return text.encode(errors="replace").decode()


def section(heading: str, *parts: object, level: int = 2) -> Html:
    """Parts below a heading; nothing at all where every part is empty."""
    body = joined(parts)
    return joined([element(f"h{level}", heading), body]) if body else Html()


def note(sentence: str) -> Html:
    """A sentence that a reader must not miss."""
    return element("p", sentence, css="note")


def muted(*children: object) -> Html:
    """A paragraph of explanation."""
    return element("p", *children, css="muted")


def facts(values: Iterable[tuple[str, str, str]]) -> Html:
    """The few numbers that matter most: (what it is, its value, what to know of it)."""
    tiles = [
        element("div", element("span", label), element("b", value), element("small", remark))
        for label, value, remark in values
    ]
    return element("div", *tiles, css="facts") if tiles else Html()


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """Rows of cells below a header, or without one if it is empty; nothing without rows."""
    lines = [element("tr", *[element("td", shown(cell)) for cell in row]) for row in rows]
    if not lines:
        return Html()
    head = element("thead", element("tr", *[element("th", cell) for cell in header])) if header else ""
    return element("div", element("table", head, element("tbody", *lines)), css="scroll")


def pairs(values: Mapping[str, Any]) -> Html:
    """A table of names and values."""
    return table((), values.items())


def shown(value: object) -> object:
    """A value as a reader wants it: 4 digits of a real number, a dictionary as `name value, name value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(v)}" for key, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(shown(v)) for v in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value


def figure(caption: str, picture: Html, remark: str = "") -> Html:
    """A picture with what it shows above it."""
    above = element("figcaption", caption, element("span", remark) if remark else "")
    return element("figure", above, picture)


def plots(figures: Sequence[Html], *, are_large: bool = False) -> Html:
    """Figures side by side, as many as there is room for: three of the small, two of the large ones."""
    return element("div", *figures, css="plots large" if are_large else "plots") if figures else Html()


def folded(label: str, *parts: object) -> Html:
    """Parts that are shown on request."""
    body = joined(parts)
    return element("details", element("summary", label), body) if body else Html()


def duration(seconds: float) -> str:
    """A time as people say it: `45 s`, `12.5 min`, `3.2 h`, `2.1 days`."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= (2 if unit == "days" else 1) * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def metric_title(key: str) -> str:
    """`min_dcf(p_target=0.01,c_miss=1,c_fa=1)` as `minDCF p_target=0.01`: costs of 1 need no mention."""
    name, _, parameters = key.rstrip(")").partition("(")
    told = [part for part in parameters.split(",") if part and part not in ("c_miss=1", "c_fa=1")]
    return " ".join([METRICS.get(name, name.rpartition("/")[2].replace("_", " ")), *told])


def metric_text(key: str, value: float, unit: str = " %") -> str:
    """A metric as papers print it: `13.80 %` for an equal error rate, `0.6543` for a cost, else 4 digits."""
    if "eer" in key:
        return f"{value:.2f}{unit}"
    return f"{value:.4f}" if "dcf" in key or "cllr" in key else f"{value:.4g}"
