"""How many training workers a run may have: each takes an equal share of the global batch."""

from typing import TYPE_CHECKING, TypeAlias

from sslsv.settings import refuse_if

if TYPE_CHECKING:
    from sslsv.config import TrainConfig

Workers: TypeAlias = int | tuple[int, int]  # a number, or the fewest and the most


def check_workers(workers: Workers) -> None:
    """Refuse numbers below 1 and ranges upside down."""
    fewest, most = (workers, workers) if isinstance(workers, int) else workers
    given = workers if isinstance(workers, int) else list(workers)
    refuse_if(fewest < 1, f"workers is {given}; it must be 1 or more")
    refuse_if(most < fewest, f"workers is {given}; the fewest come first: [{most}, {fewest}]")


def check_equal_shares(train: "TrainConfig", workers: Workers) -> None:
    """Refuse worker counts, or ends of their range, that can't share the batch, and a range that shows.

    Within a range the counts that don't divide the batch are left out; see `usable_counts`.
    """
    batch_size = train.batch_size
    for count in {workers} if isinstance(workers, int) else set(workers):
        refuse_if(
            batch_size % count != 0,
            f"train.batch_size is {batch_size}, which {count} resources.workers cannot share equally; "
            f"use {max(batch_size // count, 1) * count} or {(batch_size // count + 1) * count}",
        )
        _check_chunks(train.chunk_size, batch_size, count)
    refuse_if(
        not isinstance(workers, int) and shows_shares(train),
        "resources.workers is a range and train.sync_batchnorm false: batch statistics of one worker's "
        "share would change with the number of workers; set train.sync_batchnorm to true, or give one number",
    )


def shows_shares(train: "TrainConfig") -> bool:
    """Whether the number of workers changes the result: batch statistics are those of one worker's share."""
    return not train.sync_batchnorm and train.chunk_size is None


def usable_counts(workers: Workers, batch_size: int, chunk_size: int | None) -> list[int]:
    """The numbers of workers, rising, whose shares of the batch are equal and a whole number of chunks."""
    fewest, most = (workers, workers) if isinstance(workers, int) else workers
    counts = [count for count in range(fewest, most + 1) if batch_size % count == 0]
    return [count for count in counts if (batch_size // count) % (chunk_size or 1) == 0]


def _check_chunks(chunk_size: int | None, batch_size: int, workers: int) -> None:
    """Refuse chunks that do not divide a worker's share of the batch; null passes."""
    share = batch_size // workers
    if chunk_size is None or share % chunk_size == 0:
        return
    divisors = [size for size in range(2, share + 1) if share % size == 0]
    nearest = min(divisors or [0], key=lambda size: abs(size - chunk_size))
    way_out = f"use {nearest}" if nearest else "use null"
    refuse_if(
        True,
        f"train.chunk_size is {chunk_size}, which does not divide the {share} utterances of each worker "
        f"(train.batch_size {batch_size} over {workers} resources.workers); {way_out}",
    )
