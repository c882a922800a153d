"""The forms that a list may have: plain lines, a table whose first line names its columns, JSON lines, Kaldi.

Whatever its form, a list is read as rows: the number of a line, and the values of the columns that are asked
for. docs/data.md shows each form. What could mean two things is refused; a first line that names the columns,
such as `path speaker`, decides.
"""

import codecs
import csv
import io
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

from pyarrow import fs

from sslsv.data.audio import AUDIO_SUFFIXES, SAMPLE_RATE, is_utf8
from sslsv.data.recordings import segment_name
from sslsv.runs.folder import absolute, below, is_uri, open_filesystem
from sslsv.settings import typed

Root = str | os.PathLike[str]
Values = Sequence[str] | None  # of a row, by `Kind.columns`; empty: left out; None: it has another form
ValuesOf = Callable[[str], Values]  # of a line


class Kind(NamedTuple):
    """Describe what a list is read for: its plain lines, and the columns that a row has."""

    form: str
    columns: tuple[str, ...]
    num_needed: int  # columns that every list has; the others may be ""


TRAIN = Kind("speaker path", ("speaker", "path"), 2)
TRIALS = Kind("1|0 enrolment test", ("target", "enrolment", "test"), 3)
RECORDINGS = Kind("speaker path` or `path", ("path", "speaker"), 1)
LABELS = Kind("label path` or `label path speaker", ("label", "path", "speaker"), 2)

IS_TARGET = {"1": True, "target": True, "true": True, "0": False, "nontarget": False, "false": False}

# Names that columns have in the tables of other tools, without case, blanks and signs.
_NAMES = {
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
_KALDI = ("wav.scp", "segments", "utt2spk", "spk2utt")
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NUM_LOOKED_AT = 100  # lines by which a form is told where the first leaves it open
# Where the name of an audio file ends before its line does, the line holds more than one path.
_NAME_THEN_MORE = re.compile(rf"(?:{'|'.join(map(re.escape, AUDIO_SUFFIXES))})\s", re.IGNORECASE)


class Rows:
    """Iterate over the rows of a list, (line number, *values by `kind.columns`).

    `form` says as what it is read, "" for plain lines. Raises ValueError for lines of another form, for what
    can be read in two ways and for an empty list, FileNotFoundError for a missing one.
    """

    def __init__(self, root: Root, name: str, kind: Kind) -> None:
        self.name, self.kind, self.form = name, kind, ""
        self.num_left_out = 0  # rows, once all are read
        self._rows: Iterator[tuple[int, Values]]
        place = list_location(root, name)
        folder = kaldi_folder(place)
        if folder and kind in (TRAIN, RECORDINGS):
            self.form, self._rows = "a Kaldi folder", self._kaldi_rows(_Kaldi(folder))
            return
        if folder == place and kind is TRIALS:
            place = below(place, "trials")
        lines = list_lines(root, place)
        looked_at = list(islice(lines, _NUM_LOOKED_AT))
        values_of, num_names = self._recognised([line for _, line in looked_at], looked_at[0][0])
        self._rows = self._table_rows(chain(looked_at[num_names:], lines), values_of)
        if kind is TRIALS and kaldi_folder(posixpath.dirname(place)):
            kaldi = _Kaldi(posixpath.dirname(place))
            self._rows = ((i, row and [row[0], *map(kaldi.name_of, row[1:])]) for i, row in self._rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        paths = [i for i, each in enumerate(self.kind.columns) if each in ("path", "enrolment", "test")]
        for number, values in self._rows:
            if not values:
                self.num_left_out += 1
                continue
            for i in paths:
                if values[i].startswith("./"):  # as `find .` writes them
                    values = [*values[:i], values[i][2:], *values[i + 1 :]]
                if why := why_unlistable(values[i]):
                    why = f"the path {values[i][:120]!r} {why}; expected `{self.kind.form}`."
                    raise self._error(number, why)
            yield number, *values

    def note(self, counts: str) -> tuple[str, ...]:
        """Return a sentence that says as what the list was read, or none for plain lines."""
        left_out = f"; {self.num_left_out:,} rows are left out" if self.num_left_out else ""
        return (f"{self.name} is read as {self.form}: {counts}{left_out}",) if self.form else ()

    def _error(self, number: int, what: str) -> ValueError:
        return ValueError(f"{self.name}, line {number}: {what}")

    def _table_rows(
        self, lines: Iterator[tuple[int, str]], values_of: ValuesOf
    ) -> Iterator[tuple[int, Values]]:
        for number, line in lines:
            try:
                values = values_of(line)
            except ValueError as error:
                raise self._error(number, str(error)) from error
            if values is None:
                what = (
                    f"expected `{self.kind.form}`, got {line.strip()[:120]!r}. Paths with blanks in them need"
                )
                names = ", ".join(self.kind.columns)
                raise self._error(
                    number, f"{what} tabs between the fields; line 1 may name columns: {names}."
                )
            yield number, values

    def _kaldi_rows(self, kaldi: "_Kaldi") -> Iterator[tuple[int, Values]]:
        if self.kind is TRAIN and not kaldi.speaker_of:
            raise ValueError(f"{self.name} has no utt2spk, so nothing tells who speaks: add it.")
        if unknown := [utterance for utterance in kaldi.speaker_of if utterance not in kaldi.utterances]:
            raise ValueError(
                f"{self.name}: {len(unknown)} utterances have a speaker, but are neither in segments nor in "
                f"wav.scp, the first: {unknown[0]}; Kaldi's utils/fix_data_dir.sh makes its files agree."
            )
        for number, utterance in enumerate(kaldi.utterances, start=1):
            speaker, name = kaldi.speaker_of.get(utterance, ""), kaldi.name_of(utterance)
            yield number, (name, speaker) if self.kind is RECORDINGS else (speaker, name) if speaker else ()

    def _recognised(self, lines: list[str], number: int) -> tuple[ValuesOf, int]:
        """Return how a line gives values, and how many lines at the top name the columns."""
        try:
            if lines[0].lstrip().startswith("{"):
                keys = list(json.loads(lines[0]))
                return self._table("JSON lines", keys, lambda line: _of_json(line, keys)), 0
            for separator in (",", "\t", ";", None):
                if separator and separator not in lines[0]:
                    continue
                split = partial(_split, separator=separator)
                names = split(lines[0].lstrip("# "))
                known = {role for name in names for role in _roles(name)}
                is_named = known >= ({"enrolment", "test"} if self.kind is TRIALS else {"path"})
                if is_named and (separator or lines[0].startswith("#") or all(map(_roles, names))):
                    return self._table("a table", names, split), 1
            return (self._trials if self.kind is TRIALS else self._plain)(lines), 0
        except ValueError as error:
            raise self._error(number, str(error)) from error

    def _table(self, form: str, names: list[str], split: Callable[[str], list[str]]) -> ValuesOf:
        """Return how a line of a table gives values, by the names of its columns."""
        found = {role: [i for i, name in enumerate(names) if role in _roles(name)] for role in _NAMES}
        if self.kind is TRAIN and not found["speaker"]:
            found["speaker"] = found["label"]
        extra = ("start", "stop", "duration", *(["set"] if self.kind is TRAIN else []))
        place = {role: found[role][0] for role in (*self.kind.columns, *extra) if found[role]}
        if odd := [role for role in place if len(found[role]) > 1]:
            both = " and ".join(repr(names[i]) for i in found[odd[0]])
            raise ValueError(f"the columns {both} can both be the {odd[0]}: rename one of them.")
        if odd := [role for role in self.kind.columns[: self.kind.num_needed] if role not in place]:
            known = ", ".join(map(repr, names))
            raise ValueError(f"of the columns {known} none is known as {odd[0]}: call it so.")
        columns = [place.get(role) for role in self.kind.columns]
        self.form = f"{form} ({', '.join(f'{role}: {names[place[role]]}' for role in place)})"

        def values(line: str) -> Values:
            fields = split(line)
            if len(fields) != len(names):
                return None
            if "set" in place and fields[place["set"]].lower() not in ("train", "training"):
                return ()
            row = ["" if i is None else fields[i] for i in columns]
            if self.kind is TRIALS:
                row[0] = row[0].lower()
                return row if row[0] in IS_TARGET else None
            if "start" in place and fields[place["start"]]:
                times = (fields[place[role]] if role in place else "" for role in extra[:3])
                path = self.kind.columns.index("path")
                row[path] = segment_name(row[path], *_seconds(*times))
            return row

        return values

    def _plain(self, lines: list[str]) -> ValuesOf:
        """Return how a line gives a path with a speaker or label before it; or after it, as line 1 has it."""
        is_label = self.kind is LABELS
        split = _splitter(lines[0], num_blanks=-1 if is_label else 1)
        first = split(lines[0])
        is_last = len(first) > 1 and is_audio(first[0]) and not is_audio(first[1])
        if is_last and len(first) > 2:
            raise ValueError(
                "`path label speaker` or `path speaker label`? Name the columns in a first line."
            )
        # A number behind the path is a length rather than a speaker.
        is_last = is_last and (is_label or not re.fullmatch(r"\d*\.\d+", first[1]))
        self.form = f"`path {'label' if is_label else 'speaker'}` lines" if is_last else ""

        def values(line: str) -> Values:
            fields = split(line)
            if self.kind is RECORDINGS and len(fields) == 1:
                return fields[0], ""
            if not all(fields) or len(fields) not in ((2, 3) if is_label else (2,)):
                return None
            who, path = fields[1::-1] if is_last else fields[:2]
            # More than two fields, or another order than that of line 1; a speaker may be named by a path.
            if (is_last and " " in who and "\t" not in line) or (is_audio(who) and not is_audio(path)):
                return None
            if is_label:
                return who, path, *fields[2:], *[""] * (3 - len(fields))
            return (path, who) if self.kind is RECORDINGS else (who, path)

        if len(lines) > 1 and (rows := [values(lines[0]), values(lines[1])]) and all(rows):
            top, second = (row[self.kind.columns.index("path")] for row in rows if row)
            if is_audio(second) and not is_audio(top):
                what = f"{lines[0].strip()[:120]!r} is no recording, and names no columns that are known"
                raise ValueError(f"{what}: call them {' and '.join(self.kind.columns)}.")
        return values

    def _trials(self, lines: list[str]) -> ValuesOf:
        """Return how a line gives label and recordings: the label is first or behind both."""
        places: set[int] = set()
        split = _splitter(lines[0], num_tabs=2)
        for fields in map(split, lines):
            found = {i for i in range(len(fields)) if i != 1 and fields[i].lower() in IS_TARGET}
            places = places & found or places or found
            if len(places) <= 1:
                break
        if len(places) > 1:
            readings = " or ".join(f"field {i + 1}" for i in sorted(places))
            how = "name the columns in a first line, such as `target enrolment test score`"
            raise ValueError(f"the label may be {readings}: {how}.")
        label, first = min(places, default=0), split(lines[0])
        words = [*(["the label last"] if label else []), *(["scores, not used"] if len(first) > 3 else [])]
        words += ["target/nontarget"] if first[label].lower() not in ("0", "1") else []
        self.form = f"trials with {', '.join(words)}" if words else ""

        def values(line: str) -> Values:
            fields = split(line)
            if len(fields) <= max(label, 2) or (target := fields.pop(label).lower()) not in IS_TARGET:
                return None
            return (target, *fields[:2]) if all(map(_is_number, fields[2:])) else None

        return values


class _Kaldi:
    """Read a Kaldi folder: the utterances of `segments`, or else of `wav.scp`, and who speaks them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._files = self._pairs("wav.scp")
        self._segments = self._pairs("segments")
        self.utterances = self._segments or self._files
        self.speaker_of = self._pairs("utt2spk") or {
            utterance: speaker
            for speaker, said in self._pairs("spk2utt").items()
            for utterance in said.split()
        }

    def name_of(self, utterance: str) -> str:
        """Return the name of an utterance's recording; what is no utterance is a name already."""
        if utterance not in self.utterances:
            return utterance
        recording, *times = self._segments.get(utterance, utterance).split()
        file = self._files.get(recording, "")
        if not file or file.endswith("|") or re.search(r"\.ark:\d+$", file):
            what = "a command, which is not run" if file.endswith("|") else "an archive, which is not read"
            raise ValueError(
                f"{self.folder}/wav.scp has no file for {recording}, but {what if file else 'nothing'}"
                f"{file and f' ({file[:120]})'}: write the samples into a file, and its path into wav.scp."
            )
        return segment_name(file, *map(float, times[:2])) if times else file

    def _pairs(self, name: str) -> dict[str, str]:
        if not _exists(below(self.folder, name)):
            return {}
        pairs = {}
        for number, line in list_lines(self.folder, name):
            key, *value = line.split(maxsplit=1)
            if not value:
                raise ValueError(f"{self.folder}/{name}, line {number}: expected two fields, got {key!r}.")
            pairs[key] = value[0].strip()
        return pairs


def kaldi_folder(place: str) -> str | None:
    """Return the Kaldi folder that a place is, or one of whose files it is; None for any other."""
    folder = posixpath.dirname(place) if posixpath.basename(place) in _KALDI else place
    return folder if _exists(below(folder, "wav.scp")) else None


def is_trial_list(root: Root, name: str) -> bool:
    """Tell trials from other lists by the first lines; FileNotFoundError as the readers."""
    if kaldi_folder(list_location(root, name)):
        return False
    try:
        rows = Rows(root, name, TRIALS)
        _, _, *pair = next(iter(rows))
    except ValueError:
        return False
    return rows.form.startswith(("a table", "JSON")) or all(map(is_audio, pair))


def list_files(place: str) -> list[str]:
    """Return the text files that a list consists of: itself, or those of a Kaldi folder."""
    folder = kaldi_folder(place)
    return [*filter(_exists, (below(folder, name) for name in (*_KALDI, "trials")))] if folder else [place]


def list_location(root: Root, name: str) -> str:
    """Return where a list lies: below `root`, unless its name is an absolute path or a URI."""
    return absolute(name if is_uri(name) else below(absolute(root), name)).rstrip("/")


def list_lines(root: Root, name: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines of a text that are not blank, numbered from 1.

    Text is UTF-8, or whatever UTF a byte order mark names; marks are ignored, also where lists were joined.
    Raises FileNotFoundError, and ValueError for an empty list, another encoding and what is no text.
    """
    place = list_location(root, name)
    filesystem, path = open_filesystem(place)
    try:
        file = filesystem.open_input_stream(path, compression=None, buffer_size=2**20)  # bytes of a request
    except OSError as error:
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.Directory:
            raise ValueError(
                f"The list {place} is a folder, and no Kaldi folder, which has a wav.scp: "
                f"`{typed('prepare_data')} folder` makes lists of a folder of recordings."
            ) from error
        if kind != fs.FileType.NotFound:
            raise
        is_folder = is_uri(absolute(root)) or os.path.isdir(root)
        folder = root if is_folder else f"{root}, which is not a folder"
        raise FileNotFoundError(
            f"The list {place} does not exist. Lists are looked up below data.root ({folder}). "
            f"`{typed('prepare_data')}` makes them: of VoxCeleb, of your recordings, or, with "
            "`demo data/demo`, of made-up voices for configs/demo.yml"
        ) from error
    raw = io.BufferedReader(file, 2**16)
    top, is_empty = raw.peek(2**10), True
    encoding = next((codec for mark, codec in _MARKS.items() if top.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in top:
        raise ValueError(
            f"The list {place} is no text, or UTF-16 without a byte order mark: `iconv -f UTF-16LE -t UTF-8`."
        )
    with io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape") as text:
        for number, line in enumerate(text, start=1):
            if not line.isascii():
                if not is_utf8(line):
                    raise ValueError(
                        f"{place}, line {number}: {os.fsencode(line.strip())[:120]!r} is not UTF-8. Write "
                        "it so (iconv -f LATIN1 -t UTF-8), and rename files with such names too (convmv)."
                    )
                line = line.replace("\ufeff", "")
            if line and not line.isspace():
                is_empty = False
                yield number, line
    if is_empty:
        raise ValueError(f"The list {place} is empty.")


def why_unlistable(path: str) -> str | None:
    """Return why no list can hold a path, or None where one can."""
    if not path:
        return "is missing"
    if "\n" in path or "\r" in path:
        return "has a line break in its name"
    if "\t" in path:
        return "has a tab in its name"
    if not is_utf8(path):
        return "is not UTF-8"
    if path != path.strip():
        return "begins or ends with a blank"
    if ".." in path and ".." in path.split("/"):
        return "has a '..' in it"  # it hides where the path leads; an absolute one shows it
    if " " in path and _NAME_THEN_MORE.search(path):
        return "has a blank after what ends as an audio file's name does"
    return None


def is_audio(name: str) -> bool:
    """Tell by its ending whether a name is that of an audio file."""
    return posixpath.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _exists(place: str) -> bool:
    filesystem, path = open_filesystem(place)
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def _roles(column: str) -> list[str]:
    plain = re.sub(r"[\W_]", "", column).lower()
    return [role for role, names in _NAMES.items() if plain in names.split()]


def _split(line: str, separator: str | None) -> list[str]:
    if separator in (",", ";"):
        return [field.strip() for field in next(csv.reader([line], delimiter=separator))]
    return [field.strip() for field in line.split(separator)]


def _splitter(first: str, num_tabs: int = 1, num_blanks: int = -1) -> Callable[[str], list[str]]:
    # Commas separate where the first line holds no blank that does not follow one; else tabs, if there are so
    # many in a line, or blanks.
    if "," in first and len(first.replace(", ", ",").split()) == 1:
        return partial(_split, separator=",")
    return lambda line: (
        _split(line, "\t") if line.count("\t") >= num_tabs else line.strip().split(maxsplit=num_blanks)
    )


def _of_json(line: str, keys: list[str]) -> list[str]:
    values = json.loads(line)
    return ["" if values.get(key) is None else str(values[key]) for key in keys]


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _seconds(start: str, stop: str, duration: str) -> tuple[float, float]:
    # Tables of some tools have seconds, of others samples: the duration, in seconds, tells which.
    begin, length = float(start), float(duration or "nan")
    end = float(stop) if stop else begin + length
    for unit in (1, SAMPLE_RATE):
        if abs((end - begin) / unit - length) < 0.02 * length + 0.01:
            return begin / unit, end / unit
    if not duration and "." in start + stop:
        return begin, end
    how = "add a column duration, in seconds, which they agree with"
    raise ValueError(f"start {start} and stop {stop} may be seconds or samples: {how}, or leave them out.")
