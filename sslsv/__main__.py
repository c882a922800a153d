"""Run a command with `sslsv COMMAND ...` or `python -m sslsv COMMAND ...`; list all commands with `sslsv`.

Each command is a file in this folder: `sslsv train` is the same as `python -m sslsv.train`.
Exit codes: 0 done, 1 failed after the start, 2 the request can't be met, 130 interrupted.
"""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

from sslsv import __version__
from sslsv.registry import nearest


def main(arguments: list[str] | None = None) -> int:
    """Run one command, list all of them, or print the version; returns the exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-V", "--version"):
        print(f"sslsv {__version__}")
        return 0
    purposes = commands()
    if name in ("-h", "--help"):
        print("usage: sslsv COMMAND ...    (sslsv COMMAND --help explains one; sslsv --version)\n")
        for command, purpose in purposes.items():
            print(f"  {command:<{max(map(len, purposes))}}   {purpose}")
        return 0
    if name not in purposes:
        print(f"error: {name!r} is no command{nearest(name, list(purposes))}", file=sys.stderr)
        return 2
    return int(module_of(name).main(rest))


def module_of(command: str) -> ModuleType:
    """Import the file of a command."""
    is_package = (Path(__file__).parent / command).is_dir()
    return importlib.import_module(f"sslsv.{command}{'.__main__' if is_package else ''}")


def commands() -> dict[str, str]:
    """Return command -> purpose, taken from the first line of each command's file, without importing it."""
    folder, purposes = Path(__file__).parent, {}
    for file in sorted([*folder.glob("[!_]*.py"), *folder.glob("*/__main__.py")]):
        text = file.read_text(encoding="utf-8")
        if '\nif __name__ == "__main__":\n' in text:
            first_line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
            name = file.parent.name if file.stem == "__main__" else file.stem
            purposes[name] = first_line.partition("`")[0].rstrip(" :.")
    return dict(sorted(purposes.items()))


if __name__ == "__main__":
    sys.exit(main())
