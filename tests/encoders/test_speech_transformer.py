import re

import pytest
import torch
import torchaudio.models
from torch import nn

from sslsv.encoders.speech_transformer import (
    FactorizedAttention,
    SpeechTransformer,
    hidden_states,
    trunk_weights,
)
from sslsv.evaluation.export import load_encoder, pack_encoder, pack_onnx
from sslsv.settings import ConfigError, build

CONVOLUTIONS = [(8, 10, 5), (8, 8, 4), (8, 4, 2)]
# Settings of torchaudio's models: with a norm after each layer (as in Base) or before it (as in Large).
LAYOUTS = {
    "base": {"extractor_mode": "group_norm", "encoder_layer_norm_first": False},
    "large": {"extractor_mode": "layer_norm", "encoder_layer_norm_first": True},
}


def small_trunk(kind: str, layout: str) -> nn.Module:
    torch.manual_seed(1)
    rates = dict.fromkeys(("projection", "attention", "ff_interm"), 0.1)
    settings = {f"encoder_{name}_dropout": rate for name, rate in rates.items()} | LAYOUTS[layout]
    if kind == "wavlm":
        settings |= {"encoder_num_buckets": 32, "encoder_max_distance": 40}
    trunk = getattr(torchaudio.models, f"{kind}_model")(
        extractor_conv_layer_config=CONVOLUTIONS,
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_ff_interm_features=24,
        encoder_dropout=0.1,
        encoder_layer_drop=0.0,
        aux_num_out=None,
        **settings,
    )
    for parameter in trunk.parameters():  # norms, gates and biases too
        parameter.data += 0.2 * torch.randn_like(parameter)
    return trunk.eval()


def their_model(kind: str, layout: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="make test installs it")
    name = {"wavlm": "WavLM", "hubert": "Hubert", "wav2vec2": "Wav2Vec2"}[kind]
    channels, kernels, strides = zip(*CONVOLUTIONS, strict=True)
    config = getattr(transformers, f"{name}Config")(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=24,
        conv_dim=channels,
        conv_kernel=kernels,
        conv_stride=strides,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=layout.replace("base", "group").replace("large", "layer"),
        do_stable_layer_norm=layout == "large",
        **({"num_buckets": 32, "max_bucket_distance": 40} if kind == "wavlm" else {}),
    )
    torch.manual_seed(2)
    model = getattr(transformers, f"{name}Model")(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def waveforms() -> torch.Tensor:
    return 0.1 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(3)) + 0.05


def normalized(samples: torch.Tensor) -> torch.Tensor:
    return nn.functional.layer_norm(samples, samples.shape[1:])


@pytest.mark.parametrize("kind", ["wavlm", "wav2vec2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_states__are_torchaudios_and_the_input_of_the_layers(kind: str, layout: str) -> None:
    trunk, samples = small_trunk(kind, layout), waveforms()
    with torch.no_grad():
        found = hidden_states(trunk, samples)
        expected, _ = trunk.extract_features(samples if layout == "base" else normalized(samples))
    assert len(found) == 4
    assert all(torch.equal(a, b) for a, b in zip(found[1:], expected, strict=True))


@pytest.mark.parametrize("form", ["new", "old"])
@pytest.mark.parametrize("kind", ["wavlm", "hubert", "wav2vec2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_trunk_weights__of_transformers_give_its_hidden_states(kind: str, layout: str, form: str) -> None:
    theirs, samples = their_model(kind, layout), waveforms()
    trunk = small_trunk("wavlm" if kind == "wavlm" else "wav2vec2", layout)
    weights = theirs.state_dict()
    if form == "old":  # as in files of 2021: with a head, and other names for the parts of the weight norm
        norm, old = ".parametrizations.weight.original", {"lm_head.bias": torch.ones(2)}
        for name, tensor in weights.items():
            old[f"{kind}.{name}".replace(f"{norm}0", ".weight_g").replace(f"{norm}1", ".weight_v")] = tensor
        assert any(name.endswith("weight_g") for name in old)
        weights = old
    trunk.load_state_dict(trunk_weights(weights, trunk))
    with torch.no_grad():
        output = theirs(normalized(samples) if layout == "large" else samples, output_hidden_states=True)
        found = hidden_states(trunk, samples)
        if layout == "large":
            found[-1] = trunk.encoder.transformer.layer_norm(found[-1])  # as in the peer's output
    assert len(found) == len(output.hidden_states) == 4
    for ours, other in zip(found, [*output.hidden_states[:3], output.last_hidden_state], strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_trunk_weights__of_a_cut_trunk_leave_the_other_layers_out() -> None:
    whole, cut = small_trunk("wavlm", "base"), small_trunk("wavlm", "base")
    cut.encoder.transformer.layers = cut.encoder.transformer.layers[:1]
    assert trunk_weights(whole.state_dict(), cut, is_cut=True).keys() == cut.state_dict().keys()
    with pytest.raises(ValueError, match=r"has encoder\.transformer\.layers\.1\..*, which the trunk lacks"):
        trunk_weights(whole.state_dict(), cut)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: {}, "lacks 60 of 60 tensors, such as feature_extractor"),
        (lambda weights: small_trunk("wav2vec2", "base").state_dict(), "lacks 10 of 60 tensors"),
        (lambda weights: {n: w[:1] for n, w in weights.items()}, r"in the shape \(1,\), not"),
        (lambda weights: weights | {"encoder.layers.3.norm": torch.ones(1)}, r"has encoder.*3\.norm, which"),
    ],
    ids=["nothing", "another_kind", "another_size", "more"],
)
def test_trunk_weights__of_anything_else_are_refused(change, sentence) -> None:
    trunk = small_trunk("wavlm", "base")
    with pytest.raises(ValueError, match=sentence):
        trunk_weights(change(trunk.state_dict()), trunk)


@pytest.mark.parametrize(
    ("trunk", "parameters", "states"), [("wavlm_base", 94_381_168, 13), ("wavlm_large", 315_452_096, 25)]
)
def test_speech_transformer__has_the_published_number_of_parameters(trunk, parameters, states) -> None:
    with torch.device("meta"):
        encoder = SpeechTransformer(SpeechTransformer.Config(trunk=trunk))
    assert sum(p.numel() for p in encoder.trunk.parameters()) == parameters
    assert encoder.layer_weights.shape == (2, states)
    if trunk == "wavlm_base":
        assert sum(p.numel() for p in encoder.parameters()) == parameters + 2_302_554


def test_factorized_attention__is_a_weighted_mean_of_values_a_head() -> None:
    torch.manual_seed(4)
    pooling, frames = FactorizedAttention(6, 5, num_heads=3, head_dim=4), torch.randn(2, 12, 7)
    rows = []
    for keys, values in zip(frames[:, :6], frames[:, 6:], strict=True):
        scores = pooling.attention(pooling.keys(keys.T))  # (7, 3)
        heads = [(scores[:, h].softmax(0)[:, None] * pooling.values(values.T)).sum(0) for h in range(3)]
        rows.append(pooling.head(torch.cat(heads)))
    torch.testing.assert_close(pooling(frames), torch.stack(rows))


def test_speech_transformer__new_mixtures_are_the_mean_of_all_layers() -> None:
    encoder = SpeechTransformer(SpeechTransformer.Config(num_layers=2, pooling="mean")).eval()
    with torch.no_grad():
        states = hidden_states(encoder.trunk, waveforms())
        torch.testing.assert_close(encoder.frames(waveforms()), torch.stack(states).mean(0).mT)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_speech_transformer__a_frozen_trunk_drops_nothing_and_by_default_only_layers_are_trained(
    is_frozen,
) -> None:
    encoder = SpeechTransformer(SpeechTransformer.Config(num_layers=1, dropout=0.5, trunk_frozen=is_frozen))
    assert torch.equal(encoder.train()(waveforms()), encoder(waveforms())) == is_frozen
    encoder(waveforms()).sum().backward()
    trained = {name for name, p in encoder.named_parameters() if p.grad is not None}
    expected = {name for name in encoder.state_dict() if ".layers." in name and not is_frozen}
    assert {name for name in trained if name.startswith("trunk.")} == expected
    assert {name.split(".")[0] for name in trained - expected} == {"layer_weights", "pooling"}


@pytest.mark.parametrize("trunk", ["wavlm_large", "hubert_large", "wav2vec2_large"])
def test_speech_transformer__all_that_is_trained_gets_a_gradient(trunk: str) -> None:
    # Without a gradient, averaging over several GPUs would wait for ever.
    config = SpeechTransformer.Config(trunk=trunk, num_layers=2, front_frozen=False)
    with torch.device("meta"):
        encoder = SpeechTransformer(config)
        encoder.pooling(encoder.frames(torch.zeros(2, 1000))).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in encoder.parameters())


def adapted(trunk: str = "wavlm_base", **settings) -> SpeechTransformer:
    torch.manual_seed(6)
    return SpeechTransformer(SpeechTransformer.Config(trunk=trunk, num_layers=2, lora_rank=4, **settings))


@pytest.mark.parametrize("trunk", ["wavlm_base", "hubert_base"])
def test_speech_transformer__adapters_change_nothing_at_first_and_alone_are_trained(trunk: str) -> None:
    torch.manual_seed(6)
    plain = SpeechTransformer(SpeechTransformer.Config(trunk=trunk, num_layers=2)).eval()
    encoder = adapted(trunk, dropout=0.0)
    encoder.load_state_dict(plain.state_dict())
    torch.testing.assert_close(encoder.eval()(waveforms()), plain(waveforms()), rtol=0, atol=1e-6)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # one of the two factors is zero at first, so the first step changes only that one
        optimizer.zero_grad()
        encoder.train()(waveforms()).square().sum().backward()
        optimizer.step()
    moved = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    adapters = {name for name in before if name.endswith((".up", ".down"))}
    assert len(adapters) == 2 * 2 * (2 if trunk == "wavlm_base" else 4)  # two factors in each of two layers
    assert {name for name in moved if name.startswith("trunk.")} == adapters
    assert {name.split(".")[0] for name in moved - adapters} == {"layer_weights", "pooling"}


def test_merge__adds_the_adapters_and_an_export_holds_no_others(tmp_path) -> None:
    encoder = adapted().eval()
    for name, parameter in encoder.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.02)
    expected = encoder(waveforms()).detach()
    (tmp_path / "encoder.safetensors").write_bytes(pack_encoder(encoder, {}))
    loaded = load_encoder(tmp_path / "encoder.safetensors")
    assert loaded.config.lora_rank == 0
    torch.testing.assert_close(loaded(waveforms()), expected, rtol=1e-5, atol=1e-6)
    assert encoder.config.lora_rank == 4  # merging does not change the trained encoder
    again = adapted().eval()
    again.load_state_dict(loaded.state_dict())
    torch.testing.assert_close(again(waveforms()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["wavlm", "hubert"])
def test_load_weights__of_a_plain_trunk_go_below_the_adapters(kind: str) -> None:
    encoder = adapted(f"{kind}_base")
    trunk = SpeechTransformer(SpeechTransformer.Config(trunk=f"{kind}_base", num_layers=2)).trunk
    encoder.load_weights(trunk.state_dict())
    with torch.no_grad():
        found = hidden_states(encoder.eval().trunk, waveforms())[1]
        torch.testing.assert_close(found, hidden_states(trunk.eval(), waveforms())[1], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_speech_transformer__has_an_onnx_form_for_any_length() -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="in requirements-dev.txt")
    encoder = SpeechTransformer(SpeechTransformer.Config(num_layers=2)).eval()
    session = onnxruntime.InferenceSession(pack_onnx(encoder, {}))
    for samples in [torch.randn(1, 400), torch.randn(3, 7001)]:
        with torch.no_grad():
            expected = encoder(samples)
        (found,) = session.run(["embeddings"], {"waveforms": samples.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_rate_scale__falls_from_layer_to_layer() -> None:
    settings = {"rate_scale": 0.5, "trunk_rate_scale": 0.1, "layer_rate_factor": 0.5}
    with torch.device("meta"):
        encoder = SpeechTransformer(SpeechTransformer.Config(num_layers=3, front_frozen=False, **settings))
    scales = set()
    for name, _ in encoder.named_parameters():
        layer = re.search(r"transformer\.layers\.(\d)", name)
        scales.add((layer[1] if layer else name.split(".")[0], encoder.rate_scale(name)))
    assert scales == {
        *(("pooling", 0.5), ("layer_weights", 0.5), ("2", 0.05)),
        *(("1", 0.025), ("0", 0.0125), ("trunk", 0.00625)),
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_layers": 13}, "num_layers is 13, but wavlm_base has 12; lower it"),
        ({"weights": "a.bin", "init": "runs/b"}, "weights and init both name a file"),
        ({"weights": "a.bin", "frozen": True}, "frozen is true, but weights hold no pooling"),
        ({"lora_rank": 8, "trunk_frozen": True}, "lora_rank is 8 and trunk_frozen true"),
    ],
)
def test_config__what_does_not_fit_is_refused(settings, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build(SpeechTransformer.Config, settings)
