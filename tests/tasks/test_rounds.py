"""Test the loop in one process: real trainings of a few steps, with batches made in this process."""

import pytest
import torch

from sslsv.config import to_yaml
from sslsv.data.lists import read_train_lists
from sslsv.evaluation.trials import open_training_side
from sslsv.runs.checkpoint import find_checkpoint, read_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.settings import Failed, build
from sslsv.tasks import rounds
from sslsv.tasks.pseudo_labels import PseudoLabelConfig
from sslsv.tasks.rounds import Loop, best_of
from sslsv.training.loop import Training

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture(scope="module")
def settings(demo_corpus, small_run):
    def changed(**changes):
        plain = {
            "init": small_run,
            "num_rounds": 2,
            "clustering": {"name": "kmeans_agglomerative", "num_clusters": [4, 6], "min_members": 2},
            "large_margin": {"model.margin": 0.4, "train.epochs": 3},
            "round_settings": [{"model.margin": 0.1}, {"model.margin": 0.2}],
            "data": {"root": str(demo_corpus), "train_lists": ["voxceleb2_train_list"], "augment": []},
            "encoder": {"name": "thin_resnet34", "width": 2, "embedding_dim": 16},
            "model": {
                "name": "supervised",
                "crop_seconds": 0.5,
                "gate": {"name": "mixture", "start_epoch": 1},
                "correction": {"start_epoch": 1, "threshold": 0.3},
            },
            "train": {"epochs": 2, "batch_size": 8},
            "evaluation": {
                "held_out_speakers": 3,
                "test": ["trials"],
                "label_free": {"utterances": 4, "views": 2, "crop_seconds": 0.5},
            },
            "run": {"name": "loop", "tensorboard": False, "wandb": "disabled"},
        }
        return build(PseudoLabelConfig, plain | changes)

    return changed


class Trainer:
    """Train in this process; the training with number `interrupted` raises KeyboardInterrupt instead."""

    def __init__(self, interrupted=None):
        self.configs, self.interrupted = [], interrupted

    def __call__(self, config):
        self.configs.append(config)
        if len(self.configs) == self.interrupted:
            raise KeyboardInterrupt
        folder = RunFolder(config.run.storage, config.run.name)
        folder.write("config.yml", to_yaml(config).encode())
        return Training(config, folder, device=torch.device("cpu")).run()


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path), "loop")


@pytest.fixture(scope="module")
def reference(tmp_path_factory, settings):
    """Run an undisturbed loop; return its folder and the configs of its trainings."""
    from tests.conftest import batches_without_ray

    trainer, target = Trainer(), RunFolder(str(tmp_path_factory.mktemp("whole")), "loop")
    with pytest.MonkeyPatch.context() as patch:
        batches_without_ray(patch.setattr)
        patch.setattr(rounds, "PART_UTTERANCES", 10)
        Loop(settings(), target, trainer).run()
    return target, trainer.configs


def records_of(folder):
    records = folder.records("rounds.jsonl")
    for record in records:  # paths and times differ
        for key in [key for key in record if key.endswith("_seconds") or key == "source"]:
            del record[key]
    return records


def weights_of(folder):
    stages = [record["stage"] for record in records_of(folder)]
    runs = [RunFolder(folder.location, stage) for stage in stages]
    return {run.name: read_checkpoint(run, find_checkpoint(run, "last")).model for run in runs}


def test_loop__leaves_a_list_and_a_run_per_round_and_says_what_they_are(reference, demo_corpus, settings):
    folder, configs = reference
    records = records_of(folder)
    assert [record["stage"] for record in records] == ["round_1", "round_2", "large_margin"]
    manifest, _ = open_training_side(settings())
    for record, config in zip(records, configs, strict=True):
        listed = read_train_lists(demo_corpus, [f"{folder.location}/{record['list']}"])
        assert set(listed.paths) <= set(manifest.paths)  # no utterance of a held-out speaker
        assert config.data.train_lists == (f"{folder.location}/{record['list']}",)
        assert 0 < record["kept"] <= 1 and 0 <= record["corrected"] < 1
        assert record["value"] == record["eer"] and "test/trials/eer" in record["test"]
    for number, record in enumerate(records[:2], 1):
        assert record["clusters"] == listed_clusters(folder, number) and len(record["sizes"]) == 5
        assert record["utterances"] + record["left_out"] == len(manifest)
    assert records[0]["nmi_before"] is None and 0 < records[1]["nmi_before"] <= 1
    assert "purity" not in records[0]
    assert not folder.names("embeddings")


def listed_clusters(folder, number):
    return len({line.split()[0] for line in folder.read(f"lists/round_{number}").splitlines()})


def test_loop__stages_have_their_settings_and_encoders(reference, small_run):
    folder, configs = reference
    best = best_of(records_of(folder)[:2])["stage"]
    assert [config.model.margin for config in configs] == [0.1, 0.2, 0.4]
    assert [config.encoder.init for config in configs] == [small_run, small_run, f"{folder.location}/{best}"]
    assert [config.model.keeps_classes for config in configs] == [False, False, True]
    assert configs[2].train.epochs == 3


def test_loop__the_best_stage_is_that_of_validation(reference):
    folder, _ = reference
    summary, records = folder.read_json("summary.json"), records_of(folder)
    assert summary["best"]["value"] == min(record["value"] for record in records)
    assert summary["run"] == f"{folder.location}/{summary['best']['stage']}"


@pytest.mark.parametrize("moment", ["embedding", "clustering", "between rounds"])
def test_loop__interrupted_at_any_moment_and_started_again_it_ends_alike(
    moment, reference, folder, settings, monkeypatch
):
    """The slow test of the command covers interruptions during a training."""
    trainer = Trainer(interrupted=2 if moment == "between rounds" else None)
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "PART_UTTERANCES", 10)
        if moment == "clustering":
            patch.setattr(rounds, "cluster", lambda *_: interrupt())
        if moment == "embedding":
            write, count = folder.write, [0]

            def write_twice(name, content):
                count[0] += "embeddings" in name
                return interrupt() if count[0] == 2 else write(name, content)

            patch.setattr(folder, "write", write_twice)
        with pytest.raises(KeyboardInterrupt):
            Loop(settings(), folder, trainer).run()
    leftover = folder.names("embeddings")
    assert bool(leftover) == (moment in ("embedding", "clustering"))
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "PART_UTTERANCES", 10)
        Loop(settings(), folder, Trainer()).run()
    undisturbed = reference[0]
    for number in (1, 2):
        assert folder.read(f"lists/round_{number}") == undisturbed.read(f"lists/round_{number}")
    assert records_of(folder) == records_of(undisturbed)
    for stage, weights in weights_of(undisturbed).items():
        assert all(torch.equal(weights[name], found) for name, found in weights_of(folder)[stage].items())


def interrupt():
    raise KeyboardInterrupt


def test_loop__labels_that_are_named_judge_clusters_and_what_is_kept(folder, settings):
    config = settings(labels="voxceleb2_train_list", num_rounds=1, large_margin=None)
    Loop(config, folder, Trainer()).run()
    (record,) = records_of(folder)
    for key in ("nmi", "purity", "kept_purity"):
        assert 0 < record[key] <= 1


def test_loop__a_run_that_is_described_is_trained_first_on_the_same_utterances(folder, settings, tmp_path):
    first = tmp_path / "first.yml"
    first.write_text(
        "encoder: {name: thin_resnet34, width: 2, embedding_dim: 16}\n"
        "model: {name: simclr, crop_seconds: 0.5}\n"
        "train: {epochs: 1, batch_size: 8}\n"
        "data: {augment: []}\n"
    )
    trainer = Trainer()
    config = settings(init=str(first), num_rounds=1, large_margin=None)
    Loop(config, folder, trainer).run()
    simclr, supervised = trainer.configs
    assert simclr.data.train_lists == config.data.train_lists
    assert simclr.evaluation.held_out_speakers == 3
    assert supervised.encoder.init == f"{folder.location}/round_0"


def test_loop__unreadable_recordings_are_left_out_and_named(folder, demo_corpus, tmp_path, settings):
    (tmp_path / "bad.wav").write_text("this is no audio")
    lines = (demo_corpus / "voxceleb2_train_list").read_text()
    (tmp_path / "list").write_text(f"odd {tmp_path}/bad.wav\n{lines}")
    data = {"root": str(demo_corpus), "train_lists": [f"{tmp_path}/list"], "augment": []}
    config = settings(num_rounds=1, large_margin=None, data=data)
    Loop(config, folder, Trainer()).run()
    (record,) = records_of(folder)
    assert list(record["unreadable"]) == [f"{tmp_path}/bad.wav"]
    assert b"bad.wav" not in folder.read("lists/round_1")


def test_loop__patience_ends_the_rounds(folder, settings):
    loop = Loop(settings(round_patience=1), folder, Trainer())
    loop.records = [stage("round_1", 20.0), stage("round_2", 21.0)]
    assert loop.has_stopped
    loop.records[1]["value"] = 19.0
    assert not loop.has_stopped


def stage(name, value, criterion="eer"):
    return {"stage": name, "criterion": criterion, "value": value}


def test_best_of__goes_by_the_direction_of_the_criterion():
    records = [stage("round_1", 20.0), stage("round_2", 30.0), stage("round_3", 20.0)]
    assert best_of(records)["stage"] == "round_1"
    higher = [{**record, "criterion": "label_free/lidar"} for record in records]
    assert best_of(higher)["stage"] == "round_2"
    nothing = [{**record, "value": None} for record in records]
    assert best_of(nothing)["stage"] == "round_3"


def test_loop__a_training_that_fails_is_told_and_leaves_the_rest(folder, settings):
    with pytest.raises(Failed, match="no room"):
        Loop(settings(), folder, lambda config: {"error": "no room"}).run()
    assert folder.has("lists/round_1") and not folder.has("rounds.jsonl")


def test_loop__a_training_that_refuses_its_settings_is_a_stage_that_failed(folder, settings):
    def refuse(config):
        raise ValueError("no such folder")

    with pytest.raises(Failed, match="round_1: no such folder"):
        Loop(settings(), folder, refuse).run()


def test_loop__without_a_gpu_by_its_settings_embeds_on_the_cpu(folder, settings, small_run, monkeypatch):
    devices = []
    load = rounds.SpeakerEncoder.load
    monkeypatch.setattr(
        rounds.SpeakerEncoder, "load", lambda run, device: devices.append(device) or load(run, device="cpu")
    )
    for resources in ({}, {"gpu": False}):
        Loop(settings(resources=resources), folder, Trainer()).embed(1, small_run)
    assert devices == [None, "cpu"]


def test_loop__clusters_that_are_all_too_small_are_told(folder, settings):
    config = settings(clustering={"name": "kmeans", "num_clusters": [4], "min_members": 50})
    with pytest.raises(Failed, match="round 1: none of the 4 clusters has 50 utterances"):
        Loop(config, folder, Trainer()).run()
