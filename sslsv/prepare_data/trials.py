"""Download the cleaned VoxCeleb1 trial lists O (also as `trials`), E and H, and the speakers' genders.

They are written into FOLDER as voxceleb1_test_O, _E and _H: `1|0 enrol test` lines, paths below voxceleb1/.
E and H hold speakers of VoxCeleb1's own training list: evaluate on them what was trained on VoxCeleb2 alone.
"""

import argparse
import sys
from pathlib import Path

from sslsv.prepare_data.disk import write_list, write_whole
from sslsv.prepare_data.obtain import obtain
from sslsv.prepare_data.partial_file import DownloadError
from sslsv.prepare_data.supply import Supply, add_supply_arguments, supply_of

LISTS = {
    "veri_test2.txt": ("voxceleb1_test_O", "trials"),
    "list_test_all2.txt": ("voxceleb1_test_E",),
    "list_test_hard2.txt": ("voxceleb1_test_H",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data trials` takes."""
    add_supply_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write the lists; raises ValueError for a file that is no trial list."""
    supply = supply_of(options)
    _get_genders(supply)
    present = {name for names in LISTS.values() for name in names if (supply.root / name).is_file()}
    wanted = [source for source, names in LISTS.items() if not present.issuperset(names)]
    if not wanted:
        print(f"trials: {', '.join(sorted(present))} are in place.")
        return 0
    for source, (path,) in obtain("trials", supply, wanted).items():
        text = path.read_text(encoding="utf-8", errors="replace")
        check_trial_list(path, text)
        for name in LISTS[source]:
            if name not in present:
                print(f"{write_list(supply.root / name, text)} ({len(text.splitlines()):,} trials).")
    return 0


def _get_genders(supply: Supply) -> None:
    """Bring the corpora's tables of speakers: useful for validation trials, but nothing depends on them."""
    try:
        for name, (path,) in obtain("genders", supply).items():
            if not (supply.root / name).exists():
                write_whole(supply.root / name, path.read_bytes())
    except DownloadError as error:
        print(f"trials: validation trials will not know the speakers' genders. {error}", file=sys.stderr)


def check_trial_list(path: Path, text: str) -> None:
    """Raise ValueError when a file is anything but `1|0 enrol test` lines: a page of an error, say."""
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise ValueError(
                f"{path}, line {number} is no `1|0 enrol test`: {line[:80]!r}. Remove the file, and give its "
                "right address by --url or the file itself by --from."
            )
    if not lines:
        raise ValueError(f"{path} is empty; remove it to have it downloaded again.")
