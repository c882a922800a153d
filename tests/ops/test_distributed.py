import torch
import torch.multiprocessing

from sslsv.ops import distributed


def _two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x = torch.full((2, 3), float(rank), dtype=torch.float64, requires_grad=True)
    gathered = distributed.gather(x)
    assert gathered[:, 0].tolist() == [0, 0, 1, 1]
    # Each rank weights the rows differently; the gradient of a row is the sum over both ranks.
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) * (10**rank)
    (gathered.sum(1) * weights).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == ([11.0, 22.0] if rank == 0 else [33.0, 44.0])

    x.grad = None
    gathered = distributed.gather(x, is_global_loss=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)  # same loss: gradients double
    (gathered.sum(1) * weights).sum().backward()
    assert x.grad[:, 0].tolist() == ([2.0, 4.0] if rank == 0 else [6.0, 8.0])

    # Gathering a tensor that is not contiguous must work too.
    assert distributed.gather(torch.arange(6.0).view(3, 2).T + rank)[2].tolist() == [1.0, 3.0, 5.0]

    y = torch.tensor([1.0 + rank], requires_grad=True)
    total = distributed.all_reduce_sum(y)
    assert total.item() == 3 and y.item() == 1 + rank
    (total * (rank + 1)).backward()
    assert y.grad is not None and y.grad.item() == 3
    assert distributed.all_reduce_mean(y.detach()).item() == 1.5
    assert distributed.broadcast_object(["rank", rank], source=1) == ["rank", 1]
    assert distributed.is_main() == (rank == 0)
    norm = torch.nn.BatchNorm1d(2)
    norm(torch.randn(4, 2) + rank)
    distributed.share_buffers(norm)
    means = distributed.gather(norm.running_mean[None])
    assert torch.equal(means[0], means[1])
    distributed.barrier()
    torch.distributed.destroy_process_group()


def test_collectives__two_ranks_gather_and_sum_with_gradients(tmp_path) -> None:
    torch.multiprocessing.spawn(_two_ranks, (str(tmp_path),), nprocs=2)
