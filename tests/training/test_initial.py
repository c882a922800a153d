"""Test runs that start from the encoder of another run: what is copied and what is refused."""

import pytest
import torch
from safetensors.torch import save_file

from sslsv.build import build_encoder, build_model
from sslsv.config import Config, to_yaml
from sslsv.evaluation.export import pack_encoder
from sslsv.models.base import CorpusSize
from sslsv.runs.checkpoint import write_checkpoint
from sslsv.runs.folder import RunFolder
from sslsv.settings import apply_overrides
from sslsv.training.initial import load_source
from sslsv.training.state import build_state, checkpoint_of
from tests.models.networks import shake

SIZE = CorpusSize(20, 5)
DEVICE = torch.device("cpu")
SMALL = ["encoder.width=4", "encoder.embedding_dim=16", "evaluation.held_out_speakers=0"]


def config(*overrides: str) -> Config:
    return apply_overrides(Config(), [*SMALL, *overrides])


@pytest.fixture
def run(tmp_path):
    """Return the folder of a DINO run whose teacher (used for embeddings) differs from its student."""
    settings = config("model=dino", "model.head_dims=[8, 4]", "model.num_prototypes=6", "seed=5")
    state = build_state(settings, SIZE, DEVICE)
    shake(state.model.teacher)
    folder = RunFolder(str(tmp_path), "source")
    folder.write("config.yml", to_yaml(settings).encode())
    write_checkpoint(folder, checkpoint_of(state, settings))
    return folder, state.model


def test_start_from__a_run_gives_the_encoder_of_its_embeddings_to_student_and_teacher(run):
    folder, source = run
    settings = config(
        f"encoder.init={folder.location}", "model=moco", "model.queue_length=8", "encoder.frozen=true"
    )
    model = build_model(settings, SIZE)
    model.start_from(*load_source(settings))
    for name, weights in source.teacher["encoder"].state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], weights)
        assert torch.equal(model.teacher["encoder"].state_dict()[name], weights)


def test_load_source__says_which_weights_of_a_run_without_a_best_checkpoint_are_taken(run, capsys):
    folder, _ = run
    load_source(config(f"encoder.init={folder.location}"))
    assert "encoder.init: no best checkpoint was chosen in" in capsys.readouterr().err


def test_start_from__an_exported_file_will_do(run, tmp_path):
    _, source = run
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(pack_encoder(source.encoder, {}))
    settings = config(f"encoder.init={file}")
    model = build_model(settings, SIZE)
    model.start_from(*load_source(settings))
    assert torch.equal(model.encoder.head.weight, source.encoder.head.weight)


def test_load_source__another_kind_of_encoder_is_refused_with_the_difference(run):
    folder, _ = run
    settings = config(f"encoder.init={folder.location}", "encoder.embedding_dim=8")
    with pytest.raises(ValueError, match="an encoder with embedding_dim 16, but this run's has 8"):
        load_source(settings)


def test_encoder__frozen_has_no_gradient_and_keeps_its_statistics():
    settings = config("encoder.frozen=true", "model.projector_dims=[8]", "model.crop_seconds=0.3")
    state = build_state(settings, SIZE, DEVICE)
    before = {name: value.clone() for name, value in state.model.encoder.state_dict().items()}
    state.model.train()
    views = torch.randint(-9000, 9000, (4, 2, 4800)).to(torch.int16)
    state.model.project({"views": views})[1].square().sum().backward()
    assert all(p.grad is None for p in state.model.encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in state.model.encoder.state_dict().items())


def test_encoder__rate_scale_is_a_factor_of_its_learning_rate_alone():
    settings = config("encoder.rate_scale=0.1", "model.projector_dims=[8]")
    state = build_state(settings, SIZE, DEVICE)
    scales = {p: g["rate_scale"] for g in state.optimizer.param_groups for p in g["params"]}
    assert {scales[p] for p in state.model.encoder.parameters()} == {0.1}
    assert {scales[p] for p in state.model.projector.parameters()} == {1.0}


TRANSFORMER = ["encoder=speech_transformer", "encoder.num_layers=1", "evaluation.held_out_speakers=0"]


def transformer(*overrides: str) -> Config:
    return apply_overrides(Config(), [*TRANSFORMER, *overrides])


@pytest.fixture(scope="module")
def trunk():
    """Return the weights of another WavLM."""
    return build_encoder(transformer("seed=7")).trunk.state_dict()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_start_from__weights_of_a_trunk_go_to_student_and_teacher(trunk, tmp_path, name):
    (torch.save if name == "w.pt" else save_file)(trunk, tmp_path / name)
    settings = transformer("model=moco", "model.queue_length=8", f"encoder.weights={tmp_path / name}")
    model = build_model(settings, SIZE)
    pooling = model.encoder.pooling.head.weight.clone()
    model.start_from(*load_source(settings))
    for encoder in (model.encoder, model.teacher["encoder"]):
        assert all(torch.equal(encoder.trunk.state_dict()[key], value) for key, value in trunk.items())
        assert torch.equal(encoder.pooling.head.weight, pooling)


@pytest.mark.parametrize(
    ("content", "settings", "sentence"),
    [
        (None, [], "but there is no such file; nothing is downloaded"),
        (b"", [], "it can't be read as weights"),
        ({"a": torch.ones(1)}, [], "does not fit the trunk wavlm_base: it lacks 34 of 34 tensors"),
        ("trunk", ["encoder.trunk=wavlm_large"], "does not fit the trunk wavlm_large: it"),
    ],
    ids=["absent", "empty", "foreign", "size"],
)
def test_load_source__weights_that_do_not_fit_are_refused(trunk, tmp_path, content, settings, sentence):
    file = tmp_path / "w.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(trunk if content == "trunk" else content, file)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        load_source(transformer(f"encoder.weights={file}", *settings))


def test_load_source__random_weights_are_not_frozen():
    with pytest.raises(ValueError, match="front_frozen is true, but random weights would stay"):
        load_source(transformer())
    assert load_source(transformer("encoder.front_frozen=false")) is None


def test_load_source__a_later_stage_may_train_otherwise(tmp_path):
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(pack_encoder(build_encoder(transformer("encoder.weights=secret/w.pt")), {}))
    assert b"secret" not in file.read_bytes()
    encoder, _ = load_source(transformer(f"encoder.init={file}", "encoder.trunk_frozen=true"))
    assert encoder.config.num_layers == 1
    with pytest.raises(ValueError, match="an encoder with num_heads 64, but this run's has 8"):
        load_source(transformer(f"encoder.init={file}", "encoder.num_heads=8"))
