"""Find the class that a name in the yaml stands for: `find("models", "vicreg")` is in `models/vicreg.py`.

The file holds one class with a nested `Config`, whose field `name: Literal["vicreg"]` repeats the file name.
There is no list of components: to add a method, encoder or augmentation, add a file.
"""

import ast
import difflib
import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


@cache
def names(package: str) -> list[str]:
    """Return the names in a package ("models", "data.augmentations"), sorted, without importing the files."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in _folder(package).glob("*.py")}
    return sorted(name for name, text in texts.items() if f'name: Literal["{name}"]' in text)


def find(package: str, name: str) -> Any:
    """Import the file of a name and return its class; raises ValueError for a name that is not in `names`."""
    _check(package, name)
    module = importlib.import_module(f"sslsv.{package}.{name}")
    kinds = [value for value in vars(module).values() if isinstance(value, type)]
    return next(kind for kind in kinds if kind.__module__ == module.__name__ and "Config" in vars(kind))


@cache
def settings_class(package: str, name: str) -> Any:
    """Return the settings class of a name, `find(package, name).Config`, without importing its file.

    The file imports PyTorch, which takes 1.5 s; mistakes in the settings are to be reported without that
    delay. So only the `Config` class is executed, with the imports that it uses. `settings.section` returns
    the same class when the file is imported later. Raises ValueError for an unknown name, and for a `Config`
    that uses names defined in its file.
    """
    _check(package, name)
    file = _folder(package) / f"{name}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    owners = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    config_class, owner = next(
        (node, owner) for owner in owners for node in owner.body if getattr(node, "name", "") == "Config"
    )
    used = {node.id for node in ast.walk(config_class) if isinstance(node, ast.Name)}
    imports = [line for line in tree.body if isinstance(line, ast.Import | ast.ImportFrom)]
    for line in imports:
        line.names = [alias for alias in line.names if (alias.asname or alias.name).split(".")[0] in used]
    body: list[ast.stmt] = [*(line for line in imports if line.names), owner]
    module = ModuleType(f"sslsv.{package}.{name}")
    owner.body, owner.bases, owner.keywords, owner.decorator_list = [config_class], [], [], []
    try:
        exec(compile(ast.Module(body, []), str(file), "exec"), module.__dict__)
    except NameError as error:
        reason = f"the Config in {file} uses {error.name!r}; it may only use names that the file imports"
        raise ValueError(f"name is {name!r}, but {reason}") from error
    return getattr(module, owner.name).Config


def _folder(package: str) -> Path:
    return Path(__file__).parent.joinpath(*package.split("."))


def _check(package: str, name: str) -> None:
    if name not in names(package):
        raise ValueError(f"name is {name!r}, which is not known{nearest(name, names(package))}")


def nearest(given: str, choices: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` with the most similar choice, else `; choose one of ...`."""
    close = difflib.get_close_matches(given, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of {', '.join(map(repr, choices))}"
