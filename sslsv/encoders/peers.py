"""Read the encoder weights of other projects: rename the tensors and infer the settings from the shapes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from sslsv.settings import build

# Rules `theirs=ours` for parts of dotted names, applied in turn to every name. A part that begins with ^ must
# be at the start of the name. * is a number, and in `ours` the same number. # is the rank of the match among
# all distinct matches, in numeric order. An empty `ours` drops the tensor.
Names = str

# Features in each project's recipes, where they differ from the encoder's defaults here.
_KALDI = {"kind": "kaldi", "low_hz": 20.0, "pre_emphasis": 0.97, "normalization": "mean"}
FEATURES: dict[str, dict[str, Any]] = {
    "speechbrain": {"kind": "speechbrain", "normalization": "mean"},
    "wespeaker": {**_KALDI, "full_scale": 32768.0},
    "3dspeaker": {**_KALDI, "full_scale": 1.0, "window": "povey"},
    "upstream": {},
}
# 3D-Speaker's RDINO and SDPN train a student and a teacher, on log-mel energies of 16-bit sample values.
_DISTILLED = {"window": "hann", "full_scale": 32768.0}
_UPSTREAM_WINDOW = "features_extractor.0.spectrogram.window"
_COUNTER = "num_batches_tracked"  # batch-norm counter; nothing here depends on it, and some files lack it
_FEWEST_TENSORS = 20  # minimum number of tensors of an encoder


class PeerEncoder(NamedTuple):
    """Hold the settings and weights of another project's encoder, converted to this project's names."""

    settings: dict[str, Any]
    weights: dict[str, Tensor]


class NoEncoderError(ValueError):
    """Report what is missing, as the end of a sentence; `num_matching` tensors did match."""

    def __init__(self, sentence: str, num_matching: int = 0) -> None:
        super().__init__(sentence)
        self.num_matching = num_matching


def renamed(names: Iterable[str], rules: Names) -> dict[str, str]:
    """Map each name to its new name, without dropped names; the comment at `Names` explains the rules."""
    result = {name: name for name in names}
    for rule in rules.split():
        theirs, ours = rule.split("=")
        start = "^" if theirs.startswith("^") else r"(?:^|(?<=\.))"
        pattern = start + re.escape(theirs.removeprefix("^")).replace(r"\*", r"(\d+)") + r"(?=\.|$)"
        matches = {old: match for old, name in result.items() if (match := re.search(pattern, name))}
        texts = {match[0] for match in matches.values()}
        sorted_texts = sorted(texts, key=lambda text: [int(number) for number in re.findall(r"\d+", text)])
        for old, match in matches.items():
            new = ours.replace("#", str(sorted_texts.index(match[0])))
            for number in match.groups():
                new = new.replace("*", number, 1)
            result[old] = new and result[old][: match.start()] + new + result[old][match.end() :]
    return {old: name for old, name in result.items() if name}


def find_encoders(tensors: Mapping[str, Tensor], peer: str, kinds: Iterable[Any]) -> dict[str, PeerEncoder]:
    """Return the encoders in another project's tensors, keyed by the prefix of their names ("", "encoder.").

    `kinds` are encoder classes. If there is none, raises NoEncoderError with the reason of the closest match.
    """
    encoders: dict[str, PeerEncoder] = {}
    reason = NoEncoderError("no tensor has the name of one of their layers")
    # If the network is part of another one, the names of its tensors share a prefix.
    split_names = [name.split(".") for name in tensors]
    prefixes = {"".join(f"{part}." for part in name[:i]) for name in split_names for i in range(len(name))}
    for prefix in sorted(prefixes):
        subset = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for kind in kinds if len(subset) >= _FEWEST_TENSORS else ():
            weights = {name: subset[old] for old, name in renamed(subset, kind.peer_names[peer]).items()}
            features = dict(_DISTILLED if is_distilled(peer, prefix) else FEATURES[peer])
            if _UPSTREAM_WINDOW in subset:
                features["window"] = "hann" if subset[_UPSTREAM_WINDOW][0] < 0.01 else "hamming"
            for settings in _possible_settings(kind, weights):
                settings |= {"name": kind.Config().name, "features": features | settings["features"]}
                try:
                    encoders[prefix] = PeerEncoder(settings, _fitted(weights, kind, settings))
                except NoEncoderError as error:
                    reason = max(reason, error, key=lambda each: each.num_matching)
    if not encoders:
        raise reason
    return encoders


def is_distilled(peer: str, prefix: str) -> bool:
    """Return whether a prefix of tensor names marks an encoder that 3D-Speaker trained without labels."""
    return peer == "3dspeaker" and not {"student", "teacher"}.isdisjoint(prefix.split("."))


def _possible_settings(kind: Any, weights: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    try:
        return kind.possible_settings(weights)  # type: ignore[no-any-return]
    except (KeyError, IndexError, ValueError, ZeroDivisionError):  # The weights are of another encoder.
        return []


def _fitted(weights: Mapping[str, Tensor], kind: Any, settings: dict[str, Any]) -> dict[str, Tensor]:
    name = settings["name"]
    try:
        expected = kind(build(kind.Config, settings)).state_dict()
    except ValueError as error:
        raise NoEncoderError(f"it has a size that {name} cannot have ({error})") from error
    present = [key for key in expected if key in weights]
    missing = [key for key in expected if key not in weights and not key.endswith(_COUNTER)]
    if missing:
        raise NoEncoderError(f"it lacks {len(missing)} tensors of {name}, such as {missing[0]}", len(present))
    if extra := [key for key in weights if key not in expected]:
        raise NoEncoderError(f"it has {extra[0]}, which {name} lacks", len(present))
    result = dict(expected)
    for key in present:
        # Linear layers and convolutions over one frame differ only in axes of size 1.
        if weights[key].squeeze().shape != expected[key].squeeze().shape:
            shapes = f"{tuple(weights[key].shape)}, not {tuple(expected[key].shape)}"
            raise NoEncoderError(f"its {key} has the shape {shapes} as in {name}", len(present))
        result[key] = weights[key].reshape(expected[key].shape).to(expected[key].dtype)
    return result
