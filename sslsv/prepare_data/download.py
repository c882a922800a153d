"""Find the archives of the corpora in the user's folders, or download them; broken transfers are resumed.

A download is called NAME.part until it is complete and its md5 is correct.
"""

import argparse
import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import requests
import urllib3

from sslsv.data.section import ORIGINAL_FOLDERS
from sslsv.prepare_data.disk import check_space, progress, readable_bytes
from sslsv.settings import parse_yaml

SOURCES = Path(__file__).with_name("sources.yml")
_CHUNK_BYTES = 2**20
_TIMEOUTS_SECONDS = (15.0, 60.0)  # for connecting, and between two bytes
_TRIES = 6
_FIRST_PAUSE_SECONDS = 1.0
_BUSY = {408, 425, 429, 500, 502, 503, 504}


Archives = dict[str, list[Path]]  # name of an archive -> its file or its parts


class _Stopped(Exception):
    """Report a transfer that stopped; another try may succeed, and continues from the bytes received."""


_TRANSIENT = (requests.RequestException, urllib3.exceptions.HTTPError, _Stopped)


@dataclass(frozen=True)
class Remote:
    """Describe a file on a server."""

    name: str
    url: str  # may hold a secret, so it is never shown
    md5: str | None  # None: not checked
    takes_secrets: bool
    how_to_get: str = ""


def install(
    set_name: str,
    folder_name: str,
    unpack: Callable[[Archives, Path, argparse.Namespace], bool],
    options: argparse.Namespace,
) -> int:
    """Obtain a set's archives and unpack them below data.root, unless done already; return the exit status.

    A folder that is a link, or holds links, belongs to the user and is left unchanged. `unpack` gets the
    archives, the folder and the options, and returns whether all files exist now.
    """
    folder = options.folder / folder_name
    original = options.folder / ORIGINAL_FOLDERS.get(folder_name, folder_name)
    if original != folder and original.is_dir() and not folder.exists():
        print(f"{folder_name}: not needed, {original} is read as it is.")
        return 0
    marker = folder / ".complete"
    is_linked = folder.is_symlink() or (folder.is_dir() and any(map(Path.is_symlink, folder.iterdir())))
    if is_linked or marker.exists():
        state = "your own linked folder is used" if is_linked else "all files are in place"
        print(f"{folder_name}: {state}.")
        return 0
    if not unpack(obtain(set_name, options), folder, options):
        return 1
    marker.touch()
    print(f"{folder_name}: all files are in place; its archives are no longer needed.")
    return 0


def obtain(set_name: str, options: argparse.Namespace) -> Archives:
    """Return the files of each archive of a set, by the archive's name.

    Files that no --from folder has are downloaded. Raises OSError if that fails or there is no space.
    """
    for folder in options.given:
        if not folder.is_dir():
            raise FileNotFoundError(f"--from {folder} is not a folder.")
    downloads = options.folder / "archives"
    folders = (*options.given, downloads)
    archives = {}
    for name, parts in read_sources(set_name, options.sources).items():
        single = _find(name, folders)
        # lazy: downloads only without `single`
        files = (_find(part.name, folders) or download(part, downloads) for part in parts)
        archives[name] = [single] if single else list(files)
    return archives


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    """Return the first file of this name in the folders or their direct subfolders, or None."""
    candidates = (path for folder in folders for path in (folder / name, *sorted(folder.glob(f"*/{name}"))))
    return next(filter(Path.is_file, candidates), None)


def read_sources(set_name: str, file: Path = SOURCES) -> dict[str, list[Remote]]:
    """Return the parts of each archive of a set; ValueError if `file` has another form than `SOURCES`."""
    content = parse_yaml(file.read_text(encoding="utf-8"))
    try:
        entry = content["sets"][set_name]
        if not re.match(r"https?://[^/\s]", entry["url"]):  # the url is not shown: it may hold a password
            raise ValueError(f"{file}: the url of {set_name} must begin with http:// or https:// and a host.")
        takes_secrets, how_to_get = entry["access"] == "voxceleb", content["access"][entry["access"]]
        return {
            archive: [
                Remote(part, entry["url"].replace("{name}", part), md5, takes_secrets, how_to_get)
                for part, md5 in (parts or {archive: None}).items()
            ]
            for archive, parts in entry["archives"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} has another form than {SOURCES}: {error!r}.") from error


def download(remote: Remote, folder: Path) -> Path:
    """Download a file into a folder and return its path.

    A broken transfer is resumed, with pauses that double, until six tries in a row bring no byte. Raises
    OSError if the server refuses, the disk is full (the next call resumes the file), or the md5 differs (the
    file is kept as NAME.bad, and the next call starts again).
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{remote.name}.part"
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            _receive_all(remote, part)
    except filelock.Timeout:
        message = f"Another process is downloading into {folder}; wait for it, or end it."
        raise OSError(message) from None
    if remote.md5 is not None and (md5 := _md5(part)) != remote.md5:
        bad = part.with_suffix(".bad")
        part.replace(bad)
        raise OSError(
            f"{remote.name} has the md5 {md5}, expected {remote.md5}: damaged on the way, or the server "
            f"has another version. It is kept as {bad}; the same command downloads it anew."
        )
    return part.replace(folder / remote.name)


def _receive_all(remote: Remote, part: Path) -> None:
    tries = 0
    while True:
        size = _size(part)
        try:
            return _receive(remote, part)
        except _TRANSIENT as error:
            tries = 1 if _size(part) > size else tries + 1
            if tries >= _TRIES:
                cause = str(error) if isinstance(error, _Stopped) else "no connection, or no answer in time"
                # The original error is dropped: it may hold the address, with a secret in it.
                raise OSError(
                    f"{remote.name} broke off {_TRIES} times ({cause} at {_server(remote)}); the "
                    f"{readable_bytes(_size(part))} received are kept: the same command goes on. "
                    f"{_advice(remote)}"
                ) from None
        time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (tries - 1))


def _receive(remote: Remote, part: Path) -> None:
    size = _size(part)
    # A Range counts bytes of the file itself, so the transfer must not be compressed.
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={size}-"}
    # Secrets are never shown, written or sent to other servers; without any, requests reads ~/.netrc.
    user, password = (os.environ.get(f"SSLSV_VOXCELEB_{name}", "") for name in ("USER", "PASSWORD"))
    auth = (user, password) if user and remote.takes_secrets else None
    with requests.get(
        remote.url, stream=True, headers=headers, auth=auth, timeout=_TIMEOUTS_SECONDS
    ) as response:
        status = response.status_code
        if status in _BUSY:
            raise _Stopped(f"answer {status}")
        if status not in (200, 206, 416):
            meaning = f"refuses {remote.name}: {status} {response.reason}"
            raise OSError(f"{_server(remote)} {meaning}. {_advice(remote)}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise OSError(f"{_server(remote)} sent a web page for {remote.name}. {_advice(remote)}")
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if status == 416 and total == str(size):
            return  # an earlier run stopped after the last byte
        if status == 200:
            size, total = 0, response.headers.get("Content-Length", "")
        elif span.partition("-")[0] != str(size):
            part.unlink(missing_ok=True)
            raise _Stopped("the file on the server has changed")
        length = int(total) if total.isdigit() else None
        check_space(part.parent, (length or 0) - size, f"Downloading {remote.name}")
        bar = progress(f"download {remote.name}", length, "B", size)
        with bar, part.open("ab" if size else "wb") as file:
            while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                file.flush()
                size += len(chunk)
                bar.update(len(chunk))
    if length is not None and size != length:
        raise _Stopped(f"{size} of {length} bytes arrived")


def _server(remote: Remote) -> str:
    # Returns the host alone, because a user and password may stand before it.
    return urlsplit(remote.url).netloc.rpartition("@")[2]


def _advice(remote: Remote) -> str:
    return f"{remote.how_to_get}. If you have the archives already: --from DIR."


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()
