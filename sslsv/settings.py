"""Strict settings: plain mappings into trees of frozen dataclasses, every error one sentence."""

import difflib
import json
import math
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sslsv.strict_yaml import FLOAT_PATTERN, ConfigError

Section = TypeVar("Section")


def build(section: type[Section], raw: Any, path: str = "") -> Section:
    """Checked instance of dataclass `section` from plain values.

    Keys must exist, types must fit exactly (an integer may stand for a float), numbers must be finite. Where
    several dataclasses are possible the key `name` says which. Raises `ConfigError` for the first mistake.
    """
    try:
        # The detour through JSON turns NumPy numbers (from a search) and tuples into plain values.
        text = json.dumps(raw, default=lambda value: value.item())
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the settings hold something that is no plain value: {error}") from error
    raw = json.loads(text)
    _check_keys(raw, [section], path, section)
    try:
        schema: Any = section  # a class is hashable, but mypy does not see it for type[Section]
        checked: Section = _adapter(schema).validate_json(text, strict=True)
        return checked
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors(include_url=False)[0], raw)) from error


def nearest(given: str, choices: list[str]) -> str:
    """`; did you mean 'x'?` with the most similar choice, else `; choose one of ...`."""
    close = difflib.get_close_matches(given, choices, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of {', '.join(map(repr, choices))}"


@cache
def sections_of(annotation: Any) -> list[type]:
    """The dataclasses that an annotation allows: none for a plain value, several for a choice by `name`."""
    if get_origin(annotation) is Annotated:
        return sections_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [section for member in get_args(annotation) for section in sections_of(member)]
    return [annotation] if isinstance(annotation, type) and is_dataclass(annotation) else []


@cache
def annotations_of(section: type) -> dict[str, Any]:
    """Field name -> annotation of a settings dataclass, in its order."""
    hints = get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in fields(section)}


def name_of(section: type) -> str | None:
    """What the key `name` must say for this dataclass to be chosen, or None where it is no `Literal`."""
    names = get_args(annotations_of(section).get("name"))
    return str(names[0]) if len(names) == 1 else None


def refuse_if(is_wrong: bool, sentence: str) -> None:
    """Raise the sentence as `ValueError` if something is wrong; for the `__post_init__` of sections."""
    if is_wrong:
        raise ValueError(sentence)


def at_least(smallest: int, section: object, *names: str) -> None:
    """Refuse fields below `smallest`; null passes."""
    for name in names:
        value = getattr(section, name)
        refuse_if(value is not None and value < smallest, f"{name} is {value}; it must be {smallest} or more")


@cache
def _adapter(section: Any) -> TypeAdapter[Any]:
    return TypeAdapter(section)


def _check_keys(raw: Any, sections: list[type], path: str, root: type) -> None:
    """Refuse what the types alone do not: unknown keys, missing names, infinite numbers."""
    where = path or "the config"
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{where} is {shown(raw)}, but it is a section of settings; write keys and values below it, "
            "such as "
            f"{', '.join(list(annotations_of(sections[0]))[:3])}"
        )
    section = _chosen(raw, sections, path)
    annotations = annotations_of(section)
    for key, value in raw.items():
        full = f"{path}.{key}" if path else str(key)
        if key not in annotations:
            raise ConfigError(_unknown_key(str(key), path, section, sections, root))
        inner = sections_of(annotations[key])
        if inner and not (value is None and type(None) in get_args(annotations[key])):
            _check_keys(value, inner, full, root)
        elif any(isinstance(number, float) and not math.isfinite(number) for number in _leaves(value)):
            raise ConfigError(f"{full} is {shown(value)}; give a finite number")


def _chosen(raw: Mapping[str, Any], sections: list[type], path: str) -> type:
    """The dataclass that the key `name` asks for, or the only one there is."""
    if len(sections) == 1:
        return sections[0]
    by_name = {str(name_of(section)): section for section in sections}
    if "name" not in raw:
        raise ConfigError(f"{path}.name is missing; choose one of {', '.join(map(repr, by_name))}")
    given = raw["name"]
    if not isinstance(given, str) or given not in by_name:
        raise ConfigError(
            f"{path}.name is {shown(given)}, which is not known{nearest(str(given), list(by_name))}"
        )
    return by_name[given]


def _unknown_key(key: str, path: str, section: type, sections: list[type], root: type) -> str:
    """Sentence for a key that is not there: whose it is, what it is spelt like, or what there is."""
    full = f"{path}.{key}" if path else key
    owners = [str(name_of(other)) for other in sections if key in annotations_of(other)]
    if owners:
        mine, theirs = name_of(section), " and ".join(owners)
        return f"{full} is not a setting here: {mine} has no {key!r}; it belongs to {theirs}"
    keys = list(annotations_of(section))
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    prefix = f"{path}." if path else ""
    if close:
        return f"{full} is not a setting; did you mean {prefix}{close[0]}?"
    elsewhere = [other for other in _all_paths(root) if other.rpartition(".")[2] == key]
    if elsewhere:
        return f"{full} is not a setting; did you mean {elsewhere[0]}?"
    return f"{full} is not a setting; {path or 'the config'} has {', '.join(keys)}"


def _all_paths(section: type, path: str = "") -> Iterator[str]:
    for key, annotation in annotations_of(section).items():
        yield path + key
        for inner in sections_of(annotation):
            yield from _all_paths(inner, f"{path}{key}.")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


_WANTED = {
    "int_type": "a whole number such as 32",
    "int_from_float": "a whole number such as 32",
    "float_type": "a number such as 0.5 or 1e-3",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list such as [1, 2]",
}


def _sentence(error: Mapping[str, Any], raw: Any) -> str:
    """One sentence from one of pydantic's error records; `raw` tells real keys from its class names."""
    path, here = "", raw
    for part in error["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
            here = here[part] if isinstance(here, list | tuple) and part < len(here) else None
        elif isinstance(here, Mapping) and part in here:
            path += f".{part}" if path else str(part)
            here = here[part]
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "value_error":
        message = str(context["error"])
        joint = "." if re.match(r"[a-z][a-z0-9_.]* is ", message) else ": "  # it begins with its field's name
        return f"{path}{joint}{message}" if path else message
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        hint = nearest(str(given), choices) if choices else f"; choose {context['expected']}"
        return f"{path} is {shown(given)}, which is not known{hint}"
    if kind in _WANTED:
        quoted = (
            isinstance(given, str)
            and kind in ("int_type", "float_type")
            and re.fullmatch(FLOAT_PATTERN, given)
        )
        hint = ", without quotes" if quoted else ""
        return f"{path} is {shown(given)}, but it must be {_WANTED[kind]}{hint}"
    if kind in ("missing", "too_long", "too_short") and path:
        whole = re.sub(r"\[\d+\]$", "", path)
        return f"{whole} has the wrong number of values ({shown(given)}); the default shows how many it takes"
    return f"{path or 'the config'} is {shown(given)}, which is wrong: {error['msg']}"


def shown(value: Any) -> str:
    """The value as it may stand in a sentence: short, on one line."""
    if isinstance(value, Mapping):
        return "a section"
    text = (
        "empty"
        if value is None
        else {True: "true", False: "false"}.get(value, "")
        if isinstance(value, bool)
        else ""
    )
    text = text or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
