"""Make the pages of the documentation that follow from the code, as a hook of mkdocs (`make docs`).

Settings come from `Field(description=...)` and the comments above fields, commands from their parsers,
methods and encoders from the head of their file: a new one has its page without an edit here. Files of the
repository that pages link to become part of the site.
"""

import ast
import contextlib
import dataclasses
import inspect
import io
import math
import os
import re
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from sslsv import registry
from sslsv.__main__ import commands, module_of
from sslsv.config import Config
from sslsv.settings import annotations_of, choice

ROOT = Path(__file__).resolve().parents[1]
# Parts of the settings whose page is another one: the choices of a key `name`.
PAGES = {
    "models": "methods/index.md",
    "encoders": "encoders/index.md",
    "data.augmentations": "augmentations.md",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation, and at its end those that it does not name."""
    assert config.nav is not None
    for entry in config.nav:
        for title, pages in entry.items():
            if title in ("Methods", "Encoders"):
                package = "models" if title == "Methods" else "encoders"
                pages += [f"{title.lower()}/{name}.md" for name in registry.names(package)]
    listed = str(config.nav)
    config.nav += [file.name for file in sorted(ROOT.glob("docs/*.md")) if f"'{file.name}'" not in listed]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated, the README as the start page, and files that pages link to."""
    for uri, text in generated():
        files.append(File.generated(config, uri, content=text))
    names = ["SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff", "cluster.yaml"]
    for path in [*map(ROOT.joinpath, names), *sorted((ROOT / "deploy").iterdir())]:
        if path.is_file():
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that are right in the repository be right in the site, where docs/ is the root."""
    return re.sub(
        r"\]\((\.\./|docs/)(?=[\w./-]+)", "](" if "/" not in page.file.src_uri else r"](\1", markdown
    )


def generated() -> Iterator[tuple[str, str]]:
    """Yield path and text of every page that is made here."""
    yield "index.md", (ROOT / "README.md").read_text(encoding="utf-8")
    yield "settings.md", settings_page()
    yield "commands.md", commands_page()
    yield "augmentations.md", augmentations_page()
    for folder, package in (("methods", "models"), ("encoders", "encoders")):
        names = registry.names(package)
        for name in names:
            yield f"{folder}/{name}.md", component_page(package, name)
        yield f"{folder}/index.md", index_page(folder, package, names)


# ---- methods, encoders, augmentations


def component_page(package: str, name: str) -> str:
    """Return the page of a method or an encoder: what it is, its settings, its recipes, its code."""
    kind = registry.settings_class(package, name)
    parts = [f"# {name}", docstring(f"sslsv.{package}.{name}")]
    key = {"models": "model", "encoders": "encoder"}[package]
    parts += [f"## Settings\n\nBelow `{key}`, with `{key}.name={name}`.", *tables(kind, key)]
    recipes = [file for file in sorted((ROOT / "configs").rglob("*.yml")) if uses(file, package, name)]
    if package == "models" and recipes:
        recipe = ROOT / "configs" / f"{name}.yml"
        others = ", ".join(f"`{file.relative_to(ROOT)}`" for file in recipes if file != recipe)
        parts.append(f"## Recipe\n\n`sslsv train configs/{name}.yml`; others: {others or 'none'}.")
        parts.append(f"```yaml\n{recipe.read_text(encoding='utf-8').strip()}\n```")
    elif recipes:
        parts.append("## Recipes\n\n" + ", ".join(f"`{file.relative_to(ROOT)}`" for file in recipes))
    owner = kind.__qualname__.split(".")[0]
    parts.append(f"## Code\n\n::: sslsv.{package}.{name}.{owner}")
    return "\n\n".join(parts)


def uses(file: Path, package: str, name: str) -> bool:
    """Tell whether a yaml file names a method or an encoder."""
    key = {"models": "model", "encoders": "encoder"}[package]
    text = file.read_text(encoding="utf-8")
    return (
        re.search(rf"(?m)^{key}:( {name}$|\n(  .*\n)*?  name: {name}\b| {{name: {name}\b)", text) is not None
    )


def index_page(folder: str, package: str, names: list[str]) -> str:
    """Return the table of all methods, with the errors in the heads of their recipes, or of all encoders."""
    intro = {
        "models": "`model.name` chooses one; each is a file of `sslsv/models/`. EER on VoxCeleb1-O in "
        "percent, as published elsewhere for the recipe of the same name (heads of the files in `configs/`; "
        "not run here).",
        "encoders": "`encoder.name` chooses one; each is a file of `sslsv/encoders/`. All take waveforms: "
        "the spectrogram is part of the encoder.",
    }[package]
    lines = [f"# {folder.capitalize()}\n\n{intro}\n"]
    if package == "models":
        lines += ["| method | what it does | Fast ResNet-34 | ECAPA-TDNN |", "|---|---|---|---|"]
    else:
        lines += ["| encoder | what it is |", "|---|---|"]
    for name in names:
        summary = docstring(f"sslsv.{package}.{name}").partition("\n\n")[0].replace("\n", " ")
        cells = [f"[`{name}`]({name}.md)", summary.replace("|", "\\|")]
        if package == "models":
            cells += [published_eer(f"configs/{name}.yml"), published_eer(f"configs/ecapa/{name}.yml")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def published_eer(config: str) -> str:
    """Return the error that the head of a recipe reports as published, or nothing."""
    file = ROOT / config
    head = re.sub(r"\n# *", " ", file.read_text(encoding="utf-8")) if file.is_file() else ""
    match = re.search(r"Result +VoxCeleb1-O, published [^:]*: EER ([\d.]+) %", head)
    return match.group(1) if match else ""


def augmentations_page() -> str:
    """Return the page of all augmentations."""
    parts = [
        "# Augmentations",
        "`data.augment` is a list, whose items each view passes through in turn: `[{name: reverb}, {name: "
        "noise}]`. On the command line an item goes by its name: `data.augment.noise.probability=0.5`.",
    ]
    for name in registry.names("data.augmentations"):
        kind = registry.settings_class("data.augmentations", name)
        parts += [f"## {name}", docstring(f"sslsv.data.augmentations.{name}"), table(kind)]
    return "\n\n".join(parts)


# ---- settings


def settings_page() -> str:
    """Return the page of all settings but those of methods, encoders and augmentations."""
    parts = [
        "# Settings",
        "A recipe is a yaml file in `configs/` with these keys; missing keys have their default. On the "
        "command line: `key.path=value`, in yaml. An unknown key, a wrong type or a value out of range is "
        "refused with one sentence and exit code 2.",
    ]
    return "\n\n".join([*parts, *tables(Config, "")])


def tables(kind: Any, path: str) -> Iterator[str]:
    """Yield the table of a section, then of each section in it, under headings with their paths."""
    yield f"{inspect.getdoc(kind)}\n\n{table(kind)}"
    for name in kind.__pydantic_fields__:
        for inner in plain_sections(annotations_of(kind)[name]):
            inner_path = f"{path}.{name}".lstrip(".")
            yield f"{'##' if not path else '###'} {inner_path}"
            yield from tables(inner, inner_path)


def plain_sections(annotation: Any) -> list[Any]:
    """Return the sections that a field may hold, but for choices, which have pages of their own."""
    if isinstance(annotation, choice):
        return []
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [annotation]
    return [each for part in get_args(annotation) for each in plain_sections(part)]


def table(kind: Any) -> str:
    """Return the settings of a section as a table."""
    lines = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for name, info in kind.__pydantic_fields__.items():
        values = shown_type(info.annotation, [*info.metadata])
        default = info.get_default(call_default_factory=True)
        sections = plain_sections(annotations_of(kind)[name])
        meaning = ". ".join(filter(None, [info.description, comment_above(kind, name)]))
        if name == "name" and len(get_args(info.annotation)) == 1:  # what the page is about
            continue
        if sections and default is not None:
            text = "see below"
        else:
            text = "(must be given)" if info.is_required() else f"`{shown_value(default)}`"
        cells = [f"`{name}`", values, text, meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def shown_value(value: Any) -> str:
    """Return a default as yaml has it; a choice by its name."""
    if dataclasses.is_dataclass(value):
        return getattr(value, "name", "section")
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown_value, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def shown_type(annotation: Any, metadata: list[Any]) -> str:
    """Return what a setting may be, with its range."""
    for constraint in metadata:
        if isinstance(constraint, choice):
            page = PAGES[constraint.package]
            return f"one of the [{page.partition('/')[0].removesuffix('.md')}]({page})"
    bounds = [
        f"{sign} {shown_number(getattr(constraint, key))}"
        for constraint in metadata
        for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(constraint, key, None) is not None
    ]
    return f"{plain_type(annotation)}{', ' if bounds else ''}{', '.join(bounds)}"


def shown_number(bound: float) -> str:
    """Return a bound, a long one as a power of 2."""
    return str(bound) if bound < 2**32 else f"2^{math.log2(bound):.0f}"


def plain_type(annotation: Any) -> str:
    """Return a type in the words of yaml."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        nested = [part for each in inner[1:] for part in (each, *getattr(each, "metadata", ()))]
        return shown_type(inner[0], nested)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(plain_type, inner)))
    if origin is tuple:
        return f"list: {plain_type(inner[0])}" if ... in inner else f"[{', '.join(map(plain_type, inner))}]"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return "section"
    return {"int": "whole number", "float": "number", "str": "text", "bool": "true, false"}[
        annotation.__name__
    ]


def comment_above(kind: Any, name: str) -> str:
    """Return the comment directly above a field in its source, as one line."""
    for base in kind.__mro__[:-1]:
        lines, body = class_source(base.__module__, base.__qualname__)
        for node in body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
                end = start = node.lineno - 1
                while lines[start - 1].lstrip().startswith("#"):
                    start -= 1
                return " ".join(line.strip().lstrip("# ") for line in lines[start:end])
    return ""


def class_source(module: str, qualified_name: str) -> tuple[list[str], list[ast.stmt]]:
    """Return the lines of a file and the body of one of its classes."""
    lines, tree = parsed(module)
    body = tree.body
    for part in qualified_name.split("."):
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == part)
    return lines, body


@cache
def parsed(module: str) -> tuple[list[str], ast.Module]:
    """Return lines and syntax tree of a module, without importing it."""
    path = ROOT.joinpath(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    text = file.read_text(encoding="utf-8")
    return text.splitlines(), ast.parse(text)


def docstring(module: str) -> str:
    """Return what a module says at its head."""
    return ast.get_docstring(parsed(module)[1]) or ""


# ---- commands


def commands_page() -> str:
    """Return the page of all commands, with what `--help` prints."""
    parts = [
        "# Commands",
        "`sslsv COMMAND ...`, or `python -m sslsv.COMMAND ...`; `sslsv` alone lists them. Exit codes: 0 "
        "done, 1 failed after the start (or found problems that it looks for, such as bad recordings), "
        "2 the request can't be met, 130 interrupted.",
    ]
    for name in commands():
        module = module_of(name)
        parts += [f"## {name}", str(module.__doc__), f"```text\n{help_of(module)}\n```"]
        for part in getattr(module, "COMMANDS", ()):
            parts += [f"### {name} {part}", f"```text\n{help_of(module, part)}\n```"]
    return "\n\n".join(parts)


def help_of(module: Any, *arguments: str) -> str:
    """Return what a command prints with --help."""
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        module.main([*arguments, "--help"])
    return printed.getvalue().strip()
