"""Download, check, extract, convert and list VoxCeleb1, VoxCeleb2, MUSAN and the simulated rooms.

FOLDER becomes data.root.  Complete sets are left unchanged, so the same command continues after any
interruption.  If a set can't be obtained, the others are still prepared.  The steps (--only selects some):

trials     VoxCeleb1's cleaned test lists: voxceleb1_test_O (also named `trials`), _E and _H.  E and H contain
           speakers of VoxCeleb1's training list, so use them only for models trained on VoxCeleb2.
rirs       simulated room impulse responses (OpenSLR 28, 1.3 GB), into FOLDER/simulated_rirs
musan      MUSAN (11 GB), cut into pieces of 8 s below FOLDER/musan_split, without losing a sample
voxceleb1  30 GB of WAV
voxceleb2  its development part: 73 GB of AAC, converted on all CPUs to 16-bit WAV (some 270 GB) or FLAC
           (some 160 GB)
lists      voxceleb1_train_list, voxceleb2_train_list (`speaker path`, without the 40 test speakers) and
           validation trials of held-out speakers (`1|0 enrol test`)

Archives are read in place, complete or in parts.  If you have extracted a corpus already, link its folder to
FOLDER/voxceleb1 or voxceleb2 (with speakers in it, or wav/, dev/aac/ ... as archives unpack), musan_split or
simulated_rirs, or leave musan/ and RIRS_NOISES/ below FOLDER.  Linked folders are only read.  For a VoxCeleb2
of m4a files: `prepare_data convert /my/aac --out FOLDER/voxceleb2`, then --only lists.
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

# Small sets come first, so that a wrong address or a refused access shows within minutes.
STEPS: dict[str, Callable[[argparse.Namespace], int]] = {
    "trials": corpora.prepare_trials,
    "rirs": partial(install, "rirs", "simulated_rirs", corpora.extract_rirs),
    "musan": partial(install, "musan", "musan_split", corpora.cut_musan),
    "voxceleb1": partial(install, "voxceleb1", "voxceleb1", corpora.extract_voxceleb1),
    "voxceleb2": partial(install, "voxceleb2", "voxceleb2", corpora.convert_voxceleb2),
    "lists": corpora.prepare_lists,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prepare_data all`."""
    add = parser.add_argument
    add("folder", type=Path, help="becomes data.root; downloads go into FOLDER/archives")
    add("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP", help="run only these steps")
    archives = "folder of archives that you have already (may be repeated)"
    add("--from", type=Path, dest="given", action="append", default=[], metavar="DIR", help=archives)
    add("--sources", type=Path, default=SOURCES, metavar="YAML", help="an edited copy of sources.yml")
    add_conversion_arguments(parser)
    held_out = "speakers of each corpus held out for validation (default: a twentieth, 10 to 100; 0: none)"
    add("--held-out-speakers", type=int, metavar="N", help=held_out)
    add("--seed", type=int, default=0, help="selects the speakers and trials (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the steps; return 2 if one of them failed, 1 if one left bad files out, else 0."""
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
