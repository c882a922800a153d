"""Estimate what G GPUs that train on R pairs per second each would demand from a cluster.

This module does arithmetic only. `benchmarks.scaling_units` measures the unit costs; the cluster is assumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Units:
    """Hold costs measured on one machine, in bytes and core-seconds unless stated otherwise."""

    views_per_pair_bytes: int  # two int16 crops
    store_per_pair_bytes: float  # size in the object store
    pairs_per_core_second: float  # read from WAV and augmented as in the published recipe
    cold_block_seconds: float  # first block of a data process, 64 pairs
    warm_block_seconds: float  # later block
    driver_per_block_seconds: float  # time of the training process per requested block
    driver_per_batch_seconds: float  # per batch
    driver_per_pair_seconds: float  # per pair copied out of the object store
    blocks_per_second: float  # one idle iterator; tasks and trainer on the same cores
    checkpoint_bytes: int  # published recipe, with Adam's two moments
    wide_checkpoint_bytes: int  # encoder of 7.0 M parameters
    checkpoint_copy_seconds: float  # per GB, while training waits
    checkpoint_write_seconds: float  # per GB, in a thread: checksum, file, sync
    gradient_bytes: int  # float32, published recipe
    wide_gradient_bytes: int
    batch_norms: int  # number of layers; each has two small collectives per step
    utterances: int
    plan_seconds: float  # permutation of one epoch
    span_seconds: float  # table of a worker's next execution, cut from the rows of all workers
    span_peak_bytes: int  # memory of that table, in addition to the list
    span_epochs: int
    maker_bytes: int  # object put into the store once per worker: paths, speakers, settings
    validation_recordings: int
    embed_seconds: float  # per recording of 8 s, bf16
    label_free_seconds: float  # report of 1024 utterances by one worker; the others wait
    encoder_flops: int  # per pair, forward and backward
    loss_flops: dict[str, int]  # per global batch, forward and backward, on every GPU


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Describe the training and the assumed machines."""

    gpus: int = 64
    gpus_per_node: int = 8
    cores_per_node: int = 96
    data_cores: int = 0  # cores of additional machines without GPUs
    network_gbit: float = 100.0  # of a GPU node, in each direction
    store_gb: float = 300.0  # size of the object store of a GPU node
    batch_size: int = 4096  # global, over all GPUs
    projection_dims: int = 2048
    utterances_per_block: int = 1024
    checkpoint_every_minutes: float = 10.0
    validate_every_epochs: int = 1

    @property
    def nodes(self) -> int:
        """Return the number of GPU machines; the last one may be partly used."""
        return -(-self.gpus // self.gpus_per_node)

    @property
    def cores(self) -> int:
        """Return the number of cores that can make data."""
        return self.nodes * self.cores_per_node + self.data_cores

    @property
    def network_bytes(self) -> float:
        """Return the bytes per second into a GPU node."""
        return self.network_gbit * 1e9 / 8

    @property
    def pairs_per_batch(self) -> float:
        """Return the pairs in one GPU's part of a batch."""
        return self.batch_size / self.gpus

    @property
    def pairs_per_block(self) -> float:
        """Return the pairs that one data task makes."""
        return self.pairs_per_batch * max(1, self.utterances_per_block // self.pairs_per_batch)

    @property
    def ring(self) -> float:
        """Return the bytes that a ring all-reduce sends into each GPU, per byte of the tensor."""
        return 2 * (self.gpus - 1) / self.gpus


@dataclass(frozen=True)
class Demand:
    """Hold one line of the extrapolation: the demand for a resource at some rate, and the supply."""

    name: str
    unit: str
    needed: float
    available: float | None  # None: unknown
    settings: str  # settings that change the demand

    @property
    def use(self) -> float | None:
        """Return the used share of the resource; above 1 the cluster is too slow."""
        return None if self.available is None else self.needed / self.available


def demands(units: Units, cluster: Cluster, rate: float) -> Iterator[Demand]:
    """Yield the demand for each resource at `rate` pairs per second and GPU."""
    steps = rate / cluster.pairs_per_batch  # per second
    blocks = rate / cluster.pairs_per_block
    per_core = units.pairs_per_core_second
    crops = rate * units.store_per_pair_bytes * cluster.gpus_per_node
    # A ring that visits the GPUs node by node enters each node once.
    collectives = steps * (gathered_bytes(cluster) + units.gradient_bytes * cluster.ring)
    yield Demand(
        "data cores, whole cluster",
        "cores",
        cluster.gpus * rate / per_core,
        cluster.cores,
        "machines without GPUs; `cpus_per_data_task=1`; fewer entries in `data.augment`; packed shards",
    )
    yield Demand(
        "blocks through one iterator",
        "blocks/s",
        blocks,
        units.blocks_per_second,
        "`utterances_per_block` up, `train.batch_size` up",
    )
    yield Demand(
        "Python interpreter of a training process, receiving data",
        "cores",
        driver_share(units, cluster, rate),
        1.0,
        "`utterances_per_block` up, `train.batch_size` up",
    )
    yield Demand(
        "network into a GPU node: crops",
        "MB/s",
        crops / 1e6,
        cluster.network_bytes / 1e6,
        "data tasks on the GPU nodes' own cores; fewer GPUs per node",
    )
    yield Demand(
        "network into a GPU node: collectives",
        "MB/s",
        collectives / 1e6,
        cluster.network_bytes / 1e6,
        "`projector_dims` down; `train.batch_size` up where gradients are the larger part",
    )
    yield Demand(
        "network into a GPU node: both",
        "MB/s",
        (crops + collectives) / 1e6,
        cluster.network_bytes / 1e6,
        "see the two rows above",
    )
    yield Demand(
        "smallest object store of a GPU node",
        "GB",
        store_least_bytes(units, cluster) / 1e9,
        cluster.store_gb,
        "`utterances_per_block` down, `data_tasks` down",
    )


def first_limit(found: list[Demand]) -> Demand:
    """Return the demand with the highest use."""
    return max((demand for demand in found if demand.use is not None), key=lambda demand: demand.use or 0)


def fastest_rate(units: Units, cluster: Cluster) -> tuple[float, Demand]:
    """Return the pairs per second and GPU at which the first resource is used up, and its demand.

    All demands except the object store's are proportional to the rate.
    """
    first = first_limit([demand for demand in demands(units, cluster, 1.0) if demand.unit != "GB"])
    return 1 / (first.use or 1), first


def gathered_bytes(cluster: Cluster) -> float:
    """Return the bytes gathered into each GPU per step: float32 projections of two views of the others."""
    return 8 * cluster.batch_size * cluster.projection_dims * (cluster.gpus - 1) / cluster.gpus


def driver_share(units: Units, cluster: Cluster, rate: float) -> float:
    """Return the share of one core that a training process spends on receiving data."""
    return rate * (
        units.driver_per_pair_seconds
        + units.driver_per_batch_seconds / cluster.pairs_per_batch
        + units.driver_per_block_seconds / cluster.pairs_per_block
    )


def store_least_bytes(units: Units, cluster: Cluster) -> float:
    """Return the smallest sufficient object store of a GPU node, in bytes.

    It holds a block in production per core, two in use per GPU, and a maker with its list of paths per GPU.
    """
    block = cluster.pairs_per_block * units.store_per_pair_bytes
    return (cluster.cores_per_node + 2 * cluster.gpus_per_node) * block + cluster.gpus * units.maker_bytes


def collectives_per_step(units: Units) -> int:
    """Count the collectives of a step: two per synchronised batch norm, the gather, and DDP's all-reduce."""
    return 2 * units.batch_norms + 2


def epoch_seconds(units: Units, cluster: Cluster, rate: float) -> float:
    """Return the training time of an epoch, without validation and checkpoints."""
    return units.utterances / (cluster.gpus * rate)


def checkpoint_share(units: Units, cluster: Cluster, rate: float) -> float:
    """Return the share of time that training waits for state copies, made when due and at validations."""
    validated = epoch_seconds(units, cluster, rate) * cluster.validate_every_epochs
    copy = units.checkpoint_bytes / 1e9 * units.checkpoint_copy_seconds
    return copy / (min(validated, 60 * cluster.checkpoint_every_minutes) + copy)


def serial_validation_share(units: Units, cluster: Cluster, rate: float) -> float:
    """Return the share of time that all GPUs wait for one worker's label-free report."""
    report = units.label_free_seconds
    return report / (epoch_seconds(units, cluster, rate) * cluster.validate_every_epochs + report)
