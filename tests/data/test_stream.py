import numpy as np
import pytest

from sslsv.data.stream import Plan, rows_of_rank

UNEVEN = np.repeat(np.arange(9), [12, 1, 4, 7, 2, 3, 9, 2, 5])


@pytest.mark.parametrize("positives", ["same_utterance", "same_speaker"])
def test_rows__any_slice_is_that_part_of_the_whole(positives: str) -> None:
    plan = Plan(UNEVEN, 4, seed=7, positives=positives)
    whole = plan.rows(0, 20)
    assert whole["sample"].tolist() == list(range(len(whole["sample"])))
    for first, last in [(0, 1), (3, 3), (2, plan.steps_per_epoch + 3), (plan.steps_per_epoch, 17)]:
        part = Plan(UNEVEN, 4, seed=7, positives=positives).rows(first, last)
        for name, column in part.items():
            assert column.dtype == np.int64
            assert np.array_equal(column, whole[name][4 * first : 4 * last])


def test_rows__same_utterance_takes_each_at_most_once_an_epoch() -> None:
    plan = Plan(UNEVEN, 4, seed=7)
    assert plan.steps_per_epoch == 45 // 4
    rows = plan.rows(0, 3 * plan.steps_per_epoch)
    assert np.array_equal(rows["partner"], rows["utterance"])
    for epoch in range(3):
        drawn = rows["utterance"][rows["epoch"] == epoch]
        assert len(drawn) == 44 == len(set(drawn.tolist()))
    first, second = (rows["utterance"][rows["epoch"] == epoch] for epoch in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Plan(UNEVEN, 4, seed=8).rows(0, plan.steps_per_epoch)["utterance"])


@pytest.mark.parametrize("batch_size", [2, 4, 5, 8])
def test_rows__same_speaker_pairs_keep_every_promise(batch_size: int) -> None:
    plan = Plan(UNEVEN, batch_size, seed=3, positives="same_speaker")
    for epoch in range(4):
        rows = plan.rows(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        first, second = rows["utterance"], rows["partner"]
        assert len(first) == plan.steps_per_epoch * batch_size and set(rows["epoch"]) == {epoch}
        assert np.array_equal(UNEVEN[first], UNEVEN[second])
        used = np.concatenate([first, second])
        assert len(np.unique(used)) == len(used)
        for batch in UNEVEN[first].reshape(-1, batch_size):
            assert len(np.unique(batch)) == batch_size


def test_plan__same_speaker_has_as_many_steps_as_can_be() -> None:
    # 6, 0, 2, 3, 1, 1, 4, 1, 2 pairs: 4 batches of 4 need 16 of min(pairs, 4) = 4+2+3+1+1+4+1+2 = 18; 5 need
    # 20 of 19.
    assert Plan(UNEVEN, 4, seed=3, positives="same_speaker").steps_per_epoch == 4


def test_plan__batch_too_large_names_the_largest() -> None:
    with pytest.raises(ValueError, match="train.batch_size is 50.*only 45 utterances"):
        Plan(UNEVEN, 50, seed=1)
    with pytest.raises(ValueError, match="train.batch_size is 9.*only 8 speakers"):
        Plan(UNEVEN, 9, seed=1, positives="same_speaker")
    with pytest.raises(ValueError, match="only 0 speakers with two utterances"):
        Plan(np.arange(4), 2, seed=1, positives="same_speaker")


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_rows_of_rank__ranks_joined_are_the_global_batches(world_size: int) -> None:
    rows = Plan(UNEVEN, 8, seed=7).rows(1, 4)
    share = 8 // world_size
    parts = [
        rows_of_rank(rows, 8, rank, world_size)["utterance"].reshape(3, share) for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate(parts, axis=1).reshape(-1), rows["utterance"])
