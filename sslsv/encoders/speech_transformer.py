"""Pre-trained speech transformers (WavLM, HuBERT, wav2vec 2.0) with a pooling of all their layers.

Sources: Baevski et al., arXiv 2006.11477; Hsu et al., arXiv 2106.07447; Chen et al., arXiv 2110.13900;
pooling with multi-head factorized attention (MHFA), Peng et al., arXiv 2210.01273. The networks are
torchaudio's classes. WavLM Base has 94,381,168 parameters and MHFA with 64 heads 2,302,554 more.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import torchaudio.models
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint
from typing_extensions import Self

from sslsv.encoders.base import Encoder
from sslsv.encoders.features import Waveform
from sslsv.encoders.fields import EmbeddingDim, EncoderConfig
from sslsv.ops.layers import full_precision
from sslsv.settings import refuse_if, section

# Convert the names of Hugging Face transformers to torchaudio's; a model with a head adds its name in front.
_RENAMED = (
    (r"^(wavlm|hubert|wav2vec2)\.", ""),
    (r"^feature_projection\.", "encoder.feature_projection."),
    (r"^encoder\.(?=layers\.|layer_norm\.|pos_conv_embed\.)", "encoder.transformer."),
    (r"(pos_conv_embed\.conv)\.weight_g$", r"\1.parametrizations.weight.original0"),
    (r"(pos_conv_embed\.conv)\.weight_v$", r"\1.parametrizations.weight.original1"),
)
_LAYERS = "encoder.transformer.layers."
# State-dict names of a matrix that has an adapter, and of the adapter's own tensors.
_ADAPTED, _ADAPTER = r"\.parametrizations\.(\w+)\.original$", r"\.parametrizations\.\w+\.0\."
_LORA_SCALE = 2.0  # factor of the low-rank product, for every rank; wespeaker's value


def hidden_states(trunk: nn.Module, waveforms: Tensor, *, is_recomputed: bool = False) -> list[Tensor]:
    """Return the input of the first layer and the outputs of all layers, (B, L, C), of a torchaudio model.

    `waveforms` are (B, T) in [-1, 1), L = 1 + (T - 400) // 320. Models that normalise the input of each layer
    expect waveforms of mean 0 and variance 1, which this function produces. The norm after the last layer is
    not applied, as in fairseq, S3PRL and torchaudio.
    """
    network: Any = trunk
    transformer = network.encoder.transformer
    run: Callable[..., Any] = lambda function, *inputs: function(*inputs)  # noqa: E731
    if is_recomputed:
        run = partial(checkpoint, use_reentrant=False)
    if not transformer.layer_norm_first:  # torchaudio's flag for one norm in front of all layers
        waveforms = F.layer_norm(waveforms, waveforms.shape[1:])
    x = run(partial(_input_of_layers, network), waveforms)
    states, position_bias = [x], None
    for layer in transformer.layers:
        x, position_bias = run(layer, x, None, position_bias)
        states.append(x)
    return states


def _input_of_layers(network: Any, waveforms: Tensor) -> Tensor:
    transformer = network.encoder.transformer
    x = network.encoder.feature_projection(network.feature_extractor(waveforms, None)[0])
    x = x + transformer.pos_conv_embed(x)
    if transformer.layer_norm_first:
        x = transformer.layer_norm(x)
    return transformer.dropout(x)  # type: ignore[no-any-return]


def trunk_weights(given: Mapping[str, Tensor], trunk: nn.Module, is_cut: bool = False) -> dict[str, Tensor]:
    """Return the weights of a torchaudio model from its own state dict, or from Hugging Face transformers'.

    Heads of other tasks are dropped and, if the trunk `is_cut`, the layers that the trunk lacks. Raises
    ValueError, whose text continues a sentence that begins with the file, for weights of another model.
    """
    expected = {
        re.sub(_ADAPTED, r".\1", name): tensor
        for name, tensor in trunk.state_dict().items()
        if not re.search(_ADAPTER, name)
    }
    converted: dict[str, Tensor] = {}
    for name, tensor in given.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        converted[name] = tensor
    for name in expected:  # torchaudio's WavLM has one matrix for queries, keys and values.
        if name not in converted and ".attention.attention." in name:
            parts = [name.replace("attention.attention.", "attention.")]
            if "in_proj_" in name:
                parts = [parts[0].replace("in_proj_", f"{letter}_proj.") for letter in "qkv"]
            if all(part in converted for part in parts):
                converted[name] = torch.cat([converted.pop(part) for part in parts])
    missing = [name for name in expected if name not in converted]
    if missing:
        raise ValueError(f"lacks {len(missing)} of {len(expected)} tensors, such as {missing[0]}")
    depth = len({name.split(".")[3] for name in expected if name.startswith(_LAYERS)})
    for name in converted:
        is_above = is_cut and name.startswith(_LAYERS) and int(name.split(".")[3]) >= depth
        if name not in expected and name.startswith(("encoder.", "feature_extractor.")) and not is_above:
            raise ValueError(f"has {name}, which the trunk lacks")
    for name, tensor in expected.items():
        if converted[name].shape != tensor.shape:
            shapes = tuple(converted[name].shape), tuple(tensor.shape)
            raise ValueError(f"has {name} in the shape {shapes[0]}, not {shapes[1]}")
    return {name: converted[name] for name in expected}


class Adapter(nn.Module):
    """Add a trained low-rank matrix, initially zero, to a fixed one (LoRA). Hu et al., arXiv 2106.09685."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        parts = outputs // inputs  # WavLM has one matrix for queries, keys and values, with an adapter each
        self.down = nn.Parameter(torch.empty(parts, rank, inputs).uniform_(-1, 1) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(parts, inputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + _LORA_SCALE * (self.up @ self.down).flatten(0, 1)


def projections(attention: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return (module, parameter name) of the matrices of queries, keys, values and outputs."""
    modules = dict(attention.named_modules())
    joint = [(each, "in_proj_weight") for each in modules.values() if isinstance(each, nn.MultiheadAttention)]
    return [*joint, *[(each, "weight") for name, each in modules.items() if name.endswith("_proj")]]


def _adopt_plain(trunk: nn.Module, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    # Loads weights without adapters into the matrices that have adapters; the adapters keep their values.
    for name, tensor in trunk.state_dict().items():
        plain = re.sub(_ADAPTED, r".\1", name)
        if plain != name and prefix + plain in weights:
            weights[prefix + name] = weights.pop(prefix + plain)
        elif re.search(_ADAPTER, name):
            weights.setdefault(prefix + name, tensor)


class MeanOverTime(nn.Module):
    """Average one mixture of the layers over time, then apply a linear layer."""

    num_mixtures = 1

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, embedding_dim)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(frames.mean(2))  # type: ignore[no-any-return]


class FactorizedAttention(nn.Module):
    """Average one mixture of the layers over time, with weights by heads on another mixture (MHFA)."""

    num_mixtures = 2  # keys, values

    def __init__(self, channels: int, embedding_dim: int, num_heads: int, head_dim: int = 128) -> None:
        super().__init__()
        self.keys = nn.Linear(channels, head_dim)
        self.values = nn.Linear(channels, head_dim)
        self.attention = nn.Linear(head_dim, num_heads)
        self.head = nn.Linear(num_heads * head_dim, embedding_dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (B, embedding_dim) of frames (B, 2C, L), the mixture of the keys first."""
        keys, values = frames.mT.chunk(2, 2)
        weights = self.attention(self.keys(keys)).softmax(1)  # (B, L, heads), over time
        return self.head((weights.mT @ self.values(values)).flatten(1))  # type: ignore[no-any-return]


class SpeechTransformer(Encoder):
    """Embed with convolutions over the waveform, a transformer, and mixtures of its layers, pooled over time.

    A mixture has one weight per layer (softmax of a parameter); the input of the first layer counts as a
    layer. There is no layer drop, because GPUs can't average gradients of layers that some workers skip.
    """

    @section
    class Config(EncoderConfig):
        """Hold the settings of the encoder; the pooling settings are those of WavLM-MHFA."""

        name: Literal["speech_transformer"] = "speech_transformer"
        trunk: Annotated[
            Literal[
                "wavlm_base",
                "wavlm_large",
                "hubert_base",
                "hubert_large",
                "wav2vec2_base",
                "wav2vec2_large",
                "wav2vec2_large_lv60k",
            ],
            Field(description="the transformer; Base also fits Base+, and lv60k also fits XLSR and XLS-R"),
        ] = "wavlm_base"
        weights: Annotated[
            str | None,
            Field(description="file with the trunk's weights (torchaudio or Hugging Face), on every machine"),
        ] = None
        num_layers: Annotated[int | None, Field(ge=1, description="first layers kept; null = all")] = None
        dropout: Annotated[float, Field(ge=0, lt=1, description="dropout of trained trunk parts")] = 0.1
        trunk_frozen: Annotated[bool, Field(description="train only mixtures and pooling")] = False
        front_frozen: Annotated[bool, Field(description="fix all parts before the first layer")] = True
        lora_rank: Annotated[
            int,
            Field(ge=0, description="rank of adapters of the attention, in a fixed trunk; 0 = no adapters"),
        ] = 0
        trunk_rate_scale: Annotated[
            float, Field(gt=0, description="factor of the trunk's learning rate, on top of rate_scale")
        ] = 1.0
        layer_rate_factor: Annotated[
            float, Field(gt=0, le=1, description="learning rate of a layer relative to the layer above")
        ] = 1.0
        pooling: Annotated[Literal["mhfa", "mean"], Field(description="attention by heads, or mean")] = "mhfa"
        num_heads: Annotated[int, Field(ge=1, description="heads of mhfa")] = 64
        embedding_dim: EmbeddingDim = 256

        def __post_init__(self) -> None:
            refuse_if(
                self.weights is not None and self.init is not None,
                "weights and init both name a file, but an encoder starts from one: set weights to null to "
                "continue from a trained encoder",
            )
            refuse_if(
                self.weights is not None and self.frozen,
                "frozen is true, but weights hold no pooling, which would stay random; set frozen to false "
                "and trunk_frozen to true",
            )
            refuse_if(
                self.lora_rank > 0 and self.trunk_frozen,
                f"lora_rank is {self.lora_rank} and trunk_frozen true, which would leave adapters at zero; "
                "set lora_rank to 0, or trunk_frozen to false",
            )
            depth = 24 if "_large" in self.trunk else 12
            refuse_if(
                (self.num_layers or 1) > depth,
                f"num_layers is {self.num_layers}, but {self.trunk} has {depth}; lower it, or set it to null",
            )

        def source(self) -> str | None:
            """Return the run or file of initial weights, or None; raises ValueError for fixed random ones."""
            source = self.init or self.weights
            for key in ("frozen", "trunk_frozen", "front_frozen", "lora_rank"):
                value, off = getattr(self, key), "0" if key == "lora_rank" else "false"
                refuse_if(
                    source is None and bool(value),
                    f"encoder.{key} is {str(value).lower()}, but random weights would stay as they are, "
                    "because neither encoder.weights nor encoder.init is given; give one, or set "
                    f"encoder.{key} to {off}",
                )
            return source

    pooling_modules = ("pooling",)
    training_settings = (
        *Encoder.training_settings,
        *("weights", "dropout", "trunk_frozen", "front_frozen", "lora_rank"),
        *("trunk_rate_scale", "layer_rate_factor"),
    )
    min_samples = 400  # receptive field of one frame

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (frozen)
        super().__init__(config)
        self.features = Waveform(self.min_samples)
        trunk: Any = getattr(torchaudio.models, config.trunk)(
            encoder_projection_dropout=config.dropout,
            encoder_attention_dropout=config.dropout,
            encoder_ff_interm_dropout=config.dropout,
            encoder_dropout=config.dropout,
            encoder_layer_drop=0.0,
        )
        transformer = trunk.encoder.transformer
        transformer.layers = transformer.layers[: config.num_layers]
        self.trunk = trunk
        if not transformer.layer_norm_first:
            transformer.layer_norm.requires_grad_(False)  # unused: states are taken before this norm
        front = (trunk.feature_extractor, trunk.encoder.feature_projection, transformer.pos_conv_embed)
        parts = (trunk,) if config.trunk_frozen else (*front, transformer.layer_norm)
        is_adapted = config.lora_rank > 0
        self.frozen_parts = parts if config.trunk_frozen or config.front_frozen or is_adapted else ()
        for part in (trunk,) if is_adapted else self.frozen_parts:
            part.requires_grad_(False)
        if is_adapted:
            for layer in transformer.layers:
                for module, name in projections(layer.attention):
                    adapter = Adapter(getattr(module, name), config.lora_rank)
                    parametrize.register_parametrization(module, name, adapter)
            trunk.register_load_state_dict_pre_hook(_adopt_plain)
        channels = transformer.pos_conv_embed.embed_dim
        self.embedding_dim = config.embedding_dim
        self.pooling: MeanOverTime | FactorizedAttention = (
            FactorizedAttention(channels, config.embedding_dim, config.num_heads)
            if config.pooling == "mhfa"
            else MeanOverTime(channels, config.embedding_dim)
        )
        self.frame_dim = channels * self.pooling.num_mixtures
        self.layer_weights = nn.Parameter(torch.ones(self.pooling.num_mixtures, len(transformer.layers) + 1))
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; frozen parts stay in evaluation mode, without dropout."""
        super().train(mode)
        for part in self.frozen_parts:
            part.eval()
        return self

    def rate_scale(self, parameter: str) -> float:
        scale = super().rate_scale(parameter)
        if not parameter.startswith("trunk."):
            return scale
        depth = self.layer_weights.shape[1] - 1
        layer = re.match(rf"trunk\.{re.escape(_LAYERS)}(\d+)\.", parameter)
        num_above = depth if layer is None else depth - 1 - int(layer[1])  # number of layers above it
        return scale * float(self.config.trunk_rate_scale * self.config.layer_rate_factor**num_above)

    def merge(self) -> None:
        """Merge the adapters into the matrices that they modify."""
        for module in list(self.trunk.modules()):
            for name, parts in list(getattr(module, "parametrizations", {}).items()):
                if isinstance(parts[0], Adapter):
                    parametrize.remove_parametrizations(module, name)
        self.config = replace(self.config, lora_rank=0)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load the trunk from a file's tensors, see `trunk_weights`; raises ValueError for another model."""
        is_cut = self.config.num_layers is not None
        self.trunk.load_state_dict(trunk_weights(weights, self.trunk, is_cut))

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return mixtures of the layers, (B, C or 2C, L), of waveforms (B, T), one frame every 20 ms."""
        samples = self.features(waveforms)[:, 0]
        is_trained = torch.is_grad_enabled() and not (self.config.trunk_frozen or self.is_frozen)
        states = hidden_states(self.trunk, samples, is_recomputed=self.recomputes_activations and is_trained)
        mixtures = []
        for weights in full_precision(self.layer_weights).softmax(1):
            mixture = weights[0] * full_precision(states[0])
            for weight, state in zip(weights[1:], states[1:], strict=True):
                mixture = mixture + weight * full_precision(state)
            mixtures.append(mixture)
        return torch.cat(mixtures, 2).mT

    def pool(self, frames: Tensor) -> Tensor:
        with torch.autocast(frames.device.type, enabled=False):
            return self.pooling(full_precision(frames))  # type: ignore[no-any-return]
