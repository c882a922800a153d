"""What a sweep was asked for, as sweep.json keeps it, and whether a folder may be used for it."""

import argparse
import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from typing import Any

from sslsv.config import Config, differences, read_config, shows_shares, to_yaml
from sslsv.runs.environment import describe_environment
from sslsv.runs.folder import RunFolder
from sslsv.search.space import Space
from sslsv.settings import locate

# May differ when a sweep goes on: where it runs.  Other numbers of threads or workers change last bits.
FREE_SECTIONS = ("resources", "run")
LOCK = "sweep.lock"


def describe_request(
    space: Space, base: Config, options: argparse.Namespace, rungs: tuple[int, ...]
) -> dict[str, Any]:
    """What is asked for, as sweep.json keeps it: enough to tell whether another command asks for the same."""
    return {
        "space_file": str(options.space),
        "space": locate(options.space).read_text(),
        "overrides": options.overrides,
        "trials": space.trials,
        "parameters": list(space.parameters),  # without those that the command line fixes
        "takes_more_trials": space.scheduler.takes_more_trials and space.searcher != "grid",
        "metrics": list(space.metrics),
        "searcher": space.searcher,
        "scheduler": repr(space.scheduler),
        "rungs": list(rungs),
        "seed": space.seed,
        "base": to_yaml(base),
    }


def check_folder(folder: RunFolder, request: dict[str, Any], *, is_fresh: bool, is_resumed: bool) -> None:
    """Raise ValueError unless the folder is new, to be set aside, or holds this sweep, to be resumed."""
    is_there = folder.has("sweep.json")
    if is_resumed and not is_there:
        raise ValueError(f"{folder.location} holds no sweep to go on with; leave out --resume to start one")
    if not is_there or is_fresh:
        return
    if not is_resumed:
        raise ValueError(
            f"{folder.location} holds a sweep; --resume goes on with it, --fresh starts anew (the old one is "
            "kept under another name), --name gives this one another folder"
        )
    earlier = folder.read_json("sweep.json")
    changes = _changes_of_base(read_config(earlier["base"]), read_config(request["base"]))
    asked = ["metrics", "parameters", "searcher", "scheduler", "rungs", "seed"]
    if not (request["takes_more_trials"] and request["trials"] > earlier["trials"]):
        asked.append("trials")
    changes += [
        f"{key}: {earlier.get(key)} -> {request[key]}" for key in asked if earlier.get(key) != request[key]
    ]
    if not changes and earlier["space"] != request["space"]:
        changes = [f"the text of {request['space_file']}"]
    if changes:
        raise ValueError(
            f"{folder.location} holds a sweep of something else, so it can't be resumed; use another --name, "
            "or --fresh. Different (there -> now):\n  " + "\n  ".join(changes)
        )


def _changes_of_base(earlier: Config, now: Config) -> list[str]:
    """What a sweep that goes on may not find changed around its parameters."""
    changes = []
    for line in differences(earlier, now):
        key = line.partition(":")[0]
        # Trials never see the test lists; a confirmation looks after its own.
        is_free = key.split(".")[0] in FREE_SECTIONS or key == "evaluation.test"
        if key == "resources.workers" and shows_shares(now.train):
            changes.append(f"{line} (with train.sync_batchnorm false, batch statistics depend on it)")
        elif not is_free:
            changes.append(line)
    return changes


@contextlib.contextmanager
def prepared_folder(
    folder: RunFolder, request: dict[str, Any], *, is_fresh: bool, is_resumed: bool
) -> Iterator[None]:
    """Make the sweep's folder, or go on with the one there, and keep it to this process for the block.

    With `is_fresh`, a sweep that is there is renamed.  Raises ValueError as `check_folder` and `locked` do.
    """
    if is_fresh and folder.has("sweep.json"):
        with locked(folder):
            print(f"the sweep that was there is now {folder.set_aside()}", file=sys.stderr)
    with locked(folder):
        check_folder(folder, request, is_fresh=False, is_resumed=is_resumed)  # it may just have been made
        if folder.has("sweep.json"):
            print(f"going on with the sweep in {folder.location}", file=sys.stderr)
            earlier = folder.read_json("sweep.json")
            folder.write_json("sweep.json", earlier | {"trials": request["trials"]})
        else:
            folder.write("base.yml", request["base"].encode())
            folder.write_json("sweep.json", request | {"environment": describe_environment()})
        yield


@contextlib.contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Keep a sweep's folder to this process: two that write its files would undo each other's lines.

    The kernel lifts the lock when the process ends, however it ends.  Object storage has no locks.  Raises
    ValueError when another process has the folder.
    """
    if not folder.is_local:
        yield
        return
    os.makedirs(folder.root, exist_ok=True)
    with open(folder.path(LOCK), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder.location} is in use: another command runs this sweep; wait for its end, stop it, "
                "or give this one another --name"
            ) from error
        except OSError as error:  # a network disk without locks
            print(f"{folder.location} can't be locked ({error}): run one command at a time", file=sys.stderr)
        yield
