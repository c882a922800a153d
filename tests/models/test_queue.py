import pytest
import torch
import torch.nn.functional as F

from sslsv.models.queue import Queue


@pytest.mark.parametrize("batch", [1, 3, 5, 12])
def test_queue__holds_the_last_rows_in_order(batch: int) -> None:
    queue = Queue(7, 4)
    pushed = [F.normalize(torch.randn(batch, 4), dim=1) for _ in range(9)]
    for rows in pushed:
        queue.push(rows)
    assert torch.equal(queue.rows.roll(-int(queue.next_row), 0), torch.cat(pushed)[-7:])


def test_queue__begins_with_unit_vectors_and_may_be_empty() -> None:
    assert torch.allclose(Queue(5, 8).rows.norm(dim=1), torch.ones(5))
    empty = Queue(0, 8)
    empty.push(torch.randn(3, 8))
    assert empty.rows.shape == (0, 8)
