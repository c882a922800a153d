"""Find archives in the user's folders or download them; each is checked by its md5 once."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from sslsv.prepare_data.archives import ArchiveError
from sslsv.prepare_data.disk import check_room, write_whole
from sslsv.prepare_data.download import download, size_on_server
from sslsv.prepare_data.progress_line import ProgressLine, readable_bytes
from sslsv.prepare_data.sources import Archive, Remote, archives_of
from sslsv.prepare_data.supply import Supply

# In the folder of archives, by path: sizes, times of change and, of what was checked, md5 sums.
_CHECKED, _DOWNLOADED = "checked.json", "downloaded.json"


def obtain(set_name: str, supply: Supply, wanted: Iterable[str] = ()) -> dict[str, list[Path]]:
    """Return the files of each archive of a set (those in `wanted`, if named), by the archive's name.

    What is neither in a folder of --from nor in the archives' folder is downloaded, several files at a time.
    Raises DownloadError, ArchiveError (another md5), or OSError when there is no room.
    """
    chosen = set(wanted)
    archives = [one for one in archives_of(set_name, supply.replacements) if not chosen or one.name in chosen]
    places: dict[str, Path] = {}
    missing: list[Remote] = []
    for archive in archives:
        whole = find_file(archive.name, supply)
        if whole is not None:
            places[archive.name] = whole
            check_md5(whole, archive.md5, supply)
            continue
        for part in archive.parts:
            found = find_file(part.name, supply)
            if found is None:
                missing.append(part)
            else:
                places[part.name] = found
                check_md5(found, part.md5, supply)
    if missing:
        _download_all(missing, supply)
    return {archive.name: _files_of(archive, places, supply) for archive in archives}


def is_at_hand(set_name: str, supply: Supply) -> bool:
    """Whether every archive of a set is there, so that nothing need be downloaded."""
    return all(
        find_file(archive.name, supply) or all(find_file(part.name, supply) for part in archive.parts)
        for archive in archives_of(set_name, supply.replacements)
    )


def find_file(name: str, supply: Supply) -> Path | None:
    """A file of this name in the user's folders (or one folder deeper), or in the archives' folder."""
    for folder in (*supply.given, supply.archives):
        if (folder / name).is_file():
            return folder / name
        found = sorted(path for path in folder.glob(f"*/{name}") if path.is_file())
        if found:
            return found[0]
    return None


def delete_sources(paths: Iterable[Path], supply: Supply) -> None:
    """Delete what was downloaded, and is as it came, if that was asked for; all that is the user's stays."""
    downloaded = _read(supply.archives / _DOWNLOADED)
    for path in paths if supply.deletes_sources else ():
        is_given = any(path.resolve().is_relative_to(folder.resolve()) for folder in supply.given)
        if not is_given and downloaded.get(str(path.resolve())) == _identity(path):
            print(f"{path} is deleted ({readable_bytes(path.stat().st_size)}).")
            path.unlink()


def _files_of(archive: Archive, places: dict[str, Path], supply: Supply) -> list[Path]:
    if archive.name in places:
        return [places[archive.name]]
    return [places.get(part.name, supply.archives / part.name) for part in archive.parts]


def _download_all(missing: list[Remote], supply: Supply) -> None:
    supply.archives.mkdir(parents=True, exist_ok=True)
    sizes = [size_on_server(part, supply.credentials) for part in missing]
    there = sum(_size(supply.archives / f"{part.name}.part") for part in missing)
    known = sum(size for size in sizes if size is not None)
    check_room(supply.archives, known - there, f"Downloading {', '.join(part.name for part in missing)}")
    title = missing[0].name if len(missing) == 1 else f"{missing[0].name} and {len(missing) - 1} more"
    stop = threading.Event()
    total = None if None in sizes else known
    with (
        ThreadPoolExecutor(supply.connections) as threads,
        ProgressLine(f"download {title}", total, "bytes", already_done=there) as progress,
    ):

        def advance(count: int) -> None:
            if stop.is_set():
                raise ArchiveError("stopped")  # never shown: what stopped it is
            progress.add(count)

        tasks = [
            threads.submit(download, part, supply.archives, supply.credentials, advance, tries=supply.tries)
            for part in missing
        ]
        try:
            _raise_first(wait(tasks, return_when=FIRST_EXCEPTION).done)
        except BaseException:
            stop.set()
            for task in tasks:
                task.cancel()
            raise
        finally:
            wait(tasks)
            done = [part for part, task in zip(missing, tasks, strict=True) if _has_come(task)]
            for part in done:
                path = supply.archives / part.name
                _add(supply.archives / _DOWNLOADED, path, _identity(path))
                if part.md5 is not None:
                    _add(supply.archives / _CHECKED, path, [*_identity(path), part.md5])


def _raise_first(tasks: set[Future[Path]]) -> None:
    for task in tasks:
        task.result()


def _has_come(task: Future[Path]) -> bool:
    return not task.cancelled() and task.exception() is None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check_md5(path: Path, md5: str | None, supply: Supply) -> None:
    """Raise ArchiveError when a file's md5 is another; one found right is not read again while unchanged."""
    checked = supply.archives / _CHECKED
    if md5 is None or _read(checked).get(str(path.resolve())) == [*_identity(path), md5]:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, ProgressLine(f"check {path.name}", _size(path), "bytes") as progress:
        while chunk := file.read(2**22):
            digest.update(chunk)
            progress.add(len(chunk))
    if digest.hexdigest() != md5:
        raise ArchiveError(
            f"{path} ({_size(path):,} bytes) has the md5 {digest.hexdigest()}, expected {md5}: it is cut "
            "off, damaged or another version. Move it away to have it downloaded, or give its md5 "
            "by --sources."
        )
    _add(checked, path, [*_identity(path), md5])


def _identity(path: Path) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read(notes: Path) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = {}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(notes.read_text(encoding="utf-8"))
    return found


def _add(notes: Path, path: Path, facts: list[int | str]) -> None:
    write_whole(notes, json.dumps({**_read(notes), str(path.resolve()): facts}, indent=1).encode())
