"""Prepare data: download, check, extract, convert and list the corpora, or make lists of your own recordings.

`sslsv prepare_data data/` does everything for VoxCeleb1, VoxCeleb2, MUSAN and the simulated rooms.
`sslsv prepare_data COMMAND --help` explains a command.  Repeat an interrupted command to continue where
it stopped.
"""

import argparse
import difflib
import importlib
import io
import sys
from pathlib import Path

from sslsv.prepare_data.disk import sentence_of
from sslsv.runs.folder import is_uri
from sslsv.settings import command_name

# Each command is a module of this name, with `add_arguments(parser)` and `run(options)` -> exit status.
COMMANDS = {
    "all": "prepare VoxCeleb1, VoxCeleb2, MUSAN, rooms and all lists (default if only FOLDER is given)",
    "folder": "make lists of any folder of recordings",
    "convert": "copy a folder at 16 kHz, mono, also m4a and other compressed files",
    "check": "read every file and report bad files",
    "pack": "pack a corpus into a few large files",
    "demo": "write synthetic speakers, noises and rooms in VoxCeleb's layout",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0 when done, 1 if bad files are left out, 2 on an error, 130 on Ctrl-C."""
    args = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # file names may be invalid UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not args or args[0] in ("-h", "--help"):
        commands = "\n".join(f"  {name:<8} {purpose}" for name, purpose in COMMANDS.items())
        print(f"usage: {command_name('prepare_data')} [COMMAND] FOLDER [options]\n\n{__doc__}\n{commands}")
        return 0 if args else 2
    try:
        command, rest = (args[0], args[1:]) if args[0] in COMMANDS else ("all", args)
        matches = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and matches and not Path(args[0]).exists():
            raise ValueError(f"'{args[0]}' is neither a command nor a folder; did you mean '{matches[0]}'?")
        if uri := next(filter(is_uri, rest), None):
            raise ValueError(f"{uri} is not a local folder: give one, and copy it there when done.")
        module = importlib.import_module(f"sslsv.prepare_data.{command}")
        parser = argparse.ArgumentParser(
            f"{command_name('prepare_data')} {command}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(rest)))
    except (ValueError, OSError) as error:
        print(f"error: {sentence_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
