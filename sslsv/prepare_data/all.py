"""Download, check, extract and convert VoxCeleb1, VoxCeleb2, MUSAN and the simulated rooms; write all lists.

FOLDER becomes data.root.  What is complete is left as it is, so the same command goes on after any
interruption; a set that can't be had does not keep the others back.
"""

import argparse
import importlib
import sys

from sslsv.prepare_data.disk import sentence_of
from sslsv.prepare_data.lists import add_list_arguments
from sslsv.prepare_data.supply import add_supply_arguments
from sslsv.prepare_data.voxceleb2 import add_conversion_arguments

# Small ones first: what is wrong with an address or the access shows within minutes.
STEPS = ("trials", "rirs", "musan", "voxceleb1", "voxceleb2", "lists")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data all` takes: the options of all its steps."""
    add_supply_arguments(parser)
    add_conversion_arguments(parser)
    add_list_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Run every step; returns 2 if one of them stopped, 1 if one left bad files out."""
    status = 0
    for name in STEPS:
        try:
            step_status = importlib.import_module(f"sslsv.prepare_data.{name}").run(options)
        except (ValueError, OSError) as error:
            print(f"error: {name}: {sentence_of(error)}", file=sys.stderr)
            step_status = 2
        status = max(status, step_status)
    state = ("is complete", "lacks the files named above", "is not complete: see the errors above")[status]
    print(f"{options.folder} {state}.")
    return status
