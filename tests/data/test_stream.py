import numpy as np
import pytest

from sslsv.data.stream import Plan, rows_of_rank


def test_rows__any_slice_is_that_part_of_the_whole() -> None:
    plan = Plan(45, 4, seed=7)
    whole = plan.rows(0, 20)
    assert whole["sample"].tolist() == list(range(len(whole["sample"])))
    for first, last in [(0, 1), (3, 3), (2, plan.steps_per_epoch + 3), (plan.steps_per_epoch, 17)]:
        part = Plan(45, 4, seed=7).rows(first, last)
        for name, column in part.items():
            assert column.dtype == np.int64
            assert np.array_equal(column, whole[name][4 * first : 4 * last])


def test_rows__take_each_utterance_at_most_once_an_epoch() -> None:
    plan = Plan(45, 4, seed=7)
    assert plan.steps_per_epoch == 45 // 4
    rows = plan.rows(0, 3 * plan.steps_per_epoch)
    for epoch in range(3):
        drawn = rows["utterance"][rows["epoch"] == epoch]
        assert len(drawn) == 44 == len(set(drawn.tolist()))
    first, second = (rows["utterance"][rows["epoch"] == epoch] for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Plan(45, 4, seed=8).rows(0, plan.steps_per_epoch)["utterance"])


def test_plan__batch_too_large_says_how_many_utterances_there_are() -> None:
    with pytest.raises(ValueError, match="train.batch_size is 50.*only 45 utterances"):
        Plan(45, 50, seed=1)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_rows_of_rank__ranks_joined_are_the_global_batches(world_size: int) -> None:
    rows = Plan(45, 8, seed=7).rows(1, 4)
    share = 8 // world_size
    parts = [
        rows_of_rank(rows, 8, rank, world_size)["utterance"].reshape(3, share) for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate(parts, axis=1).reshape(-1), rows["utterance"])
