"""Write the lists of FOLDER: voxceleb1_train_list and voxceleb2_train_list, and validation trials for each.

Training lists hold `speaker path` lines of what is there, without the 40 test speakers of VoxCeleb1 and
without the speakers set aside for voxceleb1_validation_trials and voxceleb2_validation_trials (`1|0 enrol
test` lines, for evaluation.validation).  A list that says something else already is kept as NAME.old.
"""

import argparse
import os
from pathlib import Path

from sslsv.data.audio import find_audio
from sslsv.prepare_data.disk import write_list
from sslsv.prepare_data.validation_trials import Trial, Utterance, choose_held_out, draw_trials, read_genders

CORPORA = {"voxceleb1": "vox1_meta.csv", "voxceleb2": "vox2_meta.csv"}
TEST_SPEAKERS = frozenset(f"id{number}" for number in range(10270, 10310))  # of VoxCeleb1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data lists` takes."""
    parser.add_argument("folder", type=Path, help="data.root, with voxceleb1/ or voxceleb2/ or both")
    add_list_arguments(parser)


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide what is in the lists."""
    add = parser.add_argument
    add(
        "--held-out-speakers",
        type=int,
        metavar="N",
        help="of each corpus, set aside for validation (default: 40, or a tenth where that is less; 0: none)",
    )
    add("--validation-trials", type=int, default=10_000, metavar="N", help="of each corpus (%(default)s)")
    add("--seed", type=int, default=0, help="of the choice (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write the lists of each corpus that is there; raises ValueError when none is."""
    if options.validation_trials < 2:
        raise ValueError(
            f"--validation-trials is {options.validation_trials}; it must be 2 or more (no trials at all: "
            "--held-out-speakers 0)."
        )
    corpora = [corpus for corpus in CORPORA if (options.folder / corpus).is_dir()]
    if not corpora:
        raise ValueError(
            f"{options.folder} has neither voxceleb1/ nor voxceleb2/; for other corpora: prepare_data folder."
        )
    for corpus in corpora:
        _write_lists(options.folder, corpus, options)
    return 0


def find_utterances(root: Path, corpus: str) -> list[Utterance]:
    """Training utterances of a corpus, sorted by path, as (speaker, path below data.root).

    What is there in two formats is one utterance.
    """
    found: dict[str, Utterance] = {}
    for path in find_audio(root / corpus):
        place = os.path.relpath(path, root)
        speaker = place.split(os.sep)[1]
        if speaker not in TEST_SPEAKERS and not os.path.basename(place).startswith("."):
            found.setdefault(os.path.splitext(place)[0], (speaker, place))
    return list(found.values())


def _write_lists(root: Path, corpus: str, options: argparse.Namespace) -> None:
    utterances = find_utterances(root, corpus)
    speakers = {speaker for speaker, _ in utterances}
    num_held_out = options.held_out_speakers
    if num_held_out is None:
        num_held_out = min(40, len(speakers) // 10)
        num_held_out = num_held_out if num_held_out >= 2 else 0
    if not utterances:
        print(f"{root / corpus} has no training recordings yet: no list of it is written.")
        return
    if num_held_out < 0 or num_held_out == 1 or num_held_out >= len(speakers):
        raise ValueError(
            f"--held-out-speakers is {num_held_out}, but {corpus} has {len(speakers)} training speakers: "
            "give 0, or 2 or more and fewer than there are."
        )
    genders = read_genders(root / CORPORA[corpus])
    held_out = choose_held_out(utterances, genders, num_held_out, options.seed) if num_held_out else set()
    kept = [(speaker, path) for speaker, path in utterances if speaker not in held_out]
    trials: list[Trial] = []
    if held_out:  # before anything is written: what can't be drawn must not leave a train list without them
        rows = [(speaker, path) for speaker, path in utterances if speaker in held_out]
        trials = draw_trials(rows, genders, options.validation_trials, options.seed)
    text = "".join(f"{speaker} {path}\n" for speaker, path in kept)
    state = write_list(root / f"{corpus}_train_list", text)
    print(f"{state} ({len(kept):,} utterances of {len(speakers) - len(held_out):,} speakers).")
    if held_out:
        text = "".join(f"{int(is_target)} {enrol} {test}\n" for is_target, enrol, test in trials)
        state = write_list(root / f"{corpus}_validation_trials", text)
        kinds = "of one and of both genders" if genders else "genders unknown"
        print(f"{state} ({len(trials):,} trials of {len(held_out)} speakers that are set aside; {kinds}).")
