"""Prepare data: download, check, extract, convert and list the corpora, or make lists of your own recordings.

`python -m sslsv.prepare_data data/` does everything for VoxCeleb1, VoxCeleb2, MUSAN and the simulated rooms;
`python -m sslsv.prepare_data COMMAND --help` explains one step.  Every step can be
repeated: it goes on where it stopped.
"""

import argparse
import difflib
import importlib
import io
import sys
from pathlib import Path

# Command: the module beside this file and what it does.  A module has `add_arguments(parser)` and
# `run(options)`, which returns the exit status; one with several commands looks at `options.command`.
COMMANDS = {
    "all": ("all", "VoxCeleb1, VoxCeleb2, MUSAN, rooms and all lists (also when only a folder is given)"),
    "voxceleb1": ("voxceleb", "download, check and extract VoxCeleb1 (WAV)"),
    "voxceleb2": ("voxceleb", "download, check, extract and convert VoxCeleb2 (AAC to 16 kHz mono)"),
    "musan": ("noises", "download MUSAN and cut it into pieces of 8 s"),
    "rirs": ("noises", "download the simulated room impulse responses"),
    "trials": ("voxceleb", "download the VoxCeleb1 trial lists O, E and H"),
    "lists": ("voxceleb", "training lists, and validation trials of held-out training speakers"),
    "folder": ("folder", "lists of any folder of recordings"),
    "convert": ("convert", "a copy of a folder at 16 kHz, mono, also of m4a and other compressed files"),
    "check": ("check", "read every file and report bad ones"),
    "pack": ("pack", "a corpus into a few large files"),
    "demo": ("demo", "synthetic speakers, noises and rooms in VoxCeleb's layout"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns 0 when done, 1 with bad files left out, 2 after an error, 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # names of files need not be valid UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not given or given[0] in ("-h", "--help"):
        commands = "\n".join(f"  {name:<10} {purpose}" for name, (_, purpose) in COMMANDS.items())
        print(f"usage: python -m sslsv.prepare_data [COMMAND] FOLDER [options]\n\n{__doc__}\n{commands}")
        return 0 if given else 2
    try:
        command, rest = (given[0], given[1:]) if given[0] in COMMANDS else ("all", given)
        near = difflib.get_close_matches(given[0], COMMANDS, n=1)
        if given[0] not in COMMANDS and near and not Path(given[0]).exists():
            raise ValueError(f"'{given[0]}' is neither a command nor a folder; did you mean '{near[0]}'?")
        module = importlib.import_module(f"sslsv.prepare_data.{COMMANDS[command][0]}")
        parser = argparse.ArgumentParser(
            f"python -m sslsv.prepare_data {command}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(command=command)
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(rest)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
