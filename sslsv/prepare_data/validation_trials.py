"""Validation trials of training speakers that are set aside: the same choice at any time, on any machine."""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Utterance = tuple[str, str]  # speaker, path below data.root; its folder is its recording (a video)
Trial = tuple[bool, str, str]  # whether it is a target, enrolment, test

_MAX_UTTERANCES = 400  # of a speaker, whose pairs are listed: more give no better draw
_GENDER = re.compile(r"[\t, ]+([fmFM])[\t, ]+")


def read_genders(file: Path) -> dict[str, str]:
    """Speakers' genders, `f` or `m`, from vox1_meta.csv or vox2_meta.csv; empty without the file."""
    if not file.is_file():
        return {}
    genders = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        speaker = re.match(r"id\d{5}", line)
        gender = _GENDER.search(line)
        if speaker and gender:
            genders[speaker[0]] = gender[1].lower()
    return genders


def choose_held_out(
    utterances: Sequence[Utterance], genders: Mapping[str, str], num_speakers: int, seed: int
) -> set[str]:
    """Choose speakers to set aside, as many women as men where genders are known.

    Each speaker's rank depends on the seed and the name alone: speakers that join the corpus move no other.
    Those with a single recording make no target trial between two and come last.
    """
    recordings = defaultdict(set)
    for speaker, path in utterances:
        recordings[speaker].add(_recording_of(path))

    def rank(speaker: str) -> tuple[bool, bytes]:
        digest = hashlib.blake2b(f"{seed}/{speaker}".encode(), digest_size=8).digest()
        return len(recordings[speaker]) < 2, digest

    ranked = sorted(recordings, key=rank)
    women = [speaker for speaker in ranked if genders.get(speaker) == "f"]
    men = [speaker for speaker in ranked if genders.get(speaker) == "m"]
    half = min(num_speakers // 2, len(women), len(men))
    chosen = [*women[:half], *men[:half]]
    rest = [speaker for speaker in ranked if speaker not in chosen]
    return {*chosen, *rest[: num_speakers - len(chosen)]}


def draw_trials(
    utterances: Sequence[Utterance], genders: Mapping[str, str], num_trials: int, seed: int
) -> list[Trial]:
    """Draw as many targets as nontargets, every speaker about equally often, no pair twice.

    Targets are of two recordings where a speaker has two. Half of the nontargets are of one gender and half
    of both, where genders are known. Fewer than asked for come where there are not enough pairs. Raises
    ValueError with fewer than two speakers, or when no speaker has two utterances.
    """
    of_speaker: dict[str, list[str]] = defaultdict(list)
    for speaker, path in sorted(utterances):
        of_speaker[speaker].append(path)
    if len(of_speaker) < 2:
        raise ValueError(f"Validation trials need 2 speakers or more, got {len(of_speaker)}.")
    rng = np.random.default_rng([seed, 0x7A11])
    share = -(-(num_trials // 2) // len(of_speaker))
    pools = [_target_pairs(paths, rng)[:share] for paths in of_speaker.values()]
    # One of each speaker in turn, so that a cut at the end takes from all alike.
    targets = [pair for row in itertools.zip_longest(*pools) for pair in row if pair][: num_trials // 2]
    if not targets:
        raise ValueError("Validation trials need a speaker with two utterances; there is none.")
    nontargets = _nontarget_pairs(of_speaker, genders, len(targets), rng)
    targets = targets[: len(nontargets)]
    trials = [(True, *pair) for pair in targets] + [(False, *pair) for pair in nontargets]
    return [trials[i] for i in rng.permutation(len(trials))]


def _recording_of(path: str) -> str:
    return path.rpartition("/")[0]


def _target_pairs(paths: list[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    chosen = [paths[i] for i in rng.permutation(len(paths))[:_MAX_UTTERANCES]]
    pairs = list(itertools.combinations(chosen, 2))
    between = [(a, b) for a, b in pairs if _recording_of(a) != _recording_of(b)]
    pairs = between or pairs
    return [pairs[i] for i in rng.permutation(len(pairs))]


def _nontarget_pairs(
    of_speaker: Mapping[str, list[str]], genders: Mapping[str, str], count: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    pairs = list(itertools.combinations(of_speaker, 2))
    known = [(a, b) for a, b in pairs if a in genders and b in genders]
    same = [(a, b) for a, b in known if genders[a] == genders[b]]
    cross = [(a, b) for a, b in known if genders[a] != genders[b]]
    if not same or not cross:
        return _draw_between(pairs, of_speaker, count, rng)
    drawn = _draw_between(same, of_speaker, count // 2, rng)
    return drawn + _draw_between(cross, of_speaker, count - len(drawn), rng)


def _draw_between(
    pairs: Sequence[tuple[str, str]],
    of_speaker: Mapping[str, list[str]],
    count: int,
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
    """Draw utterances of each pair of speakers in turn, no two twice; all there are when they are too few."""
    if sum(len(of_speaker[a]) * len(of_speaker[b]) for a, b in pairs) <= 4 * count:
        products = [[*itertools.product(of_speaker[a], of_speaker[b])] for a, b in pairs]
        shuffled = [[product[i] for i in rng.permutation(len(product))] for product in products]
        in_turn = [pair for row in itertools.zip_longest(*shuffled) for pair in row if pair]
        return in_turn[:count]
    drawn: dict[tuple[str, str], None] = {}
    while len(drawn) < count:
        for i in rng.permutation(len(pairs)):
            first, second = (of_speaker[speaker] for speaker in pairs[i])
            drawn.setdefault((first[rng.integers(len(first))], second[rng.integers(len(second))]))
            if len(drawn) == count:
                break
    return list(drawn)
