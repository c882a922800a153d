"""CPC: predict future frames of an utterance from past frames. van den Oord et al., arXiv 1807.03748."""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sslsv.models.base import CorpusSize, Model, Progress, StepOutput, ViewGroup, by_view
from sslsv.models.fields import MethodConfig
from sslsv.ops import SAMPLE_RATE, distributed
from sslsv.ops.layers import full_precision
from sslsv.settings import section


class ContextNetwork(nn.Module):
    """Summarise an utterance's frames with a GRU: waveforms (B, T) -> the last state (B, context_dim).

    The GRU runs in float32 or float64, because a recurrence accumulates rounding errors.
    """

    def __init__(self, encoder: nn.Module, context_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding_dim = context_dim
        self.gru = nn.GRU(int(encoder.frame_dim), context_dim, batch_first=True)  # type: ignore[arg-type]

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return the context of all frames of waveforms (B, T)."""
        return self.context(self.frames(waveforms))

    def frames(self, waveforms: Tensor) -> Tensor:
        """Return the encoder's frames transposed for the GRU, (B, L, C)."""
        return full_precision(self.encoder.frames(waveforms)).mT  # type: ignore[operator]

    def context(self, frames: Tensor) -> Tensor:
        """Return the GRU's state after the last of the frames (B, L, C)."""
        with torch.autocast(frames.device.type, enabled=False):
            state: Tensor = self.gru(frames)[1][-1]
        return state


class CPC(Model):
    """Identify future frames of an utterance among the frames of the batch (contrastive predictive coding).

    The context is the GRU's state after all frames of a crop except the last `num_steps`. One matrix per step
    k predicts the k-th of these last frames. As published, they belong to the same crop. With `target`
    "other_view", they are the last frames of an independent crop of the utterance, as in the code behind the
    speaker results (EER 12.77 %). The embedding is the GRU's state after the entire utterance.
    """

    embedder = "context"

    @section
    class Config(MethodConfig):
        """Hold the settings of CPC; the defaults are those published for VoxCeleb, except for `target`."""

        name: Literal["cpc"] = "cpc"
        crop_seconds: Annotated[float, Field(ge=0.1, description="length of each view, seconds")] = 2.0
        context_dim: Annotated[int, Field(ge=1, description="units of the GRU, size of an embedding")] = 256
        num_steps: Annotated[int, Field(ge=1, description="future frames to predict")] = 4
        target: Annotated[
            Literal["same_view", "other_view"], Field(description="crop whose last frames are predicted")
        ] = "same_view"

    def __init__(self, config: Config, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:
        super().__init__(config)
        self.views = (ViewGroup("views", 1 if config.target == "same_view" else 2, config.crop_seconds),)
        for name in encoder.pooling_modules:  # type: ignore[union-attr]
            encoder.get_submodule(name).requires_grad_(False)  # Frames do not use it: it gets no gradient.
        self.context = self.build_embedder(config, encoder)
        with torch.no_grad():
            silence = torch.zeros(1, round(config.crop_seconds * SAMPLE_RATE))
            num_frames = encoder.eval().frames(silence).shape[2]  # type: ignore[operator]
        encoder.train()
        if num_frames <= config.num_steps:
            raise ValueError(
                f"A crop of {config.crop_seconds} s has {num_frames} frames, but model.num_steps is "
                f"{config.num_steps}: lower it, or raise model.crop_seconds."
            )
        frame_dim = int(encoder.frame_dim)  # type: ignore[arg-type]
        self.predictors = nn.ModuleList(
            [nn.Linear(config.context_dim, frame_dim, bias=False) for _ in range(config.num_steps)]
        )

    @classmethod
    def build_embedder(cls, config: Any, encoder: nn.Module) -> nn.Module:
        """Return the context network around an encoder."""
        return ContextNetwork(encoder, config.context_dim)

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """Return the encoder, which is part of the context network."""
        return self.context.encoder  # type: ignore[return-value]

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the mean cross entropy of finding an utterance's own frame in the global batch."""
        views = batch["views"]
        frames = self.context.frames(by_view(views))  # type: ignore[operator]
        num_steps = self.config.num_steps
        frames = frames.unflatten(0, (views.shape[1], views.shape[0]))  # (views, B, L, C)
        with torch.autocast(views.device.type, enabled=False):
            context = self.context.context(frames[0, :, :-num_steps])  # type: ignore[operator]
            predictions = torch.stack([predictor(context) for predictor in self.predictors])  # (K, B, C)
            targets = distributed.gather(frames[-1, :, -num_steps:]).transpose(0, 1)  # (K, W*B, C)
            logits = predictions @ targets.mT  # (K, B, W*B), unscaled
            first = distributed.rank() * views.shape[0]
            columns = torch.arange(first, first + views.shape[0], device=views.device).expand(num_steps, -1)
            loss = F.cross_entropy(logits.flatten(0, 1), columns.flatten())
            accuracy = (logits.detach().argmax(2) == columns).to(loss.dtype).mean()
        return self.regularized(StepOutput(loss, {"accuracy": accuracy}), context[:, None], progress)
