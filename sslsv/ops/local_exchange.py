"""Small tensors between the processes of one machine: Unix sockets that the caller itself reads and writes.

Gloo hands a collective to threads of its own, which cores that all compute wake up late: some 5 ms each, and
the batch norms of a step ask for 72.
"""

import contextlib
import socket
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslsv.ops import distributed


class LocalExchange:
    """Rank 0 reads the row of every other rank and answers with the rows of all.

    `links` are connected sockets: rank 0 has one to each other rank, in their order, the others one to rank
    0.  Whoever waits for a rank that has ended, or longer than the sockets' timeout, gets a RuntimeError.
    """

    def __init__(self, links: list[socket.socket]) -> None:
        self._links = links

    def gather(self, row: Tensor) -> Tensor:
        """The rows of all ranks, (N,) to (W, N); of one length and type everywhere, in CPU memory."""
        rows = torch.empty(distributed.world_size(), len(row), dtype=row.dtype)
        try:
            if distributed.rank() == 0:
                rows[0] = row
                for link, other in zip(self._links, rows[1:], strict=True):
                    _receive(link, other)
                for link in self._links:
                    link.sendall(_bytes(rows))
            else:
                self._links[0].sendall(_bytes(row.contiguous()))
                _receive(self._links[0], rows)
        except OSError as error:
            raise RuntimeError(f"another worker of this machine does not answer: {error}") from error
        return rows


# Made at the first call, of all ranks, in a process group; a later group gets its own.
_made_for: Any = None
_exchange: LocalExchange | None = None


def gather_small(row: Tensor) -> Tensor:
    """The rows of all ranks, (N,) to (W, N), rank 0 first; without gradients, and soonest for a few numbers.

    All ranks must call it.  Those of several machines, or of other devices than CPUs, use the process group.
    """
    global _made_for, _exchange
    if distributed.world_size() == 1:
        return row[None]
    if _made_for is not dist.group.WORLD:
        _made_for, _exchange = dist.group.WORLD, connect() if row.device.type == "cpu" else None
    return distributed.gather(row[None]) if _exchange is None else _exchange.gather(row)


def connect() -> LocalExchange | None:
    """Sockets between all ranks of the process group, or none where they do not share a machine.

    They meet in a folder that only this user may enter, and which is gone afterwards.
    """
    is_first = distributed.is_main()
    with tempfile.TemporaryDirectory(prefix="sslsv-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/meet"
        with contextlib.suppress(OSError):  # a path that is too long for a socket, say: nobody will get there
            if is_first:
                listener.bind(path)
                listener.listen(distributed.world_size())
        meeting = distributed.broadcast_object(path)
        link = None if is_first else _link_to(meeting)
        if not all(distributed.gather_objects(is_first or link is not None)):
            if link is not None:
                link.close()
            return None
        links = _accept(listener) if link is None else [link]
    group: Any = dist.group.WORLD
    patience = group._get_backend(torch.device("cpu")).options._timeout  # no public name for it
    for each in links:
        each.settimeout(patience.total_seconds())
    return LocalExchange(links)


def _link_to(path: str) -> socket.socket | None:
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(path)
    except OSError:
        link.close()
        return None
    link.sendall(distributed.rank().to_bytes(4, "little"))
    return link


def _accept(listener: socket.socket) -> list[socket.socket]:
    """A link to each other rank, in order."""
    by_rank = {}
    for _ in range(distributed.world_size() - 1):
        link, _ = listener.accept()
        rank = torch.empty(1, dtype=torch.int32)
        _receive(link, rank)
        by_rank[int(rank)] = link
    return [by_rank[rank] for rank in sorted(by_rank)]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.numpy().data.cast("B")


def _receive(link: socket.socket, tensor: Tensor) -> None:
    """Fill a contiguous tensor."""
    left = _bytes(tensor)
    while left:
        count = link.recv_into(left)
        if count == 0:
            raise ConnectionError("it has ended")
        left = left[count:]
