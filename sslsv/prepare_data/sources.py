"""Where the corpora come from: addresses and md5 sums, and how a user replaces them."""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

_VOXCELEB = "https://thor.robots.ox.ac.uk/~vgg/data/voxceleb/vox1a/"
_VOXCELEB_META = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"
_OPENSLR = "https://www.openslr.org/resources/"

HOW_TO_GET = {
    "voxceleb": (
        "Access to VoxCeleb is requested at https://mm.kaist.ac.kr/datasets/voxceleb/ (what you receive goes "
        "into --user and SSLSV_VOXCELEB_PASSWORD, SSLSV_VOXCELEB_TOKEN or ~/.netrc; addresses into "
        "--url voxceleb=...)"
    ),
    "trials": "The lists are described at https://mm.kaist.ac.kr/datasets/voxceleb/",
    "openslr": "Mirrors are listed at https://www.openslr.org",
}


@dataclass(frozen=True)
class Remote:
    """A file on a server."""

    name: str
    url: str  # may hold {token}, which is filled in for the request alone: never shown, never stored
    md5: str | None  # None: can't be checked
    host: str  # key of HOW_TO_GET; credentials go to `voxceleb` alone


@dataclass(frozen=True)
class Archive:
    """A zip or tar.gz, in one piece or in parts that are joined by reading them one after the other."""

    name: str
    md5: str | None  # of the whole
    parts: tuple[Remote, ...]


def _voxceleb_archive(name: str, md5: str, stem: str = "", parts: Sequence[str] = ()) -> Archive:
    pieces = tuple(
        Remote(f"{stem}_parta{letter}", f"{_VOXCELEB}{stem}_parta{letter}", part_md5, "voxceleb")
        for letter, part_md5 in zip("abcdefgh", parts, strict=False)
    )
    return Archive(name, md5, pieces or (Remote(name, _VOXCELEB + name, md5, "voxceleb"),))


def _single(name: str, url: str, md5: str | None, host: str) -> Archive:
    return Archive(name, md5, (Remote(name, url, md5, host),))


ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "voxceleb1": (
        _voxceleb_archive(
            "vox1_dev_wav.zip",
            "ae63e55b951748cc486645f532ba230b",
            "vox1_dev_wav",
            (
                "e395d020928bc15670b570a21695ed96",
                "bbfaaccefab65d82b21903e81a8a8020",
                "017d579a2a96a077f40042ec33e51512",
                "7bb1e9f70fddc7a678fa998ea8b3ba19",
            ),
        ),
        _voxceleb_archive("vox1_test_wav.zip", "185fdc63c3c739954633d50379a3d102"),
    ),
    "voxceleb2": (
        _voxceleb_archive(
            "vox2_dev_aac.zip",
            "bbc063c46078a602ca71605645c2a402",
            "vox2_dev_aac",
            (
                "da070494c573e5c0564b1d11c3b20577",
                "17fe6dab2b32b48abaf1676429cdd06f",
                "1de58e086c5edf63625af1cb6d831528",
                "5a043eb03e15c5a918ee6a52aad477f9",
                "cea401b624983e2d0b2a87fb5d59aa60",
                "fc886d9ba90ab88e7880ee98effd6ae9",
                "d160ecc3f6ee3eed54d55349531cb42e",
                "6b84a81b9af72a9d9eecbb3b1f602e65",
            ),
        ),
    ),
    "musan": (
        _single("musan.tar.gz", f"{_OPENSLR}17/musan.tar.gz", "0c472d4fc0c5141eca47ad1ffeb2a7df", "openslr"),
    ),
    "rirs": (
        _single(
            "rirs_noises.zip", f"{_OPENSLR}28/rirs_noises.zip", "e6f48e257286e05de56413b4779d8ffb", "openslr"
        ),
    ),
    "trials": (
        _single("veri_test2.txt", f"{_VOXCELEB_META}veri_test2.txt", None, "trials"),
        _single("list_test_all2.txt", f"{_VOXCELEB_META}list_test_all2.txt", None, "trials"),
        _single("list_test_hard2.txt", f"{_VOXCELEB_META}list_test_hard2.txt", None, "trials"),
    ),
    "genders": (
        _single("vox1_meta.csv", f"{_VOXCELEB_META}vox1_meta.csv", None, "trials"),
        _single("vox2_meta.csv", f"{_VOXCELEB_META}vox2_meta.csv", None, "trials"),
    ),
}

_GROUPS = {"voxceleb": ("voxceleb1", "voxceleb2"), **{name: (name,) for name in ARCHIVES}}


@dataclass(frozen=True)
class Replacement:
    """Another address, or another md5 sum, for one file or for all files of a set."""

    url: str | None = None
    md5: str | None = None
    has_md5: bool = False


def archives_of(set_name: str, replacements: dict[str, Replacement]) -> tuple[Archive, ...]:
    """The archives of a set, with the user's addresses and md5 sums; those of a file go before its set's."""
    groups = [name for name, members in _GROUPS.items() if set_name in members]

    def replaced(remote: Remote) -> Remote:
        for name in (*groups, remote.name):
            given = replacements.get(name)
            if given is None:
                continue
            if given.url is not None:
                remote = replace(remote, url=_address(given.url, remote.name, is_set=name in groups))
            if given.has_md5:
                remote = replace(remote, md5=given.md5)
        return remote

    found = []
    for archive in ARCHIVES[set_name]:
        parts = tuple(replaced(part) for part in archive.parts)
        whole = replacements.get(archive.name)
        has_other_parts = any(new.md5 != old.md5 for new, old in zip(parts, archive.parts, strict=True))
        md5 = whole.md5 if whole and whole.has_md5 else None if has_other_parts else archive.md5
        found.append(replace(archive, md5=md5, parts=parts))
    return tuple(found)


def _address(url: str, name: str, *, is_set: bool) -> str:
    if "{name}" in url:
        return url.replace("{name}", name)
    return f"{url.rstrip('/')}/{name}" if is_set else url


def parse_replacements(
    addresses: Sequence[str], file: str | os.PathLike[str] | None
) -> dict[str, Replacement]:
    """Read `NAME=URL` options and a yaml of `NAME: URL` or `NAME: {url: ..., md5: ...}`; options win.

    NAME is a file (vox2_dev_aac_partaa), an archive (for its md5) or a set (voxceleb1, musan ...; voxceleb is
    both). Raises ValueError for an unknown name or a malformed entry.
    """
    found = _replacements_in(Path(file)) if file is not None else {}
    for text in addresses:
        name, separator, url = text.partition("=")
        if not separator or not url:
            raise ValueError(
                f"--url takes NAME=URL, for example voxceleb=https://host/folder; '{name}' has no =URL."
            )
        _check_name(name, "--url")
        _check_address(url, f"--url {name}")
        found[name] = replace(found.get(name, Replacement()), url=url)
    return found


def _replacements_in(file: Path) -> dict[str, Replacement]:
    try:
        # Every value as it is written: an md5 of digits alone is no number.
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not yaml ({str(error).splitlines()[0]}); mend it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold `NAME: URL` lines, or `NAME: {{url: ..., md5: ...}}`.")
    found = {}
    for name, entry in content.items():
        _check_name(str(name), str(file))
        values = {"url": entry} if isinstance(entry, str) else entry
        if not isinstance(values, dict) or set(values) - {"url", "md5"}:
            raise ValueError(f"{file}: {name} must be an address, or a mapping with `url` and `md5` alone.")
        if values.get("url") is not None:
            _check_address(values["url"], f"{file}: {name}")
        md5 = None if values.get("md5") in (None, "null", "~", "") else str(values["md5"]).lower()
        if md5 is not None and not re.fullmatch(r"[0-9a-f]{32}", md5):
            raise ValueError(f"{file}: the md5 of {name} is {md5!r}; it has 32 digits 0 .. f, or is null.")
        found[str(name)] = Replacement(values.get("url"), md5, "md5" in values)
    return found


def _check_address(url: object, place: str) -> None:
    # The address is not shown: it may hold a password.
    if not isinstance(url, str) or not re.match(r"https?://[^/\s]", url):
        raise ValueError(f"{place} has no address of a server: it must begin with http:// or https://.")


def _check_name(name: str, place: str) -> None:
    known = list(_GROUPS)
    for archive in (archive for archives in ARCHIVES.values() for archive in archives):
        known += [archive.name, *(part.name for part in archive.parts)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"sets are {', '.join(_GROUPS)}."
        raise ValueError(f"{place}: there is no file or set '{name}'; {hint}")
