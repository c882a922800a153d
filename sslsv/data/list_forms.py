"""Read lists in several forms: plain lines, tables with a first line of column names, JSON lines, Kaldi.

Every form is read as rows: the line number, and the values of the requested columns. docs/data.md shows each
form. An ambiguous list is refused; a first line that names the columns, such as `path speaker`, resolves the
ambiguity.
"""

import csv
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, count, islice
from typing import Any, NamedTuple

from sslsv.data.audio_files import is_audio, unlistable_reason
from sslsv.data.kaldi import Kaldi, kaldi_folder
from sslsv.data.list_text import Root, filled_lines, list_blocks, list_location
from sslsv.data.recordings import open_recordings, segment_name
from sslsv.ops import SAMPLE_RATE
from sslsv.runs.folder import below

Values = Sequence[str] | None  # a row in the order of `Kind.columns`; (): skip the line; None: another form
LineParser = Callable[[str], Values]  # parses a line


class Kind(NamedTuple):
    """Describe the purpose of reading a list: which columns are needed, and in which orders."""

    form: str  # shown in messages between backticks
    orders: tuple[str, ...]  # accepted orders of fields in a plain line; rows have the first order
    optional: str = ""  # a column that may be missing; its value is then ""

    @property
    def columns(self) -> list[str]:
        """Return the columns of a row."""
        return self.orders[0].split()


TRAIN = Kind("speaker path", ("speaker path", "path speaker"))
RECORDINGS = Kind("speaker path` or `path", TRAIN.orders, "speaker")
_TRIAL_ORDERS = ("target enrolment test", "enrolment test target", "enrolment test score target")
TRIALS = Kind("1|0 enrolment test", _TRIAL_ORDERS)
_LABEL_ORDERS = ("label path speaker", "path label speaker", "path speaker label")
LABELS = Kind("label path` or `label path speaker", _LABEL_ORDERS, "speaker")

IS_TARGET = {"1": True, "target": True, "true": True, "0": False, "nontarget": False, "false": False}

# Names of columns in the tables of other tools, in lower case, without blanks and punctuation.
_ALIASES = {
    "path": "path file wav audio filename filepath wavpath audiopath audiofile audiofilepath recording",
    "speaker": "speaker speakerid spk spkid clientid",
    "label": "label class",
    "target": "target label istarget key",
    "enrolment": "enrolment enrol enrollment enroll enrolmentpath enrollpath file1 path1 wav1 audio1 utt1",
    "test": "test testpath file2 path2 wav2 audio2 utt2",
    "start": "start begin offset",
    "stop": "stop end",
    "duration": "duration dur",
    "set": "set split subset",
}
_ADVICE = "name the columns in a first line, such as `path`, `speaker path` or `speaker,path`."
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf", re.IGNORECASE)
_NUM_PROBED = 100  # lines that decide the form if the first line leaves it open


class Rows:
    """Iterate once over the rows of a list: (line number, *values in the order of `kind.columns`).

    `form` names the form of the list, "" for plain lines. Raises ValueError for lines of another form, an
    ambiguous list or an empty list, FileNotFoundError for a missing list.
    """

    def __init__(self, root: Root, name: str, kind: Kind) -> None:
        self.root, self.name, self.kind, self.form = root, name, kind, ""
        self.num_left_out = 0  # number of rows left out so far
        self._paths = [i for i, column in enumerate(kind.columns) if column in ("path", "enrolment", "test")]
        self._name_of: Callable[[str], str] = str  # in a Kaldi folder: utterance -> recording
        self._can_split_blocks = False  # whether all lines of a block may be split at once
        location = list_location(root, name)
        folder = kaldi_folder(location)
        if folder and kind in (TRAIN, RECORDINGS):
            self.form, self._rows = "a Kaldi folder", self._kaldi_rows(Kaldi(folder))
            return
        location = below(location, "trials") if folder == location and kind is TRIALS else location
        blocks = list_blocks(root, location)
        block = next(blocks)
        lines = list(islice(filled_lines(*block), _NUM_PROBED))
        parse_line, has_names = self._detect_form([line for _, line in lines], lines[0][0])
        if kind is TRIALS and (folder := kaldi_folder(posixpath.dirname(location))):
            self._name_of, self._can_split_blocks = Kaldi(folder).name_of, False
        self._rows = self._file_rows(chain([block], blocks), parse_line, lines[0][0] if has_names else 0)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows

    def note(self, counts: str) -> tuple[str, ...]:
        """Return a message that names the form the list was read in; empty for plain lines."""
        left_out = f"; {self.num_left_out:,} rows are left out" if self.num_left_out else ""
        return (f"{self.name} is read as {self.form}: {counts}{left_out}",) if self.form else ()

    def _error(self, number: int, problem: str) -> ValueError:
        return ValueError(f"{self.name}, line {number}: {problem}")

    def _file_rows(
        self, blocks: Iterator[tuple[int, str]], parse_line: LineParser, names_line: int
    ) -> Iterator[tuple[Any, ...]]:
        for first, text in blocks:
            if columns := self._columns(text):
                yield from zip(count(first), *columns, strict=False)
                continue
            for number, line in filled_lines(first, text):
                if number == names_line:
                    continue
                try:
                    values = parse_line(line)
                except ValueError as error:
                    raise self._error(number, str(error)) from error
                if values is None:
                    message = f"expected `{self.kind.form}`, got {line.strip()[:120]!r}. Paths with blanks "
                    message += "need tabs between the fields; line 1 may name columns: "
                    raise self._error(number, f"{message}{', '.join(self.kind.columns)}.")
                yield from self._checked(number, values)

    def _columns(self, text: str) -> list[list[str]] | None:
        """Split a block of plain lines into columns at once, which is fast; None if a line may be unusual."""
        if not (self._can_split_blocks and text.isascii() and ".." not in text and " ./" not in text):
            return None
        fields, width = text.split(), len(self.kind.columns)
        columns = [fields[i::width] for i in range(width)]
        first = set(columns[0])
        # A dot in the first column may belong to a path.
        is_usual = first <= IS_TARGET.keys() if self.kind is TRIALS else "." not in "".join(first)
        # The rejoined columns equal the text only if every line has exactly these fields.
        lines = map(" ".join, zip(*columns, strict=False))
        return columns if is_usual and "\n".join(lines) == text.removesuffix("\n") else None

    def _checked(self, number: int, values: Sequence[str]) -> list[tuple[Any, ...]]:
        """Check the paths of a row; return [row], or [] if the row is left out."""
        if not values:
            self.num_left_out += 1
            return []
        row = list(values)
        for i in self._paths:
            row[i] = self._name_of(row[i]).removeprefix("./")  # `find .` writes this prefix
            if reason := unlistable_reason(row[i]):
                message = f"the path {row[i][:120]!r} {reason}; expected `{self.kind.form}`."
                raise self._error(number, message)
        return [(number, *row)]

    def _kaldi_rows(self, kaldi: "Kaldi") -> Iterator[tuple[Any, ...]]:
        if self.kind is TRAIN and not kaldi.speaker_of:
            raise ValueError(f"{self.name} has no utt2spk, so the speakers are unknown: add it.")
        if unknown := [utterance for utterance in kaldi.speaker_of if utterance not in kaldi.utterances]:
            raise ValueError(
                f"{self.name}: {len(unknown)} utterances have a speaker, but are neither in segments nor in "
                f"wav.scp, the first: {unknown[0]}; Kaldi's utils/fix_data_dir.sh makes its files agree."
            )
        self._name_of = kaldi.name_of
        for number, utterance in enumerate(kaldi.utterances, start=1):
            speaker = kaldi.speaker_of.get(utterance, "")
            is_kept = speaker or self.kind is RECORDINGS
            yield from self._checked(number, (speaker, utterance) if is_kept else ())

    def _detect_form(self, lines: list[str], number: int) -> tuple[LineParser, bool]:
        """Detect the form of a list; return its line parser, and whether the first line names the columns."""
        try:
            if lines[0].lstrip().startswith("{"):
                keys = list(json.loads(lines[0]))
                return self._table("JSON lines", keys, lambda line: _of_json(line, keys)), False
            for separator in [*filter(lines[0].__contains__, ",\t;"), None]:
                split = partial(_split, separator=separator)
                names = split(lines[0].lstrip("# "))
                roles = {role for name in names for role in _roles(name)}
                has_names = roles >= ({"enrolment", "test"} if self.kind is TRIALS else {"path"})
                if has_names and (separator or lines[0].startswith("#") or all(map(_roles, names))):
                    split = split if names[1:] else partial(_split, separator="\n")  # blanks belong to paths
                    return self._table("a table", names, split), True
            return self._plain(lines), False
        except ValueError as error:
            raise self._error(number, str(error)) from error

    def _table(self, form: str, names: list[str], split: Callable[[str], list[str]]) -> LineParser:
        """Return a parser of a table's lines, given the names of its columns."""
        columns_of = {role: [i for i, name in enumerate(names) if role in _roles(name)] for role in _ALIASES}
        if self.kind is TRAIN and not columns_of["speaker"]:
            columns_of["speaker"] = columns_of["label"]
        times = () if self.kind is TRIALS else ("start", "stop", "duration")
        roles = (*self.kind.columns, *times, *(["set"] if self.kind is TRAIN else []))
        index_of = {role: columns_of[role][0] for role in roles if columns_of[role]}
        if ambiguous := [role for role in index_of if len(columns_of[role]) > 1]:
            both = " and ".join(repr(names[i]) for i in columns_of[ambiguous[0]])
            raise ValueError(f"the columns {both} can both be the {ambiguous[0]}: rename one of them.")
        if missing := [role for role in self.kind.columns if role not in (*index_of, self.kind.optional)]:
            listed = ", ".join(map(repr, names))
            raise ValueError(f"no column of {listed} is known as {missing[0]}: rename one to {missing[0]}.")
        self.form = f"{form} ({', '.join(f'{role}: {names[index_of[role]]}' for role in index_of)})"

        def parse(line: str) -> Values:
            fields = split(line)
            if len(fields) != len(names):
                return None
            row = {role: fields[i] for role, i in index_of.items()}
            if row.get("set", "train").lower() not in ("train", "training"):
                return ()
            if row.get("start"):
                row["path"] = segment_name(row["path"], *_seconds(*(row.get(each, "") for each in times)))
            return self._row_values(row)

        return parse

    def _plain(self, lines: list[str]) -> LineParser:
        """Return a parser of plain lines, with the order of fields that fits the first lines."""
        default, is_trial = self.kind.orders[0], self.kind is TRIALS
        are_paths = self.kind is RECORDINGS and self._are_paths(list(map(str.strip, lines)))
        parsers: dict[str, LineParser] = {default: lambda line: ("", line.strip())}  # the line is a path
        parsers |= {order: self._in_order(order, lines[0]) for order in self.kind.orders if not are_paths}
        rows = {order: parse(lines[0]) for order, parse in parsers.items()}
        fitting = [order for order, row in rows.items() if row and (is_trial or is_audio(row[1]))]
        fitting = [default] if rows[default] or not fitting else fitting
        for line in lines:
            fitting = [order for order in fitting if parsers[order](line)] or fitting
        if len(fitting) > 1:
            raise ValueError(f"is it `{'` or `'.join(fitting)}`? Name the columns in a first line.")
        if fitting != [default]:
            self.form = f"`{fitting[0]}` lines"
        self._can_split_blocks = not (self.form or are_paths or self.kind is LABELS or "," in lines[0])
        first, second = map(parsers[fitting[0]], (lines[0], lines[:2][-1]))
        if not is_trial and first and second and is_audio(second[1]) and not is_audio(first[1]):
            problem = f"{lines[0].strip()[:120]!r} is neither a recording nor known names of columns"
            raise ValueError(f"{problem}: call the columns {' and '.join(self.kind.columns)}.")
        return parsers[fitting[0]]

    def _are_paths(self, lines: list[str]) -> bool:
        """Return whether entire lines are paths: some line can't be split, or is the path of a recording."""
        if any(re.fullmatch(r"[^\s,]+", line) for line in lines):
            return True
        exists = open_recordings(self.root).has
        existing = [line for line in lines if exists(line)]
        if ambiguous := [line for line in existing if exists(re.split(r"[\s,]+", line, maxsplit=1)[-1])]:
            raise ValueError(f"{ambiguous[0]!r} and the part after its first blank both exist: {_ADVICE}")
        return bool(existing)

    def _in_order(self, order: str, first_line: str) -> LineParser:
        """Return a parser of plain lines whose fields have this order."""
        roles, is_trial = order.split(), self.kind is TRIALS
        num_blanks = 1 if order == TRAIN.orders[0] else -1  # the path is the rest of the line
        split = _splitter(first_line, num_tabs=2 if is_trial else 1, num_blanks=num_blanks)

        def parse(line: str) -> Values:
            fields = split(line)
            row = dict(zip(roles, fields, strict=False))
            if is_trial:
                scores = [row.get("score", "0"), *fields[len(roles) :]]  # any further fields must be numbers
                return self._row_values(row) if all(map(_NUMBER.fullmatch, scores)) else None
            label, path = row.get(self.kind.columns[0], ""), row.get("path", "")
            # The name of a speaker may be a path. A decimal number after a path is a length, not a speaker.
            is_length = order == TRAIN.orders[1] and re.fullmatch(r"\d*\.\d+", label)
            is_misread = len(fields) > len(roles) or is_length or (is_audio(label) and not is_audio(path))
            return None if is_misread else self._row_values(row)

        return parse

    def _row_values(self, row: dict[str, str]) -> Values:
        """Return the values of a row, or None if one is missing or `target` is unknown."""
        if "target" in row:
            row["target"] = row["target"].lower()
        is_complete = all(row.get(each) or each == self.kind.optional for each in self.kind.columns)
        is_complete = is_complete and row.get("target", "1") in IS_TARGET
        return [row.get(each, "") for each in self.kind.columns] if is_complete else None


def is_trial_list(root: Root, name: str) -> bool:
    """Return whether a list holds trials, judging by its first lines; raises FileNotFoundError."""
    if kaldi_folder(list_location(root, name)):
        return False
    try:
        rows = Rows(root, name, TRIALS)
        _, _, *pair = next(iter(rows))
    except ValueError:
        return False
    return rows.form.startswith(("a table", "JSON")) or all(map(is_audio, pair))


def _roles(column: str) -> list[str]:
    plain = re.sub(r"[\W_]", "", column).lower()
    return [role for role, names in _ALIASES.items() if plain in names.split()]


def _split(line: str, separator: str | None) -> list[str]:
    if separator in (",", ";"):
        return [field.strip() for field in next(csv.reader([line], delimiter=separator))]
    return [field.strip() for field in line.split(separator)]


def _splitter(first: str, num_tabs: int, num_blanks: int) -> Callable[[str], list[str]]:
    # Commas separate the fields if every blank in the first line follows a comma. Otherwise tabs do in a line
    # that has at least `num_tabs`, and blanks in any other line.
    if "," in first and len(first.replace(", ", ",").split()) == 1:
        return partial(_split, separator=",")
    if num_tabs == 1 and "," in first.split()[0] and "\t" not in first and len(_split(first, ",")) == 2:
        raise ValueError(f"{first.strip()!r} can be split at its comma and its blank: {_ADVICE}")
    return lambda line: (
        _split(line, "\t") if line.count("\t") >= num_tabs else line.strip().split(maxsplit=num_blanks)
    )


def _of_json(line: str, keys: list[str]) -> list[str]:
    if not isinstance(values := json.loads(line), dict):
        raise ValueError(f"{line.strip()[:120]!r} is not a JSON object in braces like the first line")
    if extra := [key for key in values.keys() - set(keys) if _roles(key)]:
        raise ValueError(f"{extra[0]!r} is not in the first line: give it there too, as null if it has none")
    return ["" if values.get(key) is None else str(values[key]) for key in keys]


def _seconds(start: str, stop: str, duration: str) -> tuple[float, float]:
    # Some tools write times in seconds, others in samples. The duration, always in seconds, decides.
    # Without a stop it can't, and the start is taken for seconds.
    begin, length = float(start), float(duration or "nan")
    end = float(stop) if stop else begin + length
    for unit in (1, SAMPLE_RATE):
        if abs((end - begin) / unit - length) < 0.02 * length + 0.01:
            return begin / unit, end / unit
    # SpeechBrain's chunks are in samples, and their duration is that of the entire file.
    if (start + stop).isdigit() and end / SAMPLE_RATE <= length + 0.02 < end:
        return begin / SAMPLE_RATE, end / SAMPLE_RATE
    if not duration and "." in start + stop:
        return begin, end
    advice = "add a column duration, in seconds, that agrees with them"
    raise ValueError(f"start {start} and stop {stop} may be seconds or samples: {advice}, or leave them out.")
