"""Where archives may come from, as the command line says it: folders, addresses, credentials."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from sslsv.prepare_data.download import Credentials
from sslsv.prepare_data.sources import Replacement, parse_replacements

_SECRETS = "SSLSV_VOXCELEB_USER, SSLSV_VOXCELEB_PASSWORD, SSLSV_VOXCELEB_TOKEN"


@dataclass(frozen=True)
class Supply:
    """Where archives are looked for and put, and what servers are given."""

    root: Path  # data.root
    archives: Path
    given: tuple[Path, ...]  # the user's own folders: only read
    replacements: dict[str, Replacement]
    credentials: Credentials
    connections: int
    tries: int  # of a file, without a byte between
    deletes_sources: bool


def add_supply_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that needs archives."""
    add = parser.add_argument
    add("folder", type=Path, help="becomes data.root")
    add(
        "--from",
        dest="given",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder with archives, parts or extracted corpora that you have (may be repeated; only read)",
    )
    add("--archives", type=Path, metavar="DIR", help="where downloads go (default: FOLDER/archives)")
    add("--url", action="append", default=[], metavar="NAME=URL", help="another address of a file or a set")
    add("--sources", type=Path, metavar="YAML", help="addresses and md5 sums: `NAME: {url: ..., md5: ...}`")
    add("--user", help=f"for VoxCeleb's servers; or by environment: {_SECRETS}; or by ~/.netrc")
    add("--password", help="better by environment: other users of this machine see command lines")
    add("--token", help="likewise; fills in {token} in an address, else it is sent as a bearer token")
    add("--connections", type=int, default=3, help="files downloaded at a time (%(default)s)")
    add("--tries", type=int, default=6, help="of a file, one after another in vain (%(default)s)")
    add(
        "--delete-sources",
        action="store_true",
        help="delete downloaded archives when all of their content is in place (never those of --from)",
    )


def supply_of(options: argparse.Namespace) -> Supply:
    """Check the options of `add_supply_arguments`; raises ValueError or FileNotFoundError."""
    for folder in options.given:
        if not folder.is_dir():
            raise FileNotFoundError(f"--from {folder} is not a folder.")
    for name in ("connections", "tries"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be 1 or more.")

    def secret(name: str) -> str | None:
        return getattr(options, name) or os.environ.get(f"SSLSV_VOXCELEB_{name.upper()}") or None

    return Supply(
        root=options.folder,
        archives=options.archives or options.folder / "archives",
        given=tuple(options.given),
        replacements=parse_replacements(options.url, options.sources),
        credentials=Credentials(secret("user"), secret("password"), secret("token")),
        connections=options.connections,
        tries=options.tries,
        deletes_sources=options.delete_sources,
    )
