"""Changing settings by key path, and telling two trees of settings apart."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sslsv.settings import annotations_of, build, sections_of, shown
from sslsv.strict_yaml import ConfigError, parse_yaml

Section = TypeVar("Section")


def apply_overrides(section: Section, overrides: Sequence[str] | Mapping[str, Any]) -> Section:
    """New settings with some replaced: `["train.epochs=20"]` (values read as yaml) or `{"train.epochs": 20}`.

    A mapping as value sets several keys of a section. Another `name` of a section with a choice (as in
    `model.name=vicreg`) starts that section anew with that choice's defaults; keys given beside it apply to
    it, in whatever order.
    """
    raw: dict[str, Any] = dataclasses.asdict(section)  # type: ignore[call-overload]
    for key, value in sorted(leaves_of(overrides), key=lambda leaf: not leaf[0].endswith(".name")):
        _set(raw, type(section), key, value)
    return build(type(section), raw)


def leaves_of(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Key path and plain value of everything that overrides set, in their order.

    Raises ConfigError for what is no override.
    """
    changes = dict(overrides) if isinstance(overrides, Mapping) else dict(map(_parsed, overrides))
    return [leaf for key, value in changes.items() for leaf in _flat(key, value)]


def differences(old: Any, new: Any) -> list[str]:
    """`key.path: old -> new` for every setting in which two trees differ; `(none)` where one has no such key.

    What a section's `name` does not have in the other tree counts as a difference too.
    """
    before, after = (dict(_flat("", dataclasses.asdict(tree))) for tree in (old, new))
    keys = [*before, *(key for key in after if key not in before)]
    texts = [{key: shown(value) for key, value in tree.items()} for tree in (before, after)]
    return [
        f"{key}: {texts[0].get(key, '(none)')} -> {texts[1].get(key, '(none)')}"
        for key in keys
        if key not in before or key not in after or before[key] != after[key]
    ]


def _parsed(text: str) -> tuple[str, Any]:
    """Key path and value of `key.path=value`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"the override {text!r} is not of the form key.path=value, such as train.epochs=20")
    try:
        return key.strip(), parse_yaml(value)
    except ConfigError as error:
        raise ConfigError(f"the value of the override {text!r} cannot be read: {error}") from error


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Key paths and plain values below a value; an empty mapping sets nothing."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, value


def _set(raw: dict[str, Any], section: type, path: str, value: Any) -> None:
    """Put one value at its path; paths that do not exist are left for `build` to refuse."""
    *parents, last = path.split(".")
    choices = [section]
    for depth, parent in enumerate(parents):
        annotations = {key: kind for choice in choices for key, kind in annotations_of(choice).items()}
        choices = sections_of(annotations.get(parent))
        if parent in raw and not isinstance(raw[parent], dict):
            above = ".".join(parents[: depth + 1])
            raise ConfigError(f"{path} is not a setting: {above} is a single value; set {above} itself")
        raw = raw.setdefault(parent, {})
    if last == "name" and len(choices) > 1 and raw.get("name") != value:
        raw.clear()
    raw[last] = value
