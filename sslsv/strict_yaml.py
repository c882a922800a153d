"""Yaml as people expect it: 1e-3 is a number, `on` is text, no key twice, mistakes named with their line."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class ConfigError(ValueError):
    """A setting that cannot be used: one sentence with what was given, what is allowed and what to do."""


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2 (1e-3 is a number, `on` is text) and no key twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Check here, before `<<` copies keys of other mappings beside the own ones."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if str(key.value) in first_lines:
                line = first_lines[str(key.value)]
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is already there at line {line}; keep one of them",
                    problem_mark=key.start_mark,
                )
            first_lines[str(key.value)] = key.start_mark.line + 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace `<<` by the keys it stands for: own keys win, then those of the mapping named first.

        Not PyYAML's own: 6.0.4 tells keys apart by the identity of their text, so short ones merge wrongly.
        """
        own, merged = [], []
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                own.append((key, value))
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    raise yaml.MarkedYAMLError(
                        problem="<< takes a mapping, or a list of mappings", problem_mark=source.start_mark
                    )
                self.flatten_mapping(source)
                merged.append(source.value)
        pairs = {key.value: (key, value) for source in reversed(merged) for key, value in source}
        node.value = list((pairs | {key.value: (key, value) for key, value in own}).values())


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either version of YAML would not read back as text."""


FLOAT_PATTERN = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),  # before float: the first that fits is taken
    ("float", FLOAT_PATTERN, [*"-+0123456789."]),
    ("merge", r"<<", ["<"]),
):
    _tag = f"tag:yaml.org,2002:{_tag}"
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    if _tag.endswith("float"):
        _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
# PyYAML's own reader takes a leading 0 for octal.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True)
)


def read_yaml(path: Path) -> Any:
    """The plain values of a yaml file; raises `ConfigError` that names the file and what is wrong."""
    if not path.is_file():
        raise ConfigError(_missing_file(path))
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_yaml(text: str) -> Any:
    """The plain values of one yaml document; raises `ConfigError` with the line of a mistake."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown place"
        raise ConfigError(f"the yaml is broken at {where}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"the yaml is broken: {' '.join(str(error).split())}") from error


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """Yaml text with the mapping's order, lists on one line; `parse_yaml` gives the same values back."""
    return yaml.dump(
        dict(mapping), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True
    )


def _missing_file(path: Path) -> str:
    """Sentence for a yaml that is not there, with the most similar file name of that folder."""
    if path.is_dir():
        return f"{path} is a folder; name a yaml file in it"
    if not path.parent.is_dir():
        return f"{path} does not exist: there is no folder {path.parent}"
    names = sorted(file.name for file in path.parent.iterdir() if file.suffix in (".yml", ".yaml"))
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"{path} does not exist; did you mean {path.parent / close[0]}?"
    return f"{path} does not exist; {path.parent} has {', '.join(names) or 'no yaml files'}"
