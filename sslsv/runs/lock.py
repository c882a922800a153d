"""One command at a time on one run folder: two would write into the same files."""

import contextlib
import fcntl
import os
import posixpath
import socket
from collections.abc import Iterator
from typing import IO

from sslsv.runs.folder import RunFolder


class RunInUseError(ValueError):
    """Another command works on the run; the message is for the user."""


@contextlib.contextmanager
def only_command_on(folder: RunFolder) -> Iterator[None]:
    """Keep other commands out of a run folder on a disk; raises RunInUseError when one is there already.

    The kernel holds the lock and frees it when the process dies, however it dies.  Object storage and file
    systems without locks are left as they are.  The lock is beside the folder, which may be renamed.
    """
    if not folder.is_local:
        yield
        return
    path = posixpath.join(posixpath.dirname(folder.root), f".{folder.name}.lock")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _locked(path, folder.location) as file:
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.remove(path)  # while it is held: a command that waits at the old file sees that it is gone


def _locked(path: str, location: str) -> IO[str]:
    while True:
        file = open(path, "a+")  # noqa: SIM115  # the caller's
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                file.seek(0)
                holder = file.read().strip() or "another command"
            raise RunInUseError(
                f"{location} is in use by {holder}: wait for it, end it, or use another run.name"
            ) from error
        except OSError:  # no locks here
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                file.truncate(0)  # of what a killed command wrote
                return file
        file.close()  # of the command before, which took its file away meanwhile
