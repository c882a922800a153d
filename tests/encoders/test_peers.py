"""Check that weights saved by other projects give encoders with the same embeddings."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslsv import registry
from sslsv.encoders.peers import NoEncoderError, find_encoders, renamed
from sslsv.settings import build
from tests.encoders.peers import largest_difference, peer_module

torch.set_num_threads(1)


class Flat(nn.Module):
    """Remove the middle dimension of SpeechBrain's embeddings (B, 1, D)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: Tensor) -> Tensor:
        return self.inner(features)[:, 0]


def ecapa(package: str, **settings: Any) -> nn.Module:
    widths = {"channels": [64] * 4 + [192], "lin_neurons": 24} | settings
    if package == "speechbrain":
        module = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN")
    else:
        module = peer_module(package)
    return module.ECAPA_TDNN(40, **widths)


def wespeaker_model(name: str, kind: str, **settings: Any) -> nn.Module:
    return getattr(peer_module(f"wespeaker.models.{name}"), kind)(**settings)


def redimnet_of_wespeaker(size: str) -> nn.Module:
    return wespeaker_model("redimnet", f"ReDimNet{size}")


def campplus_of_wespeaker() -> nn.Module:
    module = wespeaker_model("campplus", "CAMPPlus", feat_dim=80, embed_dim=24)
    # wespeaker's pooling adds 1e-7 to variances, which matters for channels that are always 0.
    module.xvector.stats = peer_module("speakerlab.models.campplus.layers").StatsPool()
    return module


CASES: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {
    ("speechbrain", "ecapa_tdnn"): (lambda: ecapa("speechbrain"), {"channels": 64, "form": "speechbrain"}),
    ("3dspeaker", "ecapa_tdnn"): (
        lambda: ecapa("speakerlab.models.ecapa_tdnn.ECAPA_TDNN"),
        {"aggregation_channels": 192, "embedding_dim": 24},
    ),
    ("wespeaker", "ecapa_tdnn"): (
        lambda: wespeaker_model(
            "ecapa_tdnn", "ECAPA_TDNN", channels=64, feat_dim=40, embed_dim=24, global_context_att=True
        ),
        {"form": "wespeaker", "has_global_context": True, "embedding_batchnorm": False},
    ),
    ("wespeaker", "ecapa_tdnn, batch norm"): (
        lambda: wespeaker_model("ecapa_tdnn", "ECAPA_TDNN", channels=64, embed_dim=24, emb_bn=True),
        {"has_global_context": False, "embedding_batchnorm": True, "aggregation_channels": 1536},
    ),
    ("wespeaker", "resnet"): (
        lambda: wespeaker_model("resnet", "ResNet34", feat_dim=80, embed_dim=24),
        {"depth": 34, "width": 32},
    ),
    ("wespeaker", "resnet, bottlenecks"): (
        lambda: wespeaker_model("resnet", "ResNet50", feat_dim=40, embed_dim=24),
        {"depth": 50, "embedding_dim": 24},
    ),
    ("wespeaker", "redimnet"): (lambda: redimnet_of_wespeaker("B1"), {"size": "b1"}),
    ("wespeaker", "redimnet, gates"): (lambda: redimnet_of_wespeaker("B3"), {"size": "b3"}),
    ("wespeaker", "redimnet, 60 bands"): (lambda: redimnet_of_wespeaker("B0"), {"size": "b0"}),
    ("wespeaker", "campplus"): (campplus_of_wespeaker, {"embedding_dim": 24}),
    ("3dspeaker", "campplus"): (
        lambda: peer_module("speakerlab.models.campplus.DTDNN").CAMPPlus(80, 24),
        {"embedding_dim": 24},
    ),
    ("3dspeaker", "eres2netv2"): (
        lambda: peer_module("speakerlab.models.eres2net.ERes2NetV2").ERes2NetV2(
            m_channels=16, baseWidth=24, scale=4, expansion=4, embedding_size=24
        ),
        {"width": 16, "scale": 4, "expansion": 4},
    ),
    ("speechbrain", "tdnn"): (
        lambda: pytest.importorskip("speechbrain.lobes.models.Xvector").Xvector(
            in_channels=40, lin_neurons=24
        ),
        {"embedding_dim": 24, "has_second_layer": False},
    ),
}


def randomized(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor += (0.0 if name.endswith("running_var") else -0.05) + 0.1 * torch.rand(
                tensor.shape, generator=generator
            )
    return module.eval()


def encoder_classes(project: str) -> list[Any]:
    kinds = [registry.find("encoders", name) for name in registry.names("encoders")]
    return [kind for kind in kinds if project in kind.peer_names]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_find_encoders__gives_the_settings_and_the_embeddings_of_the_peer(case: tuple[str, str]) -> None:
    project, name = case[0], case[1].split(",")[0]
    make, expected = CASES[case]
    theirs = randomized(make())
    tensors = {f"model.{key}": value for key, value in theirs.state_dict().items()}
    found = find_encoders(tensors, project, encoder_classes(project))
    assert list(found) == ["model."]
    settings, weights = found["model."]
    assert (settings["name"], settings | expected) == (name, settings)
    kind = registry.find("encoders", name)
    ours = kind(build(kind.Config, settings))
    ours.load_state_dict(weights)
    if project == "speechbrain":
        theirs = Flat(theirs)
    tolerance = 1e-3 if name == "tdnn" else 1e-5  # the peer's TDNN adds noise of 1e-5 to its means
    # CAM++ is compared on three seconds, 74 frames longer than the first segment of its masks.
    num_samples = 48000 if name == "campplus" else 12000
    for is_training in (False, True):
        assert largest_difference(theirs, ours, is_training, num_samples) < tolerance


def upstream_name(name: str) -> str:
    """Return the name of a weight of Fast ResNet-34 in the original sslsv."""
    part, _, rest = name.partition(".")
    if part == "blocks":
        index, _, rest = rest.partition(".")
        stage = sum(int(index) >= first for first in (0, 3, 7, 13))
        rest = rest.replace("norm", "bn").replace("shortcut", "downsample")
        rest = rest.replace("gates.squeeze", "se.fc.0").replace("gates.excite", "se.fc.2")
        return f"block{stage}.{int(index) - (0, 3, 7, 13)[stage - 1]}.{rest}"
    names = {"stem.0": "conv", "stem.1": "bn", "head": "fc", "pooling.hidden": "pooling.sap_linear"}
    names["pooling.score"] = "pooling.attention"
    return next((name.replace(ours, theirs) for ours, theirs in names.items() if name.startswith(ours)), name)


@pytest.mark.parametrize(("num_mels", "pooling"), [(40, "sap"), (80, "stats")])
def test_find_encoders__knows_student_and_teacher_of_the_first_sslsv(num_mels: int, pooling: str) -> None:
    kind = registry.find("encoders", "thin_resnet34")
    settings = {"features": {"num_mels": num_mels}, "width": 8, "pooling": pooling, "embedding_dim": 24}
    ours = kind(build(kind.Config, settings))
    weights = {upstream_name(name): tensor for name, tensor in ours.state_dict().items()}
    weights["features_extractor.0.spectrogram.window"] = torch.hann_window(400)
    tensors = {f"model.{part}.{k}": v for part in ("encoder", "encoder_momentum") for k, v in weights.items()}
    tensors["model.head.mlp.0.weight"] = torch.zeros(3)
    found = find_encoders(tensors, "upstream", encoder_classes("upstream"))
    assert list(found) == ["model.encoder.", "model.encoder_momentum."]
    result = found["model.encoder."]
    assert result.settings["features"] == {"window": "hann", "num_mels": num_mels}
    assert build(kind.Config, result.settings).pooling == pooling
    assert all(torch.equal(result.weights[name], tensor) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda state: {"conv1.weight": state["conv1.weight"]},
            "no tensor has the name of one of their layers",
        ),
        (lambda state: state | {"seg_2.weight": torch.zeros(1)}, "it has seg_2.weight, which resnet lacks"),
        (
            lambda state: {k: v for k, v in state.items() if k != "layer2.0.bn1.weight"},
            "it lacks 1 tensors of resnet, such as blocks.2.layers.1.weight",
        ),
        (
            lambda state: state | {"layer4.1.bn2.bias": torch.zeros(9)},
            r"its blocks.7.layers.4.bias has the shape \(9,\), not \(256,\) as in resnet",
        ),
    ],
    ids=["nothing", "another head", "incomplete", "another size"],
)
def test_find_encoders__says_what_does_not_fit(change: Any, sentence: str) -> None:
    state = wespeaker_model("resnet", "ResNet18", feat_dim=40, embed_dim=16).state_dict()
    with pytest.raises(NoEncoderError, match=sentence):
        find_encoders(change(dict(state)), "wespeaker", encoder_classes("wespeaker"))


def test_renamed__counts_matches_in_natural_order_and_drops_empty_names() -> None:
    names = ["layer2.0.w", "layer1.10.w", "layer1.9.w", "loss.w"]
    assert renamed(names, "^layer*.*=blocks.# ^loss=") == {
        "layer1.9.w": "blocks.0.w",
        "layer1.10.w": "blocks.1.w",
        "layer2.0.w": "blocks.2.w",
    }
