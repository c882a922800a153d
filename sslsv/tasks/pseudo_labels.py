"""Define the settings of a pseudo-label loop: the settings of its supervised runs, and of its rounds."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sslsv.config import Config, load_config
from sslsv.data.section import channel_of
from sslsv.settings import (
    ConfigError,
    Location,
    apply_overrides,
    differences,
    load,
    locate,
    refuse_if,
    section,
)

# Ward's method stores the distances of all pairs: 1.6 GB for this many rows, and twice that while it runs.
MAX_WARD_ROWS = 20_000

# Settings of `data` that determine the training utterances.
_CORPUS = ("root", "train_lists", "held_out_lists", "fraction", "fraction_of")
# Settings that all stages must share, so that their runs can be found and compared.
_SHARED = ("seed:", "run.", "model.name:", *(f"data.{key}:" for key in _CORPUS))
_SHARED += ("evaluation.held_out_", "evaluation.validation:", "evaluation.criterion:")

Settings = Annotated[dict[str, Any], Field(description="changes, such as model.margin: 0.5")]


@section
class ClusteringConfig:
    """Choose how utterances are clustered into pseudo-speakers."""

    name: Annotated[
        Literal["kmeans", "kmeans_agglomerative", "infomap"],
        Field(description="infomap determines the number of clusters itself, on a graph of neighbours"),
    ] = "kmeans"
    num_clusters: Annotated[
        tuple[Annotated[int, Field(ge=2)], ...],
        Field(min_length=1, description="if there are several, the one with the best silhouette is used"),
    ] = (7500,)
    iterations: Annotated[int, Field(ge=1, description="rounds of k-means")] = 20
    num_centroids: Annotated[
        int, Field(ge=2, le=MAX_WARD_ROWS, description="kmeans_agglomerative: k-means clusters to merge")
    ] = MAX_WARD_ROWS
    num_neighbors: Annotated[int, Field(ge=1, description="infomap: edges per utterance")] = 30
    min_members: Annotated[int, Field(ge=1, description="clusters with fewer utterances are left out")] = 4

    def __post_init__(self) -> None:
        refuse_if(
            self.name == "kmeans_agglomerative" and max(self.num_clusters) > self.num_centroids,
            f"num_clusters is {list(self.num_clusters)}, more than the {self.num_centroids} centroids "
            "(num_centroids) that are merged into them; lower the first or raise the second",
        )


@section
class PseudoLabelConfig(Config):
    """Hold the settings of a pseudo-label loop: all settings of its supervised runs, and of its rounds."""

    init: Annotated[Location, Field(description="first encoder: a run, or a config (x.yml) to train")] = (
        "configs/simclr.yml"
    )
    encoders_start_from: Annotated[
        Literal["first", "last", "nothing"],
        Field(description="initial weights of a round's encoder: of init, of the previous round, or new"),
    ] = "first"
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    num_rounds: Annotated[int, Field(ge=1, description="rounds of embedding, clustering and training")] = 5
    round_patience: Annotated[
        int | None, Field(ge=1, description="stop after N rounds without gain; null = run all rounds")
    ] = None
    round_settings: Annotated[
        tuple[Settings, ...], Field(description="for round 1, 2 ...; later rounds use the last one")
    ] = ()
    large_margin: Annotated[
        Settings | None, Field(description="for a last stage from the best round's run; null = no such stage")
    ] = None
    labels: Annotated[
        Location | None,
        Field(description="list of `speaker path` lines, used only to evaluate clusters in reports"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_if(
            self.model.name != "supervised",
            f"model.name is {self.model.name!r}; only 'supervised' learns clusters: take a config of "
            "configs/pseudo_label, and give the run of another method by init=RUN",
        )
        refuse_if(
            self.round_patience is not None and self.evaluation.selection_criterion is None,
            f"round_patience is {self.round_patience} but nothing is validated; set round_patience=null, "
            "evaluation.held_out_speakers, evaluation.validation or a label-free evaluation.criterion",
        )
        is_shifted, channel = self.evaluation.held_out_is_shifted, channel_of(self.data.augment)
        for stage in chain(*stages_of(self)):
            changes = [d for d in differences(training_settings(self), stage) if d.startswith(_SHARED)]
            refuse_if(
                bool(changes),
                f"settings of a stage change {'; '.join(changes)}, but all stages must agree; leave them out",
            )
            refuse_if(
                is_shifted and channel_of(stage.data.augment) != channel,
                "data.augment of a stage has other rooms or noises, which held-out recordings get too, so "
                "stages could not be compared: change only probabilities or ratios, or set "
                "evaluation.held_out_is_shifted=false",
            )


def training_settings(loop: PseudoLabelConfig) -> Config:
    """Return the part of the settings that a training run has."""
    return Config(**{each.name: getattr(loop, each.name) for each in dataclasses.fields(Config)})


def stages_of(loop: PseudoLabelConfig) -> list[tuple[Config, Config]]:
    """Return (settings of a round, of a last stage after it) for each round, without lists and weights."""
    base, settings, stages = training_settings(loop), loop.round_settings or ({},), []
    for i in range(max(loop.num_rounds, len(settings))):
        round_config = apply_overrides(base, settings[min(i, len(settings) - 1)])
        last_stage = apply_overrides(round_config, {"model.keeps_classes": True})
        stages.append((round_config, apply_overrides(last_stage, loop.large_margin or {})))
    return stages


def load_loop(path: str | Path, overrides: Sequence[str] = ()) -> PseudoLabelConfig:
    """Return settings from a yaml file and overrides, as `config.load_config` does for a run."""
    path = locate(path)
    loop = apply_overrides(load(PseudoLabelConfig, path), overrides)
    return loop if loop.run.name is not None else apply_overrides(loop, {"run.name": path.stem})


def first_config(loop: PseudoLabelConfig, storage: str) -> Config:
    """Return the settings of the run `round_0`, given by `init`, with the loop's data and validation."""
    keys = ("held_out_speakers", "held_out_is_shifted", "validation", "test")
    changes = {
        "seed": loop.seed,
        "data": {key: getattr(loop.data, key) for key in _CORPUS},
        "evaluation": {key: getattr(loop.evaluation, key) for key in keys},
        "run": asdict(replace(loop.run, storage=storage, name="round_0")),
        "resources": asdict(loop.resources),
    }
    try:
        return apply_overrides(load_config(loop.init), changes)
    except ConfigError as error:
        raise ConfigError(f"init is {loop.init}, but with the loop's data and validation {error}") from error


def stage_config(stage: Config, storage: str, name: str, train_list: str, init: str | None) -> Config:
    """Return the settings of a stage's run in `storage`, on a list of clusters, from the encoder of `init`.

    Validation keeps its speakers: they are held out from the loop's own lists, not from the clusters.
    """
    data = stage.data
    held_out_lists = (data.held_out_lists or data.train_lists) if stage.evaluation.held_out_speakers else ()
    return replace(
        stage,
        data=replace(data, train_lists=(train_list,), held_out_lists=held_out_lists, fraction=1.0),
        encoder=replace(stage.encoder, init=init or stage.encoder.init),
        run=replace(stage.run, storage=storage, name=name),
    )


def is_config_file(init: str) -> bool:
    """Return whether `init` is a config file (otherwise it is a run)."""
    return init.endswith((".yml", ".yaml"))
