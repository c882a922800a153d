"""Fill the template of all reports: one self-contained HTML file, also for phones and dark mode.

The template escapes all text except the SVG of figures, and explains the metrics and figures.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

Record = dict[str, Any]
Figure = tuple[str, str]  # caption, SVG

WORDS = {"eer": "EER", "dcf": "DCF", "cllr": "Cllr", "f1": "F1", "rankme": "RankMe", "lidar": "LiDAR"}


class Link(NamedTuple):
    """Hold a link to another page."""

    text: str
    href: str

    @classmethod
    def to(cls, page: str, folder: str, text: str) -> "Link":
        """Return a relative link to `page` from a page in `folder`; moving both together keeps it valid."""
        return cls(text, quote(posixpath.relpath(page, folder), errors="surrogateescape"))


@dataclass(frozen=True)
class Section:
    """Hold a heading and its content, shown in the order of the fields; an empty section is not shown.

    `tables` maps a title (possibly empty) to rows, which map columns to cells.
    """

    heading: str
    sentence: str = ""
    tables: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    pairs: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


def render(title: str, sections: Iterable[Section], **parts: Any) -> bytes:
    """Return the HTML file; characters that cannot be encoded, as in some file names, become `?`.

    `parts` are `links` to other pages, `sentences`, `notes` (highlighted), `facts` (name, value, remark) and
    `head`, a mapping that describes the subject of the page.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"shown": shown, "breakable": breakable}
    environment.filters["columns"] = lambda rows: dict.fromkeys(key for row in rows for key in row)
    text = environment.get_template("page.html").render(title=title, sections=sections, **parts)
    return text.encode(errors="replace")


def breakable(name: str) -> Markup:
    """Allow line breaks between the parts of a name such as `data.augment.noise.probability`."""
    return Markup(re.sub(r"(?<=[/_])(?=\w)|(?<=\.)(?=[a-z])", "<wbr>", str(escape(name))))


def shown(value: object) -> str:
    """Return a value as text: 4 significant digits of a float, a mapping as `name value, name value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def duration(seconds: float) -> str:
    """Return a duration as text: `0:45:10` or `2 days, 3:00:00`."""
    return str(timedelta(seconds=round(seconds)))


def interval(key: str, metric: Mapping[str, float]) -> str:
    """Return an interval as text, `11.02 to 17.13`, or an empty string if there is none."""
    return " to ".join(metric_text(key, metric[end], unit="") for end in ("low", "high") if end in metric)


def metric_title(key: str) -> str:
    """Return `min DCF p_target=0.01` for `min_dcf(p_target=0.01,c_miss=1,c_fa=1)`, without costs of 1."""
    name, _, parameters = key.rstrip(")").partition("(")
    parts = [part for part in parameters.split(",") if part and part not in ("c_miss=1", "c_fa=1")]
    return " ".join([*(WORDS.get(word, word) for word in name.rpartition("/")[2].split("_")), *parts])


def metric_text(key: str, value: float, unit: str = " %") -> str:
    """Return a metric as papers print it: `13.80 %` for an equal error rate, `0.6543` for a cost."""
    if "eer" in key:
        return f"{value:.2f}{unit}"
    return f"{value:.4f}" if "dcf" in key or "cllr" in key else f"{value:.4g}"
