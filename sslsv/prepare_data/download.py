"""Archives of the corpora: found in the user's folders or downloaded, continued where a transfer stopped.

A download is NAME.part until it is complete and its md5 is right; then it gets its name.
"""

import argparse
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock
import requests
import tenacity
import urllib3

from sslsv.prepare_data.disk import check_room, naming_full_disk, progress, readable_bytes
from sslsv.settings import parse_yaml

SOURCES = Path(__file__).with_name("sources.yml")
_CHUNK_BYTES = 2**20
_TIMEOUTS_SECONDS = (15.0, 60.0)  # to connect, and without a byte
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(OSError):
    """A file that can't be had; the message says why and how to go on."""


class _BrokenOff(Exception):
    """A transfer that stopped; what has arrived is good, and another try may bring the rest."""


_PASSING = (requests.RequestException, urllib3.exceptions.HTTPError, _BrokenOff)


@dataclass(frozen=True)
class Remote:
    """A file on a server."""

    name: str
    url: str  # may hold a secret: never shown
    md5: str | None  # None: can't be checked
    takes_secrets: bool
    how_to_get: str = ""


@dataclass(frozen=True)
class Supply:
    """Where archives are looked for and put."""

    root: Path  # data.root
    archives: Path
    given: tuple[Path, ...]  # the user's own folders: only read
    sets: dict[str, dict[str, list[Remote]]]  # set -> archive -> its parts
    tries: int


def add_supply_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that needs archives."""
    add = parser.add_argument
    add("folder", type=Path, help="becomes data.root")
    given: dict[str, Any] = {"dest": "given", "action": "append", "default": [], "metavar": "DIR"}
    add("--from", type=Path, **given, help="archives or extracted corpora that you have (may be repeated)")
    add("--archives", type=Path, metavar="DIR", help="where downloads go (default: FOLDER/archives)")
    add("--sources", type=Path, default=SOURCES, metavar="YAML", help="a copy of sources.yml, edited")
    add("--tries", type=int, default=6, help="tries of a file, one after another in vain (%(default)s)")


def supply_of(options: argparse.Namespace) -> Supply:
    """Check the options of `add_supply_arguments`; raises ValueError or FileNotFoundError."""
    for folder in options.given:
        if not folder.is_dir():
            raise FileNotFoundError(f"--from {folder} is not a folder.")
    if options.tries < 1:
        raise ValueError(f"--tries is {options.tries}; it must be 1 or more.")
    sets = read_sources(options.sources)
    archives = options.archives or options.folder / "archives"
    return Supply(options.folder, archives, tuple(options.given), sets, options.tries)


def read_sources(file: Path = SOURCES) -> dict[str, dict[str, list[Remote]]]:
    """Return the parts of the archives of every set; ValueError for a file of another form than `SOURCES`."""
    content = parse_yaml(file.read_text(encoding="utf-8"))
    try:
        access = content["access"]
        return {
            name: {
                archive: [
                    _remote(part, md5, each, access) for part, md5 in (parts or {archive: None}).items()
                ]
                for archive, parts in each["archives"].items()
            }
            for name, each in content["sets"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} has another form than {SOURCES}, of which it is a copy: {error!r}."
        ) from error


def _remote(name: str, md5: str | None, each: dict[str, str], access: dict[str, str]) -> Remote:
    url = each["url"].replace("{name}", name)
    if not re.match(r"https?://[^/\s]", url):  # not shown: it may hold a password
        raise ValueError(f"The address of {name} must begin with http:// or https:// and a host.")
    return Remote(name, url, md5, each["access"] == "voxceleb", access[each["access"]])


def obtain(set_name: str, supply: Supply) -> dict[str, list[Path]]:
    """Return the files of each archive of a set, by the archive's name.

    What is neither in a folder of --from nor in the archives' folder is downloaded. Raises DownloadError, or
    OSError when there is no room.
    """
    found = {}
    for name, parts in supply.sets[set_name].items():
        whole = find_file(name, supply)
        found[name] = (
            [whole] if whole else [find_file(part.name, supply) or download(part, supply) for part in parts]
        )
    return found


def is_at_hand(set_name: str, supply: Supply) -> bool:
    """Return whether every archive of a set is there, so that nothing need be downloaded."""
    return all(
        find_file(name, supply) or all(find_file(part.name, supply) for part in parts)
        for name, parts in supply.sets[set_name].items()
    )


def find_file(name: str, supply: Supply) -> Path | None:
    """Find a file of this name in the user's folders (or one folder deeper), or in the archives' folder."""
    for folder in (*supply.given, supply.archives):
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    return None


def download(remote: Remote, supply: Supply, first_pause_seconds: float = 1.0) -> Path:
    """Bring a file into the archives' folder and return its path.

    A connection that breaks is taken up again, `tries` times without a byte between, with pauses that double.
    Raises DownloadError when the server refuses or the md5 is another, OSError when the disk is full:
    whatever has arrived stays, and the next call goes on from it.
    """
    supply.archives.mkdir(parents=True, exist_ok=True)
    part, target = supply.archives / f"{remote.name}.part", supply.archives / remote.name

    def receive() -> None:
        while True:
            size = _size(part)
            try:
                return _receive(remote, part)
            except _PASSING:
                if _size(part) <= size:
                    raise

    try:
        with filelock.FileLock(supply.archives / ".lock", timeout=0):
            tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(_PASSING),
                stop=tenacity.stop_after_attempt(supply.tries),
                wait=tenacity.wait_exponential(first_pause_seconds, max=60),
                reraise=True,
            )(receive)
    except filelock.Timeout:
        message = f"Another process is downloading into {supply.archives}; wait for it, or end it."
        raise DownloadError(message) from None
    except _PASSING as error:
        cause = str(error) if isinstance(error, _BrokenOff) else "no connection, or no answer in time"
        # The error is cut off: it may hold the address, with a secret in it.
        raise DownloadError(
            f"{remote.name} broke off {supply.tries} times ({cause} at {_server(remote)}); the "
            f"{readable_bytes(_size(part))} that came are kept: the same command goes on. {_way_on(remote)}"
        ) from None
    if remote.md5 is not None and (found := _md5(part)) != remote.md5:
        bad = part.with_suffix(".bad")
        part.replace(bad)
        raise DownloadError(
            f"{remote.name} has the md5 {found}, expected {remote.md5}: damaged on the way, or the server "
            f"has another version. It is kept as {bad}; the same command downloads it anew."
        )
    return part.replace(target)


def _receive(remote: Remote, part: Path) -> None:
    size = _size(part)
    # Positions in a Range are those of the file itself: no compression on the way.
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={size}-"}
    # Secrets are never shown, never written, never sent to other servers; without any, ~/.netrc counts.
    user, password = (os.environ.get(f"SSLSV_VOXCELEB_{name}", "") for name in ("USER", "PASSWORD"))
    auth = (user, password) if user and remote.takes_secrets else None
    options: dict[str, Any] = {"headers": headers, "auth": auth, "timeout": _TIMEOUTS_SECONDS}
    with requests.get(remote.url, stream=True, **options) as answer:
        status = answer.status_code
        if status in _BUSY:
            raise _BrokenOff(f"answer {status}")
        if status not in (200, 206, 416):
            meanings = {401: "asks for a password or token", 404: "has no such file", 410: "has it no more"}
            meaning = f"{meanings.get(status, 'refuses')} ({status}) for"
            raise DownloadError(f"{_server(remote)} {meaning} {remote.name}. {_way_on(remote)}")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(f"{_server(remote)} sent a web page for {remote.name}. {_way_on(remote)}")
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if status == 416 and total == str(size):
            return  # an earlier run stopped after the last byte
        if status == 200:
            size, total = 0, answer.headers.get("Content-Length", "")
        elif span.partition("-")[0] != str(size):
            part.unlink(missing_ok=True)
            raise _BrokenOff("the file on the server has changed")
        length = int(total) if total.isdigit() else None
        check_room(part.parent, (length or 0) - size, f"Downloading {remote.name}")
        bar = progress(f"download {remote.name}", length, "B", size)
        with bar, naming_full_disk(part.parent), part.open("ab" if size else "wb") as file:
            while chunk := answer.raw.read(_CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                file.flush()
                size += len(chunk)
                bar.update(len(chunk))
    if length is not None and size != length:
        raise _BrokenOff(f"{size} of {length} bytes came")


def _server(remote: Remote) -> str:
    # Not the whole address: a user and password may stand before the host.
    return urlsplit(remote.url).netloc.rpartition("@")[2]


def _way_on(remote: Remote) -> str:
    return f"{remote.how_to_get}. With archives or folders that you have already: --from DIR."


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()
