"""Fill the template of all reports: one HTML file that needs no other, readable on a phone and in the dark.

The template escapes every text that it is given, save the SVG of figures, and explains what the parts show.
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
    """Point to another page."""

    text: str
    href: str

    @classmethod
    def to(cls, page: str, folder: str, text: str) -> "Link":
        """Return a link from a page in a folder, by a path that holds wherever both pages are copied to."""
        return cls(text, quote(posixpath.relpath(page, folder), errors="surrogateescape"))


@dataclass(frozen=True)
class Section:
    """Hold what stands below a heading, in the order of the fields; without any of it nothing is shown.

    Tables are title (which may be empty) -> rows of column -> cell.
    """

    heading: str
    sentence: str = ""
    tables: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    pairs: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


def render(title: str, sections: Iterable[Section], **parts: Any) -> bytes:
    """Return the whole file; characters that cannot be encoded, as in some file names, become `?`.

    Parts: `links` to other pages, `sentences`, `notes` that a reader must not miss, `facts` (name, value,
    remark) and `head`, a mapping that says what the page is about.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"shown": shown, "breakable": breakable}
    environment.filters["columns"] = lambda rows: dict.fromkeys(key for row in rows for key in row)
    text = environment.get_template("page.html").render(title=title, sections=sections, **parts)
    return text.encode(errors="replace")


def breakable(name: str) -> Markup:
    """Return a name such as `data.augment.noise.probability` that a line may end in, after its parts."""
    return Markup(re.sub(r"(?<=[/_])(?=\w)|(?<=\.)(?=[a-z])", "<wbr>", str(escape(name))))


def shown(value: object) -> str:
    """Write a value for readers: 4 digits of a real number, a mapping as `name value, name value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def duration(seconds: float) -> str:
    """Write a time as `0:45:10` or `2 days, 3:00:00`."""
    return str(timedelta(seconds=round(seconds)))


def interval(key: str, metric: Mapping[str, float]) -> str:
    """Write an interval, `11.02 to 17.13`, or nothing where there is none."""
    return " to ".join(metric_text(key, metric[end], unit="") for end in ("low", "high") if end in metric)


def metric_title(key: str) -> str:
    """Write `min_dcf(p_target=0.01,c_miss=1,c_fa=1)` as `min DCF p_target=0.01`: costs of 1 are left out."""
    name, _, parameters = key.rstrip(")").partition("(")
    told = [part for part in parameters.split(",") if part and part not in ("c_miss=1", "c_fa=1")]
    return " ".join([*(WORDS.get(word, word) for word in name.rpartition("/")[2].split("_")), *told])


def metric_text(key: str, value: float, unit: str = " %") -> str:
    """Write a metric as papers print it: `13.80 %` for an equal error rate, `0.6543` for a cost."""
    if "eer" in key:
        return f"{value:.2f}{unit}"
    return f"{value:.4f}" if "dcf" in key or "cllr" in key else f"{value:.4g}"
