"""Label lists: recordings, what is to be told from them, and who speaks.

A line is `label path` or `label path speaker`, with blanks between the fields; where a label or a path holds
blanks, tabs. Tables whose first line names these columns are read too. The speaker is a column and not read
from the folders: in a corpus of languages or emotions the folder often is the label, and such folds would
part the classes instead of the voices.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
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
    num_left_out: int = 0  # recordings that do not exist or can't be read
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

    def without(self, bad: Collection[int]) -> "LabelList":
        """Leave out the recordings `bad`, and count them."""
        kept = [row for i, row in enumerate(self.rows) if i not in bad]
        return replace(self, rows=kept, num_left_out=self.num_left_out + len(bad))

    def refusal(self, bad: Collection[int], problem: str) -> ValueError:
        """Return an error that names some of the recordings `bad`, and says what to do."""
        return ValueError(
            f"{len(bad)} of {len(self.rows)} recordings of {self.file} {problem}: {self.named(bad)}; "
            "correct the list (paths with blanks need tabs between the fields), give the right --root, "
            "or leave them out with --allow-missing"
        )

    def named(self, rows: Collection[int]) -> str:
        """Name the first of some recordings, each with the line where it stands."""
        named = [f"{self.rows[i].path} (line {self.rows[i].line})" for i in sorted(rows)[:MAX_NAMED]]
        return ", ".join([*named, *["..."] * (len(rows) > MAX_NAMED)])

    def counts(self) -> dict[str, int]:
        """Count recordings, labels and, where they are told, speakers."""
        counts = {"recordings": len(self.rows), "labels": len(set(self.labels))}
        counts |= {"speakers": len(set(self.speakers))} if self.speakers else {}
        return counts | ({"left_out_recordings": self.num_left_out} if self.num_left_out else {})


def read_label_list(root: str, name: str, *, is_lenient: bool) -> LabelList:
    """Read a list given by its name below `root`, or by a path, with every recording looked for.

    Recordings that do not exist are left out if `is_lenient`. Raises ValueError for them otherwise, for a
    malformed line and a path listed twice, FileNotFoundError for a missing list.
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
    found = LabelList(
        file=file,
        root=root,
        rows=[row._replace(path=spelt(row.path)) for row in rows.values()],
        notes=listed.note(f"{len(rows):,} recordings"),
    )
    recordings = open_recordings(root)
    missing = [i for i, path in enumerate(found.paths) if not recordings.has(path)]
    if missing and not is_lenient:
        raise found.refusal(missing, "do not exist")
    return found.without(missing)


def check_lists(train: LabelList, test: LabelList) -> None:
    """Raise ValueError where nothing can be learnt from `train`, or `test` can't tell whether it was."""
    if not test.paths:
        raise ValueError(f"no recording of {test.file} is left; is --root the folder its paths are below?")
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
