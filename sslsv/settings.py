"""Read yaml and `key.path=value` into frozen, checked sections; report each mistake in one sentence."""

import contextlib
import dataclasses
import difflib
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticKnownError, core_schema
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from typing_extensions import dataclass_transform

from sslsv import registry
from sslsv.registry import nearest

Section = TypeVar("Section")

# The folder with configs/ and tune_spaces/: the installed package (see setup.py), otherwise the checkout.
PACKAGE = Path(__file__).resolve().parent
FOLDER = PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent
_SECTIONS: dict[tuple[str, str], Any] = {}  # keys: module and qualified name
_adapter = cache(TypeAdapter[Any])
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ConfigError(ValueError):
    """Report an invalid setting in one sentence: what was given, what is wrong, what to do."""


class Failed(RuntimeError):
    """Report in one sentence why a command can't continue after its start; the exit code is 1."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, Field))
def section(kind: type[Section]) -> type[Section]:
    """Turn a class into a section of settings: a frozen dataclass that pydantic checks on creation.

    Unknown keys are refused, types must match exactly (a float may be given as an integer), and numbers must
    be finite.
    """
    # The registry executes a `Config` class before its file is imported. A second class made by the import
    # would break pickling, and settings of the two classes would never be equal.
    key = (kind.__module__, kind.__qualname__)
    if key not in _SECTIONS or not key[0].startswith("sslsv."):
        _SECTIONS[key] = dataclass(frozen=True, kw_only=True, config=_STRICT)(kind)
    return _SECTIONS[key]  # type: ignore[no-any-return]


class choice:
    """Annotate a field that holds the settings of one component, such as a method, chosen by its key `name`.

    Example: `model: Annotated[Any, choice("models")]`. For a list of choices, use a tuple of that type. In
    yaml, the bare name of a component stands for its default settings.
    """

    def __init__(self, package: str, default: str = "") -> None:
        self.package, self.default = package, default

    def __call__(self) -> Any:
        """Return the default settings of the default component."""
        return registry.settings_class(self.package, self.default)()

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return value
        raw = {"name": value} if isinstance(value, str) else value
        if not isinstance(raw, Mapping):
            raise PydanticKnownError("dataclass_type", {"class_name": self.package})
        if "name" not in raw:
            raise ValueError(f"name is missing{nearest('', registry.names(self.package))}")
        chosen = registry.settings_class(self.package, str(raw["name"]))
        return _adapter(chosen).validate_json(json.dumps(raw))


def build(kind: type[Section], raw: Any) -> Section:
    """Build a checked section from plain values; raises ConfigError for the first mistake."""
    try:
        # The round trip through JSON turns NumPy numbers (from a search) and tuples into plain values, and
        # dates and paths into text.
        text = json.dumps(raw, default=lambda value: value.item() if hasattr(value, "item") else str(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the settings hold something that is no plain value: {error}") from error
    try:
        return _adapter(kind).validate_json(text)  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors(include_url=False), kind, json.loads(text))) from error


@cache
def annotations_of(kind: type) -> dict[str, Any]:
    """Return field name -> annotation of a section, in the order of its definition."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def sections_of(annotation: Any) -> list[type]:
    """Return the sections that an annotation allows: none for a plain value, one per name for a choice."""
    if isinstance(annotation, choice):
        sections = []
        for name in registry.names(annotation.package):
            with contextlib.suppress(Exception):  # one unfinished file must not block the other components
                sections.append(registry.settings_class(annotation.package, name))
        return sections
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [inner for part in get_args(annotation) for inner in sections_of(part)]


def refuse_if(is_wrong: bool, sentence: str) -> None:
    """Raise ValueError with the sentence if `is_wrong`; sections call this in `__post_init__`."""
    if is_wrong:
        raise ValueError(sentence)


# Credentials or options in a URI. Many AWS secret keys contain a slash, which only the second form matches.
_SECRETS = re.compile(r"://[^/?#]*@|://[^/?#]*:[^?#]*@|://[^?#]*\?")


def check_location(name: str, place: str) -> str:
    """Return the path or URI; raises ValueError (without quoting it) if a URI has credentials or options."""
    refuse_if(
        bool(_SECRETS.search(place)),
        f"{name} is a URI with a user, password or key in it, or with options (`?`), which would be saved "
        "with the run; take it out and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION or "
        "AWS_ENDPOINT_URL, or use ~/.aws or the machine's role",
    )
    return place


Location = Annotated[str, AfterValidator(partial(check_location, "it"))]  # a path or a URI


def short_text(value: Any) -> str:
    """Return a value as short text on one line, for use in messages."""
    if isinstance(value, Mapping):
        return "a section"
    text = "empty" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# Replacements for messages of pydantic that would be misleading, by error type.
_MISTAKES = {
    "missing": "it has too few values",
    "too_long": "it has too many values",
    "int_type": "it should be a whole number",
    "float_type": "it should be a number",
    "bool_type": "it should be true or false",
    "string_pattern_mismatch": "it should be a plain name, without slashes",
    "dataclass_type": "it is a section of settings: write keys and values below it",
}


def _sentence(errors: Sequence[Mapping[str, Any]], root: type, raw: Any) -> str:
    """Describe one of the errors: an unknown key first, as it causes others, else the most deeply nested."""
    error = min(errors, key=lambda each: (each["type"] != "unexpected_keyword_argument", -len(each["loc"])))
    if error["type"] == "int_type" and isinstance(error["input"], list):  # the field allows a list too
        error = errors[-1]
    kind, path, parent = error["type"], "", None
    for part in error["loc"]:  # pydantic adds words of its own between keys
        if isinstance(part, int):
            path += f"[{part}]"
            raw = raw[part] if part < len(raw) else None
        elif isinstance(raw, Mapping) and part in raw:
            path += f".{part}" if path else part
            parent, raw = raw, raw[part]
    if kind == "unexpected_keyword_argument":
        return _unknown_key(path, str(parent and parent.get("name", "the default")), root)
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        if message.startswith("it is "):
            return path + message[2:]
        return f"{path}.{message}" if path else message  # the message begins with the name of its field
    path = re.sub(r"\[\d+\]$", "", path) if kind == "missing" else path  # the path ends in the missing item
    value, mistake = error["input"], _MISTAKES.get(kind, error["msg"].replace("Input should", "it should"))
    is_plain = value is not None and not isinstance(value, Mapping | list)
    if kind == "tuple_type":
        mistake = f"it should be a list{f', such as [{value}]' if is_plain else ''}"
    if kind == "string_type":
        quoted = f""": '{value}' in quotes (on the command line {path}="'{value}'")"""
        mistake = f"it should be text{quoted if is_plain else ''}"
    return f"{path or 'the config'} is {short_text(value)}; {mistake}"


def _unknown_key(path: str, chosen: str, root: type) -> str:
    """Describe an unknown key: suggest a similar one, or list all; `chosen` is the `name` of its section."""
    section, _, key = path.rpartition(".")
    key_paths, parent = [*_key_paths(root)], re.sub(r"\[\d+\]", "", section)
    siblings = [(p.rpartition(".")[2], owner) for p, owner in key_paths if p.rpartition(".")[0] == parent]
    names = [name for name, owner in siblings if owner == chosen] or [name for name, _ in siblings]
    if key in dict(siblings):
        return f"{path} is not a setting here: {chosen} has no {key!r}"
    # Several sections may have a key of this name: the first of the least nested ones is kept.
    by_depth = sorted((p for p, _ in reversed(key_paths)), key=lambda p: -p.count("."))
    path_of = {p.rpartition(".")[2]: p for p in by_depth}
    close = [f"{section}.{name}".lstrip(".") for name in difflib.get_close_matches(key, names, n=1)]
    close += [path_of[name] for name in difflib.get_close_matches(key, path_of, n=1, cutoff=0.8)]
    keys = f"{section or 'the config'} has {', '.join(dict.fromkeys(names))}"
    return f"{path} is not a setting; {f'did you mean {close[0]}?' if close else keys}"


def _key_paths(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, annotation in annotations_of(kind).items():
        yield prefix + key, getattr(kind, "name", "")  # for a choice: the component with the key
        for section_class in sections_of(annotation):
            if section_class is not kind:  # one_of is among its own choices
                yield from _key_paths(section_class, f"{prefix}{key}.")


def apply_overrides(old: Section, overrides: Sequence[str] | Mapping[str, Any]) -> Section:
    """Return the settings with some replaced: `["train.epochs=20"]` (read as yaml) or `{"train.epochs": 20}`.

    A mapping as a value sets several keys of a section. A new `name` of a choice (as in `model.name=vicreg`)
    resets its section to the defaults of that component; other keys given for the section are applied after
    that, in any order. An item of a list of choices is addressed by its name:
    `data.augment.noise.probability=0.5`.
    """
    raw: dict[str, Any] = dataclasses.asdict(old)  # type: ignore[call-overload]
    # Outer keys are applied first, and `name` before the other keys of its section.
    for key, value in sorted(leaves_of(overrides), key=lambda leaf: leaf[0].removesuffix(".name").count(".")):
        _set(raw, type(old), key, value)
    return build(type(old), raw)


def leaves_of(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return (key path, plain value) of each override; raises ConfigError for a malformed one."""
    changes = overrides if isinstance(overrides, Mapping) else dict(map(_parse_override, overrides))
    return [leaf for key, value in changes.items() for leaf in _leaves(key, value)]


def differences(old: Any, new: Any) -> list[str]:
    """Return `key.path: old -> new` for each difference of two sections; `(none)` marks a missing key."""
    trees = [dict(_leaves("", dataclasses.asdict(tree), splits_lists=True)) for tree in (old, new)]
    before, after = ({key: short_text(value) for key, value in tree.items()} for tree in trees)
    return [
        f"{key}: {before.get(key, '(none)')} -> {after.get(key, '(none)')}"
        for key in before | after
        if trees[0].get(key, ...) != trees[1].get(key, ...)
    ]


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"the override {text!r} is not of the form key.path=value, such as train.epochs=20")
    override = key.strip(), parse_yaml(value)
    if not list(_leaves(*override)):  # an empty mapping
        raise ConfigError(f"the override {text!r} changes nothing; write keys and values between the braces")
    return override


def _leaves(path: str, value: Any, splits_lists: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield (key path, plain value); `splits_lists` splits a list of choices into its order and its items."""
    if splits_lists and isinstance(value, tuple) and value and isinstance(value[0], Mapping):
        items = {item.get("name"): item for item in value}
        if len(items) == len(value) and None not in items:
            yield path, list(items)
            value = items
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), inner, splits_lists)
    else:
        yield path, value


def _set(raw: Any, annotation: Any, path: str, value: Any) -> None:
    """Set the value at a path, in place; `build` refuses keys that do not exist."""
    *parents, last = path.split(".")
    for parent in parents:
        if isinstance(raw, list):
            items = {item.get("name"): item for item in raw if isinstance(item, dict)}
            if parent not in items:
                hint = nearest(parent, list(map(str, items)))
                raise ConfigError(f"{path} is not a setting: {parent!r} is not in the list{hint}")
            raw = items[parent]
        else:
            annotations = [annotations_of(each) for each in sections_of(annotation)]
            annotation = next((fields[parent] for fields in annotations if parent in fields), None)
            raw[parent] = _as_mappings(raw.get(parent))
            raw = raw[parent]
    if isinstance(raw, list):
        raise ConfigError(f"{path} is an item of a list; set its keys, or the whole list")
    if last == "name" and len(sections_of(annotation)) > 1 and raw.get("name") != value:
        raw.clear()
    raw[last] = value


def _as_mappings(value: Any) -> Any:
    """Return a section, or a list of sections, as mappings, where a bare name may stand for a choice."""
    if isinstance(value, list | tuple):
        return [_as_mappings(item) for item in value]
    return value if isinstance(value, dict) else {} if value is None else {"name": value}


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)  # This is yaml 1.2: 1e-3 is a number, `on` is text.
    yaml.default_flow_style, yaml.width = None, 2**16  # a list or section of plain values takes one line
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml


def locate(path: str | Path) -> Path:
    """Return the path or, if only that exists, the same path in the package or checkout; prints a note once.

    This makes `configs/demo.yml` available in every working directory.
    """
    local, packaged = Path(path), FOLDER / path
    if packaged.exists() and not local.exists():
        _print_once(f"{path} is not in this folder; taken from the installed sslsv: {packaged}")
        return packaged
    is_here = local.exists() or local.parent.is_dir() or not packaged.parent.is_dir()
    return local if is_here else packaged  # if neither exists, the error lists the files of this folder


@cache
def _print_once(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def command_name(command: str) -> str:
    """Return a command as the user typed it, for messages: `sslsv train` or `python -m sslsv.train`."""
    is_module = PACKAGE in Path(sys.argv[0]).resolve().parents
    return f"python -m sslsv.{command}" if is_module else f"sslsv {command}"


def require_file(given: Path | None, what: str, example: str) -> Path:
    """Return the file from the command line; without one, raises ConfigError with files like `example`."""
    if given is not None and ("=" not in given.name or given.exists()):
        return given
    folder, suffix = Path(example).parent, Path(example).suffix
    files = ", ".join(sorted(file.name for file in locate(example).parent.glob(f"*{suffix}")))
    raise ConfigError(f"no {what} is named: try {example} first; {folder}/ has {files or 'none'}")


def load(kind: type[Section], path: Path) -> Section:
    """Load a checked section from a yaml file; raises ConfigError, which names the file and the mistake."""
    if not path.is_file():
        candidates = (path, path.parent, Path("configs"), FOLDER / "configs")
        folder = next(candidate for candidate in candidates if candidate.is_dir())
        names = {file.stem: str(file) for file in sorted(folder.glob("*.y*ml"))}
        close = difflib.get_close_matches(path.stem, names, 1, 0.7)  # all have the same folder and suffix
        hint = f"did you mean {names[close[0]]}?" if close else f"{folder} has {', '.join(names) or 'none'}"
        raise ConfigError(f"{path} is no yaml file; {hint}")
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
        return build(kind, {} if raw is None else raw)
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_yaml(text: str) -> Any:
    """Return the plain values of one yaml document; raises ConfigError with the line of a mistake."""
    try:
        return _yaml().load(text)
    except (YAMLError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"the yaml is broken{where}: {problem or ' '.join(str(error).split())}") from error


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """Return a mapping as yaml in its order; `parse_yaml` restores the same values."""
    stream = io.StringIO()
    _yaml().dump(json.loads(json.dumps(mapping)), stream)  # turns tuples into lists, as yaml lacks tuples
    return stream.getvalue()
