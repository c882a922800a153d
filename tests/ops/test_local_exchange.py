import os
import tempfile

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from sslsv.ops import distributed, local_exchange


def test_gather_small__alone_is_one_row() -> None:
    assert local_exchange.gather_small(torch.tensor([1.0, 2.0])).tolist() == [[1.0, 2.0]]


def _join(rank: int, folder: str, size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)


def _three_ranks(rank: int, folder: str) -> None:
    tempfile.tempdir = folder
    for group in range(2):  # a later process group gets sockets of its own
        _join(rank, f"{folder}/{group}", 3)
        for dtype in (torch.float32, torch.float64):
            row = torch.tensor([rank, 0.5, group], dtype=dtype)
            gathered = local_exchange.gather_small(row)
            assert gathered.dtype == dtype
            assert gathered.tolist() == [[float(each), 0.5, group] for each in range(3)]
        # More than a socket holds at once, and not laid out in order.
        long = local_exchange.gather_small((torch.arange(2e6).view(2, -1) + rank).T.reshape(-1))
        assert torch.equal(long[2] - 2, long[0])
        assert local_exchange._exchange is not None
        dist.destroy_process_group()
    assert not [name for name in os.listdir(folder) if name.startswith("sslsv-")]


def test_gather_small__three_ranks_get_all_rows_in_order_and_leave_no_file(tmp_path) -> None:
    for group in range(2):
        (tmp_path / str(group)).mkdir()
    torch.multiprocessing.spawn(_three_ranks, (str(tmp_path),), nprocs=3)


def _no_way_to_meet(rank: int, folder: str) -> None:
    _join(rank, folder, 2)
    tempfile.tempdir = f"{folder}/{'long' * 40}"  # longer than the name of a socket may be
    os.makedirs(tempfile.tempdir, exist_ok=True)
    assert local_exchange.gather_small(torch.tensor([float(rank)])).tolist() == [[0.0], [1.0]]
    assert local_exchange._exchange is None
    distributed.barrier()
    dist.destroy_process_group()


def test_gather_small__ranks_that_cannot_meet_use_the_process_group(tmp_path) -> None:
    torch.multiprocessing.spawn(_no_way_to_meet, (str(tmp_path),), nprocs=2)


def _one_ends(rank: int, folder: str) -> None:
    _join(rank, folder, 2)
    local_exchange.gather_small(torch.zeros(2))
    if rank == 1:
        os._exit(0)
    with pytest.raises(RuntimeError, match="another worker of this machine does not answer: it has ended"):
        local_exchange.gather_small(torch.zeros(2))


def test_gather_small__a_rank_that_ended_is_an_error_at_once(tmp_path) -> None:
    torch.multiprocessing.spawn(_one_ends, (str(tmp_path),), nprocs=2)
