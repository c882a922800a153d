"""Download, check, extract and convert VoxCeleb1, VoxCeleb2, MUSAN and the simulated rooms; write all lists.

FOLDER becomes data.root.  What is complete is left as it is, so the same command goes on after any
interruption; a set that can't be had does not keep the others back.  Corpora that you have extracted already:
link them (FOLDER/voxceleb1, voxceleb2, musan_split, simulated_rirs), and they are taken as they are.
"""

import argparse
import sys

from sslsv.prepare_data import noises, voxceleb
from sslsv.prepare_data.convert import add_conversion_arguments
from sslsv.prepare_data.download import add_source_arguments

# Small ones first: a wrong address or a refused access shows within minutes.
_STEPS = {"trials": voxceleb, "rirs": noises, "musan": noises}
_STEPS |= {"voxceleb1": voxceleb, "voxceleb2": voxceleb, "lists": voxceleb}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data all` takes: the options of all its steps."""
    add_source_arguments(parser)
    add_conversion_arguments(parser)
    voxceleb.add_list_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run every step; returns 2 if one of them stopped, 1 if one left bad files out."""
    status = 0
    for name, module in _STEPS.items():
        try:
            status = max(status, module.run(argparse.Namespace(**{**vars(options), "command": name})))
        except (ValueError, OSError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            status = 2
    state = ("is complete", "lacks the files named above", "is not complete: see the errors above")[status]
    print(f"{options.folder} {state}.")
    return status
