"""Run the rounds of a pseudo-label loop; each embeds and clusters utterances, then trains on the clusters.

The folder of a loop is `<storage>/<name>/`, on a disk or in object storage:

loop.yml, lists.json  the resolved settings, and a digest of the training and validation lists
round_0/              the run that `init` describes, if `init` is a config
lists/round_1         `cluster path` lines              lists/round_1.json   statistics of the clustering
round_1/              the complete supervised run on that list: checkpoints, metrics.jsonl ...
large_margin/         the last stage                    rounds.jsonl  a record per finished stage
summary.json          written at the end                report.html   written after each stage
embeddings/           exists only while a round embeds and clusters

A loop resumes from these files alone. Each is written atomically, and only after the files that it depends
on, so an interrupted stage continues from its last complete file.
"""

import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsv.config import Config, is_better
from sslsv.data.lists import read_train_lists
from sslsv.evaluation.embedding import embedding_by
from sslsv.evaluation.speaker_encoder import SpeakerEncoder
from sslsv.evaluation.trials import find_list, open_training_side
from sslsv.models.clustering import half_unit_rows
from sslsv.models.gates import CORRECTED, KEPT
from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint
from sslsv.runs.folder import RunFolder, absolute, below
from sslsv.settings import Failed
from sslsv.tasks.clustering import Labels, agreement, cluster, purity
from sslsv.tasks.pseudo_labels import PseudoLabelConfig, first_config, is_config_file, stage_config, stages_of

Record = dict[str, Any]
# The function that trains a run: it returns the summary of the run, or `{"error": message}`.
Train = Callable[[Config], Record]

PART_UTTERANCES = 2**16  # utterances embedded and written at a time: 134 MB at 512 values each
LARGE_MARGIN = "large_margin"


class Loop:
    """Run the remaining stages of a loop; `train` is called for each unfinished run."""

    def __init__(self, config: PseudoLabelConfig, folder: RunFolder, train: Train) -> None:
        self.config, self.folder, self.train = config, folder, train
        self.manifest, _ = open_training_side(config)
        self.records: list[Record] = folder.records("rounds.jsonl")

    def run(self, notice: Callable[[Record], None] = lambda record: None) -> Record:
        """Run the remaining rounds and the last stage, pass each record to `notice`, return the summary.

        Raises Failed if a training fails or utterances can't be clustered.
        """
        config = self.config
        while len(self.rounds) < config.num_rounds and not self.has_stopped:
            self.record_stage(self.run_round(len(self.rounds) + 1), notice)
        if config.large_margin is not None and len(self.records) == len(self.rounds):
            self.record_stage(self.run_large_margin(), notice)
        self.folder.delete_folder("embeddings")
        best = best_of(self.records)
        summary = {"is_finished": True, "run": self.path_of(best["stage"]), "best": best}
        self.folder.write_json("summary.json", summary)
        return summary

    @property
    def rounds(self) -> list[Record]:
        """Return the records of the finished rounds."""
        return [record for record in self.records if record["stage"] != LARGE_MARGIN]

    @property
    def has_stopped(self) -> bool:
        """Return whether the last `round_patience` rounds have brought no gain."""
        patience, rounds = self.config.round_patience, self.rounds
        return bool(patience and rounds and len(rounds) - 1 - rounds.index(best_of(rounds)) >= patience)

    def path_of(self, name: str) -> str:
        """Return the full path of a file or run of the loop."""
        return below(self.folder.location, name)

    def record_stage(self, record: Record, notice: Callable[[Record], None]) -> None:
        """Record that a stage has finished."""
        self.records.append(record)
        self.folder.write_records("rounds.jsonl", self.records)
        notice(record)

    def run_round(self, number: int) -> Record:
        """Embed with the run `source`, cluster, train on the clusters; return the record of the round."""
        config, stage, first = self.config, f"round_{number}", self.first_source()
        source = self.path_of(f"round_{number - 1}") if number > 1 else first
        train_list = f"lists/{stage}"
        statistics = self.write_clusters(number, train_list, source)
        torch.cuda.empty_cache()  # frees memory for the training, which may be another process
        init = {"nothing": None, "first": first, "last": source}[config.encoders_start_from]
        settings, _ = stages_of(config)[number - 1]
        run = stage_config(settings, self.folder.location, stage, self.path_of(train_list), init)
        return {"stage": stage, "source": source, **statistics, **self.train_run(run, train_list)}

    def run_large_margin(self) -> Record:
        """Train a last stage from the best round's run, with its list and its classes."""
        best = best_of(self.rounds)
        source, train_list = self.path_of(best["stage"]), best["list"]
        _, settings = stages_of(self.config)[self.rounds.index(best)]
        run = stage_config(settings, self.folder.location, LARGE_MARGIN, self.path_of(train_list), source)
        return {"stage": LARGE_MARGIN, "source": source, **self.train_run(run, train_list)}

    def first_source(self) -> str:
        """Return the run with the first encoder, after training it if `init` is a config."""
        if not is_config_file(self.config.init):
            return absolute(self.config.init)
        self.train_run(first_config(self.config, self.folder.location))
        return self.path_of("round_0")

    def train_run(self, config: Config, train_list: str | None = None) -> Record:
        """Train a run, unless it is finished, and return its results; raises Failed."""
        folder = RunFolder(self.folder.location, str(config.run.name))
        try:
            summary = folder.read_json("summary.json") if folder.has("summary.json") else self.train(config)
        except (ValueError, OSError) as error:
            raise Failed(f"{config.run.name}: {error}") from error
        if "error" in summary:
            raise Failed(summary["error"])
        chosen = summary["best"] or summary["last"]
        at_step = [r for r in folder.metrics() if r["step"] == chosen["step"] and r.get("eer") is not None]
        record = {
            "list": train_list,
            "criterion": chosen.get("criterion"),
            "value": chosen.get("value"),
            "eer": at_step[-1]["eer"] if at_step else None,
            "test": {key: value for key, value in chosen.items() if key.startswith("test/")},
            "training_seconds": summary["seconds"],
        }
        return record | (self.gate_shares(folder, train_list) if train_list is not None else {})

    def gate_shares(self, folder: RunFolder, train_list: str) -> Record:
        """Return the shares of utterances that a run's gate kept and corrected last; empty without a gate."""
        model = read_checkpoint(folder, find_checkpoint(folder, "last")).model
        if "gate.outcomes" not in model:
            return {}
        outcomes = model["gate.outcomes"].numpy()  # list and corpus have the same order
        record: Record = {
            "kept": float((outcomes == KEPT).mean()),
            "corrected": float((outcomes == CORRECTED).mean()),
        }
        if self.config.labels is not None:
            labels = self.labels_of(self.path_of(train_list))
            labels[np.flatnonzero(labels >= 0)[outcomes != KEPT]] = -1
            record |= {"kept_purity": purity(labels, self.truth())}
        return record

    def write_clusters(self, number: int, train_list: str, source: str) -> Record:
        """Write the list of a round unless it exists, and return the statistics of the clustering."""
        if not self.folder.has(train_list):
            start = time.monotonic()
            rows, unreadable = self.embed(number, source)
            embedded = time.monotonic()
            readable = np.setdiff1d(np.arange(len(rows)), list(unreadable))
            rows = rows[torch.from_numpy(readable).to(rows.device)] if unreadable else rows
            labels = np.full(len(self.manifest), -1)
            try:
                labels[readable], silhouettes = cluster(rows, self.config.clustering, self.config.seed)
            except ValueError as error:
                raise Failed(f"round {number}: {error}") from error
            statistics = self.describe(labels, number) | {
                "silhouettes": silhouettes,
                "unreadable": {self.manifest.paths[i]: reason for i, reason in unreadable.items()},
                "embedding_seconds": embedded - start,
                "clustering_seconds": time.monotonic() - embedded,
            }
            self.folder.write_json(f"{train_list}.json", statistics)
            pairs = zip(labels.tolist(), self.manifest.paths, strict=True)
            lines = "".join(f"cluster_{label:06d} {path}\n" for label, path in pairs if label >= 0)
            self.folder.write(train_list, lines.encode(errors="surrogateescape"))
        self.folder.delete_folder("embeddings")
        result: Record = self.folder.read_json(f"{train_list}.json")
        return result

    def embed(self, number: int, source: str) -> tuple[Tensor, dict[int, str]]:
        """Return unit embeddings (N, D), float16, of all training utterances, and why some can't be read.

        Embeddings that an interrupted command has written are reused.
        """
        device = "cpu" if self.config.resources.gpu is False else None
        paths, encoder = self.manifest.paths, SpeakerEncoder.load(source, device=device)
        prefix = f"embeddings/{number}_{encoder.identity}"  # parts of another encoder have other names
        parts = {f"{prefix}_{i:09d}.npz": i for i in range(0, len(paths), PART_UTTERANCES)}
        if missing := [name for name in parts if not self.folder.has(name)]:
            count = min(len(missing) * PART_UTTERANCES, len(paths))
            with embedding_by(encoder, count, None, None) as embed:
                for name in missing:
                    part = paths[parts[name] : parts[name] + PART_UTTERANCES]
                    rows, bad = embed(part, self.config.data.root)
                    buffer = io.BytesIO()
                    np.savez(buffer, rows=rows, bad=list(bad), why=np.array(list(bad.values()), dtype=str))
                    self.folder.write(name, buffer.getvalue())
        embeddings, unreadable = list[Tensor](), dict[int, str]()
        for name, first in parts.items():
            with np.load(io.BytesIO(self.folder.read(name))) as saved:
                embeddings.append(half_unit_rows(torch.from_numpy(saved["rows"]), encoder.device))
                indices = (first + saved["bad"].astype(int)).tolist()
                unreadable |= dict(zip(indices, saved["why"].tolist(), strict=True))
        return torch.cat(embeddings), unreadable

    def describe(self, labels: Labels, number: int) -> Record:
        """Return cluster sizes, and how `labels` (N,) agree with the previous round and the true speakers."""
        sizes = np.bincount(labels[labels >= 0])
        record: Record = {
            "clusters": len(sizes),
            "utterances": int(sizes.sum()),
            "left_out": int((labels < 0).sum()),
            "sizes": np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1]).tolist(),
            "nmi_before": None,
        }
        if number > 1:
            before = self.labels_of(self.path_of(f"lists/round_{number - 1}"))
            record["nmi_before"] = agreement(labels, before)
        if self.config.labels is not None:
            truth = self.truth()
            record |= {"nmi": agreement(labels, truth), "purity": purity(labels, truth)}
        return record

    def truth(self) -> Labels:
        """Return each utterance's speaker (N,) by the list `labels`, for reports only; -1 if unknown."""
        return self.labels_of(find_list(self.config.data.root, str(self.config.labels)))

    def labels_of(self, file: str) -> Labels:
        """Return the number of each utterance's speaker (N,) in a train list; -1 if it is not listed."""
        labelled = read_train_lists(self.config.data.root, [file])
        speaker_of = dict(zip(labelled.paths, labelled.speakers.tolist(), strict=True))
        return np.array([speaker_of.get(path, -1) for path in self.manifest.paths])


def best_of(records: Sequence[Record]) -> Record:
    """Return the record with the best value, the first of equal ones; without values, the last record."""
    valued = [record for record in records if record["value"] is not None]
    best = valued[0] if valued else records[-1]
    for record in valued:
        best = record if is_better(record["criterion"], record["value"], best["value"]) else best
    return best
