"""Download, check, extract, convert and list VoxCeleb1, VoxCeleb2, MUSAN and the simulated rooms.

FOLDER becomes data.root.  What is complete is left as it is, so the same command goes on after any
interruption; a set that can't be had does not keep the others back.  The steps (--only takes some of them):

trials     VoxCeleb1's cleaned test lists: voxceleb1_test_O (and `trials`), _E and _H.  E and H hold speakers
           of VoxCeleb1's own training list: evaluate on them what was trained on VoxCeleb2 alone.
rirs       simulated room impulse responses (OpenSLR 28, 1.3 GB), into FOLDER/simulated_rirs
musan      MUSAN (11 GB), cut into pieces of 8 s below FOLDER/musan_split, without loss of a sample
voxceleb1  30 GB of WAV
voxceleb2  its development part, 73 GB of AAC, to 16-bit WAV (some 270 GB) or FLAC (some 160 GB) on all CPUs
lists      voxceleb1_train_list, voxceleb2_train_list (`speaker path`, without the 40 test speakers) and
           validation trials of speakers that are set aside (`1|0 enrol test`)

Archives are read where they lie, in parts or whole.  Corpora that you have extracted already: link the folder
to FOLDER/voxceleb1 or voxceleb2 (with speakers in it, or wav/, dev/aac/ ... as archives unpack), musan_split
or simulated_rirs, or leave musan/ and RIRS_NOISES/ below FOLDER; links are only read.  A VoxCeleb2 of m4a
files: `prepare_data convert /my/aac --out FOLDER/voxceleb2`, then --only lists.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sslsv.prepare_data import corpora
from sslsv.prepare_data.convert import add_conversion_arguments
from sslsv.prepare_data.disk import sentence_of
from sslsv.prepare_data.download import SOURCES, install

# Small ones first: a wrong address or a refused access shows within minutes.
STEPS: dict[str, Callable[[argparse.Namespace], int]] = {
    "trials": corpora.prepare_trials,
    "rirs": partial(install, "rirs", "simulated_rirs", corpora.extract_rirs),
    "musan": partial(install, "musan", "musan_split", corpora.cut_musan),
    "voxceleb1": partial(install, "voxceleb1", "voxceleb1", corpora.extract_voxceleb1),
    "voxceleb2": partial(install, "voxceleb2", "voxceleb2", corpora.convert_voxceleb2),
    "lists": corpora.prepare_lists,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data all` takes."""
    add = parser.add_argument
    add("folder", type=Path, help="becomes data.root; downloads go into FOLDER/archives")
    add("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help="some of the steps")
    archives = "archives that you have (may be repeated)"
    add("--from", type=Path, dest="given", action="append", default=[], metavar="DIR", help=archives)
    add("--sources", type=Path, default=SOURCES, metavar="YAML", help="a copy of sources.yml, edited")
    add_conversion_arguments(parser)
    held_out = "speakers set aside for validation, of each corpus (default: a twentieth, 10 to 100; 0: none)"
    add("--held-out-speakers", type=int, metavar="N", help=held_out)
    add("--seed", type=int, default=0, help="decides which speakers and trials (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the steps; returns 2 if one of them stopped, 1 if one left bad files out."""
    status = 0
    for name, prepare in STEPS.items():
        try:
            status = max(status, prepare(options) if name in options.only else 0)
        except (ValueError, OSError) as error:
            print(f"error: {name}: {sentence_of(error)}", file=sys.stderr)
            status = 2
    done = "is complete" if set(options.only) == set(STEPS) else f"has these steps: {', '.join(options.only)}"
    state = (done, "lacks the files named above", "is not complete: see the errors above")[status]
    print(f"{options.folder} {state}.")
    return status
