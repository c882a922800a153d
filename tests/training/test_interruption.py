import torch
import torch.multiprocessing

from sslsv.training.interruption import Interruption


def test_interruption__alone_it_is_due_as_soon_as_it_is_asked():
    asked: list[str] = []
    interruption = Interruption(lambda: asked[0] if asked else None, torch.device("cpu"))
    assert not interruption.is_due(1)
    asked.append("the machine will go")
    assert interruption.is_due(2) and interruption.reason() == "the machine will go"


def _two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    asked: list[str] = []
    interruption = Interruption(lambda: asked[0] if asked else None, torch.device("cpu"))
    for step in (1, 2):
        assert not interruption.is_due(step)
    if rank == 1:
        asked.append("of rank 1")
    assert interruption.is_due(3) and interruption.reason() == "of rank 1"
    torch.distributed.destroy_process_group()


def test_interruption__one_rank_that_is_asked_stops_both_after_the_same_step(tmp_path) -> None:
    torch.multiprocessing.spawn(_two_ranks, (str(tmp_path),), nprocs=2)
