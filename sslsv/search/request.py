"""What a sweep was asked for, as sweep.json keeps it, and whether a folder may be used for it."""

import argparse
import sys
from typing import Any

from sslsv.config import Config, differences, read_config, to_yaml
from sslsv.environment import describe_environment
from sslsv.project import locate
from sslsv.run_folder import RunFolder
from sslsv.search.space import Space

FREE_SECTIONS = ("resources", "run")  # may differ when a sweep goes on: they change no result


def describe_request(
    space: Space, base: Config, options: argparse.Namespace, rungs: tuple[int, ...]
) -> dict[str, Any]:
    """What is asked for, as sweep.json keeps it: enough to tell whether another command asks for the same."""
    return {
        "space_file": str(options.space),
        "space": locate(options.space).read_text(),
        "overrides": options.overrides,
        "trials": space.trials,
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
    changes = [
        line
        for line in differences(read_config(earlier["base"]), read_config(request["base"]))
        if line.split(".")[0] not in FREE_SECTIONS
    ]
    asked = ("trials", "metrics", "searcher", "scheduler", "rungs", "seed")
    changes += [f"{key}: {earlier[key]} -> {request[key]}" for key in asked if earlier[key] != request[key]]
    if not changes and earlier["space"] != request["space"]:
        changes = [f"the text of {request['space_file']}"]
    if changes:
        raise ValueError(
            f"{folder.location} holds a sweep of something else, so it can't be resumed; use another --name, "
            "or --fresh. Different (there -> now):\n  " + "\n  ".join(changes)
        )


def prepare_folder(folder: RunFolder, request: dict[str, Any], *, is_fresh: bool) -> None:
    """Make the sweep's folder, after `check_folder`; with `is_fresh`, whatever is there is renamed."""
    if folder.has("sweep.json") and not is_fresh:
        print(f"going on with the sweep in {folder.location}", file=sys.stderr)
        return
    if folder.has("sweep.json"):
        print(f"the sweep that was there is now {folder.set_aside()}", file=sys.stderr)
    folder.write("base.yml", request["base"].encode())
    folder.write_json("sweep.json", request | {"environment": describe_environment()})
