"""Fill the template of all reports: one HTML file that needs no other, readable on a phone and in the dark.

The template escapes every text that it is given, save the SVG of figures, and explains what the parts show.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

Record = dict[str, Any]
Figure = tuple[str, str]  # caption, SVG

WORDS = {"eer": "EER", "dcf": "DCF", "cllr": "Cllr", "f1": "F1", "rankme": "RankMe", "lidar": "LiDAR"}


@dataclass(frozen=True)
class Section:
    """Hold what stands below a heading, in the order of the fields; without any of it nothing is shown.

    Tables and details are title (which may be empty) -> rows of column -> cell.
    """

    heading: str
    sentence: str = ""
    tables: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    details: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    pairs: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


def render(title: str, sections: Iterable[Section], **parts: Iterable[Any]) -> bytes:
    """Return the whole file; characters that cannot be encoded, as in some file names, become `?`.

    Parts: `sentences`, `notes` that a reader must not miss, and `facts`: name, value, remark.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = shown
    environment.filters["columns"] = lambda rows: dict.fromkeys(key for row in rows for key in row)
    text = environment.get_template("page.html").render(title=title, sections=sections, **parts)
    return text.encode(errors="replace")


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
