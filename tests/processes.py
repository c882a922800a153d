"""Inspect processes of this machine and their listening sockets through Linux's /proc."""

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

LISTENING = "0A"


def environment_of(pid: int | str) -> list[str]:
    """Return the environment `NAME=value` of a process; empty if it has ended or belongs to another user."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return []


def pids_with(*entries: str) -> list[int]:
    """Return the processes that were started with all these environment entries."""
    pids = filter(str.isdigit, os.listdir("/proc"))
    return sorted(int(pid) for pid in pids if set(entries) <= set(environment_of(pid)))


def listening_addresses(pids: Iterable[int]) -> dict[str, str]:
    """Return `address:port` of each TCP socket that the processes listen on, with one of their commands."""
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
    """Convert the kernel's address, hexadecimal 32-bit words in the machine's byte order (little-endian)."""
    words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def is_loopback(address: str) -> bool:
    host = ipaddress.ip_address(address.rpartition(":")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return (mapped or host).is_loopback
