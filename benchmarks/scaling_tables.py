"""Format the tables of docs/scaling.md as Markdown, from measured units and an assumed cluster."""

import dataclasses
from collections.abc import Callable, Sequence

from benchmarks import extrapolation
from benchmarks.extrapolation import Cluster, Units


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def unit_table(units: Units, cluster: Cluster) -> str:
    """Return the measured unit costs, each with its meaning."""
    u, c = units, cluster
    block_mb = c.pairs_per_block * u.store_per_pair_bytes / 1e6
    first, later = 1000 * u.cold_block_seconds, 1000 * u.warm_block_seconds
    sizes = [f"{size / 1e6:.1f}" for size in (u.checkpoint_bytes, u.wide_checkpoint_bytes)]
    gradients = [f"{size / 1e6:.1f}" for size in (u.gradient_bytes, u.wide_gradient_bytes)]
    driver_ms = [1000 * seconds for seconds in (u.driver_per_block_seconds, u.driver_per_batch_seconds)]
    collectives, span_mb = extrapolation.collectives_per_step(u), u.span_peak_bytes / 1e6
    gathered_mb = extrapolation.gathered_bytes(c) / 1e6
    rows = [
        f"a pair | {u.views_per_pair_bytes:,} bytes | two crops of 2 s, int16",
        f"a pair in the object store | {u.store_per_pair_bytes:,.0f} bytes",
        f"a block of {c.pairs_per_block:,.0f} pairs in the object store | {block_mb:.1f} MB",
        f"pairs per core-second | {u.pairs_per_core_second:,.0f} | CPU time; room and noise, from WAV",
        f"64 pairs, first / later block | {first:.0f} / {later:.0f} ms | the first reads noises, rooms",
        f"a block, in the training process | {driver_ms[0]:.2f} ms | CPU time for a task of Ray Data",
        f"a batch, in the training process | {driver_ms[1]:.2f} ms | CPU time without copying crops",
        f"a pair, in the training process | {1e6 * u.driver_per_pair_seconds:.1f} µs | CPU time to copy it",
        f"a task of Ray Data | {1000 / u.blocks_per_second:.1f} ms | wall time, nearly no work",
        f"blocks through one iterator | {u.blocks_per_second:.0f} /s | of such tasks, all on these cores",
        f"checkpoint, 1.4 / 7.0 M parameters | {' / '.join(sizes)} MB | weights and Adam's moments",
        f"a GB of checkpoint, copied | {u.checkpoint_copy_seconds:.1f} s | training waits for it",
        f"a GB of checkpoint, written | {u.checkpoint_write_seconds:.1f} s | in a thread, with a checksum",
        f"gradients, 1.4 / 7.0 M parameters | {' / '.join(gradients)} MB | float32, one all-reduce",
        f"collectives per step | {collectives} | two for each of {u.batch_norms} batch norms, gather, DDP",
        f"planning an epoch of {u.utterances:,} | {u.plan_seconds:.2f} s | on every worker",
        f"plan of {u.span_epochs} epoch(s) | {u.span_seconds:.1f} s, {span_mb:,.0f} MB | peak, each worker",
        f"a worker's list in the object store | {u.maker_bytes / 1e6:.0f} MB | stored once",
        f"projections gathered in a step | {gathered_mb:,.0f} MB | into each GPU",
        f"a recording of 8 s embedded | {1000 * u.embed_seconds:.0f} ms | one core, bf16",
        f"recordings of 40 held-out speakers | {u.validation_recordings:,} | in the validation trials",
        f"label-free report, 1024 utterances | {u.label_free_seconds:.1f} s | one core; all workers wait",
        f"encoder, for a pair | {u.encoder_flops / 1e9:.1f} GFLOP | counted, forward and backward",
    ]
    for name, flops in u.loss_flops.items():
        rows.append(f"{name}, {c.batch_size} pairs | {flops / 1e9:,.0f} GFLOP | counted; on every GPU")
    return table(["unit", "measured", "what it is"], [(line + " | ").split(" | ")[:3] for line in rows])


def limit_table(units: Units, cluster: Cluster, rates: Sequence[float]) -> str:
    """Return demands as shares of the supply, then the limit that is reached first."""
    columns = [list(extrapolation.demands(units, cluster, rate)) for rate in rates]
    rows = []
    for demands in zip(*columns, strict=True):
        name = f"{demands[0].name} (of {demands[0].available:,.0f} {demands[0].unit})"
        rows.append([name, *(f"{d.needed:,.4g}: {d.use:.0%}" for d in demands), demands[0].settings])
    first = [extrapolation.first_limit(column) for column in columns]
    rows.append(["**first limit**", *(f"{d.name}, {d.use:.0%}" for d in first), ""])
    return table(["needed", *_heads(rates), "what helps"], rows)


def other_table(units: Units, cluster: Cluster, rates: Sequence[float]) -> str:
    """Return times, shares of time, and demands for resources whose supply is unknown."""
    u, c = units, cluster
    collectives = extrapolation.collectives_per_step(u)
    plan_gb = c.gpus_per_node * u.span_peak_bytes / 1e9
    recordings = u.validation_recordings / c.gpus

    def row(name: str, cell: Callable[[float], str], settings: str) -> list[str]:
        return [name, *(cell(rate) for rate in rates), settings]

    def steps(rate: float) -> float:
        return rate / c.pairs_per_batch

    rows = [
        row("an epoch", lambda r: f"{extrapolation.epoch_seconds(u, c, r):,.1f} s", ""),
        row("steps per second", lambda r: f"{steps(r):.1f}", "`train.batch_size`"),
        row(
            "tasks of all workers",
            lambda r: f"{c.gpus * r / c.pairs_per_block:,.0f} /s",
            "`utterances_per_block`",
        ),
        row(
            "read from storage",
            lambda r: f"{c.gpus * r * u.views_per_pair_bytes / 1e9:.1f} GB/s",
            "corpus on the data machines' own disks or in their memory",
        ),
        row(
            "time of a collective, if all together take a tenth of a step",
            lambda r: f"{1e5 / steps(r) / collectives:.0f} µs",
            "`train.batch_size` up; `train.sync_batchnorm=false` (another run)",
        ),
        row(
            "share of time: copies of checkpoints",
            lambda r: f"{extrapolation.checkpoint_share(u, c, r):.2%}",
            "`evaluation.every_epochs` up, then `checkpoint_every_minutes`",
        ),
        row(
            "share of time: label-free report of one worker",
            lambda r: f"{extrapolation.serial_validation_share(u, c, r):.0%}",
            "`evaluation.every_epochs` up; `label_free.utterances` down",
        ),
        row(
            "recordings that a worker embeds in a validation",
            lambda r: f"{recordings:.0f}",
            "`held_out_speakers`; `evaluation.every_epochs`",
        ),
        row("plans of a GPU node's workers", lambda r: f"{plan_gb:.1f} GB", "none; `train.batch_size` down"),
    ]
    encoder = c.pairs_per_batch * u.encoder_flops
    for name, flops in u.loss_flops.items():
        share = f"{flops / encoder:.1%} of the encoder's FLOP"
        rows.append(row(name, lambda r, share=share: share, "`train.batch_size` and `projector_dims` down"))
    return table(["", *_heads(rates), "what helps"], rows)


def first_table(units: Units, cluster: Cluster) -> str:
    """Return the first limit and its rate, at several batch sizes and block lengths."""
    rows = []
    for batch_size in (4 * cluster.gpus, 16 * cluster.gpus, 64 * cluster.gpus, 256 * cluster.gpus):
        for block_size in (cluster.utterances_per_block, 4 * cluster.utterances_per_block):
            variant = dataclasses.replace(cluster, batch_size=batch_size, utterances_per_block=block_size)
            rate, first = extrapolation.fastest_rate(units, variant)
            store = f"{extrapolation.store_least_bytes(units, variant) / 1e9:.1f} GB"
            rows.append([f"{batch_size:,}", f"{block_size:,}", f"{rate:,.0f}", first.name, store])
    return table(
        ["batch_size", "utterances_per_block", "pairs/s per GPU", "first limit", "smallest store"], rows
    )


def _heads(rates: Sequence[float]) -> list[str]:
    return [f"{rate:,.0f} pairs/s per GPU" for rate in rates]
