"""Label lists: recordings, what is to be told from them, and who speaks.

A line is `label path` or `label path speaker`, with blanks between the fields; where a label or a path holds
blanks, tabs. Tables whose first line names these columns are read too. The speaker is a column and not read
from the folders: in a corpus of languages or emotions the folder often is the label, and such folds would
part the classes instead of the voices.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from sslsv.data.list_forms import LABELS, Rows
from sslsv.data.lists import spelling
from sslsv.data.recordings import open_recordings
from sslsv.evaluation.trials import MAX_NAMED, find_list


class Row(NamedTuple):
    """Hold a line of a list; `speaker` is empty where it is not told."""

    line: int  # from 1
    label: str
    path: str
    speaker: str


@dataclass(frozen=True, kw_only=True)
class LabelList:
    """Hold labelled recordings."""

    file: str  # path or URI
    root: str  # folder that the recordings are below
    rows: list[Row]
    notes: tuple[str, ...] = ()  # as what the list was read

    @property
    def labels(self) -> list[str]:
        """Return the label of each recording."""
        return [row.label for row in self.rows]

    @property
    def paths(self) -> list[str]:
        """Return the path of each recording."""
        return [row.path for row in self.rows]

    @property
    def speakers(self) -> list[str]:
        """Return the speaker of each recording; empty if the list does not tell them."""
        return [row.speaker for row in self.rows if row.speaker]

    def named(self, rows: Collection[int]) -> str:
        """Name the first of some recordings, each with the line where it stands."""
        named = [f"{self.rows[i].path} (line {self.rows[i].line})" for i in sorted(rows)[:MAX_NAMED]]
        return ", ".join([*named, *["..."] * (len(rows) > MAX_NAMED)])

    def counts(self) -> dict[str, int]:
        """Count recordings, labels and, where they are told, speakers."""
        counts = {"recordings": len(self.rows), "labels": len(set(self.labels))}
        return counts | ({"speakers": len(set(self.speakers))} if self.speakers else {})


def read_label_list(root: str, name: str) -> LabelList:
    """Read a list given by its name below `root`, or by a path.

    Raises ValueError for a malformed line and a path listed twice, FileNotFoundError for a missing list and
    where none of its recordings exists.
    """
    file = find_list(root, name)
    rows: dict[str, Row] = {}  # by path
    listed = Rows(root, file, LABELS)
    for row in itertools.starmap(Row, listed):
        if row.path in rows:
            raise ValueError(
                f"{file}, line {row.line}: {row.path} is listed twice, first in line {rows[row.path].line}; "
                "remove one of the lines."
            )
        rows[row.path] = row
        if bool(row.speaker) != bool(next(iter(rows.values())).speaker):
            raise ValueError(
                f"{file}, line {row.line}: this line {'names' if row.speaker else 'lacks'} a speaker, unlike "
                "those above it; name the speaker in every line, or in none."
            )
    spelt = spelling(root, file, list(rows))
    return LabelList(
        file=file,
        root=root,
        rows=[row._replace(path=spelt(row.path)) for row in rows.values()],
        notes=listed.note(f"{len(rows):,} recordings"),
    )


def check_lists(train: LabelList, test: LabelList) -> None:
    """Raise ValueError where nothing can be learnt from `train`, or `test` can't tell whether it was."""
    units: dict[str, set[str]] = defaultdict(set)  # label: its speakers, or else its recordings
    for label, unit in zip(train.labels, train.speakers or train.paths, strict=True):
        units[label].add(unit)
    if len(units) < 2:
        raise ValueError(
            f"{train.file} has {len(units)} label(s) ({', '.join(units)}), and a classifier needs two: add "
            "recordings of another one"
        )
    if few := sorted(label for label, found in units.items() if len(found) < 2):
        unit = "speaker" if train.speakers else "recording"
        raise ValueError(
            f"{len(few)} of the {len(units)} labels of {train.file} have a single {unit}: "
            f"{', '.join(few[:MAX_NAMED])}; some are held out to choose the regularisation, so give every "
            f"label two {unit}s or more (or name no speakers if they are the labels)"
        )
    if unknown := [i for i, label in enumerate(test.labels) if label not in units]:
        names = sorted({test.labels[i] for i in unknown})
        raise ValueError(
            f"{len(unknown)} recordings of {test.file} have labels that {train.file} has not: "
            f"{', '.join(names[:MAX_NAMED])}; first: {test.named(unknown[:1])}; correct the labels (case "
            "counts), or leave these recordings out"
        )
    locate = open_recordings(train.root).location
    known = set(map(locate, train.paths))
    if shared := [i for i, path in enumerate(test.paths) if locate(path) in known]:
        raise ValueError(
            f"{len(shared)} recordings of {test.file} are in {train.file} too: {test.named(shared)}; "
            "what was learnt from can't test, so remove them from one of the lists"
        )
