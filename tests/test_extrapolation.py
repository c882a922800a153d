"""The arithmetic of docs/scaling.md, on units that make the sums easy."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is not part of the installed package
from benchmarks import extrapolation  # noqa: E402
from benchmarks.extrapolation import Cluster, Units  # noqa: E402

UNITS = Units(
    views_per_pair_bytes=100_000,
    store_per_pair_bytes=100_000.0,
    pairs_per_core_second=1000.0,
    cold_block_seconds=0.1,
    warm_block_seconds=0.05,
    driver_per_block_seconds=0.008,
    driver_per_batch_seconds=0.001,
    driver_per_pair_seconds=0.00001,
    blocks_per_second=40.0,
    checkpoint_bytes=20_000_000,
    wide_checkpoint_bytes=80_000_000,
    checkpoint_copy_seconds=1.0,
    checkpoint_write_seconds=3.0,
    gradient_bytes=6_000_000,
    wide_gradient_bytes=28_000_000,
    batch_norms=36,
    utterances=1_024_000,
    plan_seconds=0.1,
    span_seconds=1.0,
    span_peak_bytes=10**9,
    span_epochs=15,
    maker_bytes=50_000_000,
    validation_recordings=6400,
    embed_seconds=0.03,
    label_free_seconds=1.0,
    encoder_flops=5 * 10**9,
    loss_flops={"NT-Xent": 10**12},
)
# 64 pairs a batch and 256 a block, of each GPU.
CLUSTER = Cluster(
    gpus=64,
    gpus_per_node=8,
    cores_per_node=50,
    network_gbit=80.0,
    store_gb=10.0,
    batch_size=4096,
    utterances_per_block=256,
)


def demand(
    part: str, units: Units = UNITS, cluster: Cluster = CLUSTER, rate: float = 5120.0
) -> extrapolation.Demand:
    (found,) = (each for each in extrapolation.demands(units, cluster, rate) if part in each.name)
    return found


def test_demands__cores_are_those_of_all_gpus() -> None:
    cores = demand("cores")
    assert cores.needed == pytest.approx(64 * 5.12)
    assert cores.available == 8 * 50
    assert cores.use == pytest.approx(64 * 5.12 / 400)
    assert demand("cores", cluster=replace(CLUSTER, data_cores=100)).available == 500


def test_demands__longer_blocks_need_fewer_of_them() -> None:
    blocks = demand("blocks")
    assert (blocks.needed, blocks.use) == (pytest.approx(20), pytest.approx(0.5))
    assert demand("blocks", cluster=replace(CLUSTER, utterances_per_block=512)).needed == pytest.approx(10)


def test_demands__a_small_global_batch_cuts_the_data_into_many_pieces() -> None:
    small = replace(CLUSTER, batch_size=256, utterances_per_block=16)  # 4 pairs a batch, 16 a block
    assert demand("blocks", cluster=small).needed == pytest.approx(320)
    assert demand("interpreter", cluster=small).needed == pytest.approx(
        5120 * (0.00001 + 0.001 / 4 + 0.008 / 16)
    )


def test_demands__the_network_carries_the_crops_of_all_gpus_of_a_node() -> None:
    crops = demand("crops")
    assert crops.needed == pytest.approx(8 * 5120 * 0.1)  # MB/s
    assert crops.available == pytest.approx(10_000)


def test_demands__gradients_and_projections_enter_a_node_once_a_step() -> None:
    whole = 2 * 4096 * 2048 * 4
    into_node = whole * 63 / 64 + whole * 126 / 64 + 6_000_000 * 126 / 64
    assert demand("collectives").needed == pytest.approx(80 * into_node / 1e6)
    assert demand("both").needed == pytest.approx(demand("crops").needed + demand("collectives").needed)


def test_demands__the_least_object_store_holds_blocks_and_every_workers_list() -> None:
    store = demand("object store")
    assert store.needed == pytest.approx((50 + 16) * 256 * 0.0001 + 64 * 0.05)
    assert demand("object store", rate=1.0).needed == store.needed


def test_first_limit__is_the_most_used_one() -> None:
    slow_disks = extrapolation.Demand("a", "b", 1.0, None, "")
    found = [slow_disks, *extrapolation.demands(UNITS, replace(CLUSTER, network_gbit=1e6), 5120.0)]
    assert extrapolation.first_limit(found).name == demand("cores").name
    assert extrapolation.first_limit(found[2:]).name == demand("blocks").name


def test_fastest_rate__uses_the_first_limit_entirely() -> None:
    for cluster in (
        CLUSTER,
        replace(CLUSTER, batch_size=256, utterances_per_block=16),
        replace(CLUSTER, network_gbit=1e6),
    ):
        rate, limit = extrapolation.fastest_rate(UNITS, cluster)
        uses = {d.name: d.use for d in extrapolation.demands(UNITS, cluster, rate) if d.unit != "GB"}
        assert uses[limit.name] == pytest.approx(1)
        assert max(use for use in uses.values() if use is not None) == pytest.approx(1)


def test_checkpoint_share__counts_the_copy_at_every_validation_or_when_due() -> None:
    copy = 0.02
    epoch = 1_024_000 / (64 * 1000)  # 16 s
    assert extrapolation.checkpoint_share(UNITS, CLUSTER, 1000.0) == pytest.approx(copy / (epoch + copy))
    seldom = replace(CLUSTER, validate_every_epochs=1000)
    assert extrapolation.checkpoint_share(UNITS, seldom, 1000.0) == pytest.approx(copy / (600 + copy))


def test_serial_validation_share__grows_as_epochs_get_shorter() -> None:
    assert extrapolation.serial_validation_share(UNITS, CLUSTER, 1000.0, 1.0) == pytest.approx(2 / 18)
    assert extrapolation.serial_validation_share(UNITS, CLUSTER, 8000.0, 1.0) == pytest.approx(2 / 4)


def test_collectives_per_step__are_two_of_every_batch_norm_and_three() -> None:
    assert extrapolation.collectives_per_step(UNITS) == 75
