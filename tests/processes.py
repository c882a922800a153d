"""Processes of this machine and what they listen on, from Linux' own tables."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

LISTENING = "0A"


def environment_of(pid: int | str) -> list[str]:
    """The entries `NAME=value` that a process was started with; none when it is gone or not ours."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return []


def pids_with(*entries: str) -> list[int]:
    """The processes that were started with all these entries in their environment."""
    pids = filter(str.isdigit, os.listdir("/proc"))
    return sorted(int(pid) for pid in pids if set(entries) <= set(environment_of(pid)))


def listening_addresses(pids: Iterable[int]) -> dict[str, str]:
    """`address:port` of every TCP socket that some processes listen on, and the command of one of them."""
    sockets = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/comm").read_text().strip()
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor.path)):
                        sockets[found.group(1)] = command
    result = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and inode in sockets:
                address, _, port = local.partition(":")
                result[f"{readable(address)}:{int(port, 16)}"] = sockets[inode]
    return result


def readable(address: str) -> str:
    """The kernel writes addresses as hexadecimal 32-bit words in the machine's byte order (little-endian)."""
    words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def is_loopback(address: str) -> bool:
    host = ipaddress.ip_address(address.rpartition(":")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return (mapped or host).is_loopback
