"""Define the interface of a method: `Model`, and what the trainer passes to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sslsv.models.fields import SSPS
from sslsv.models.positives import PositiveSampler
from sslsv.models.terms import feature_std, regularizer_terms, weighted
from sslsv.ops import distributed
from sslsv.ops.layers import full_precision

# Purposes of draws (see `Progress.generator`): 0 is that of a method's loss.
REGULARIZERS, POSITIVES = 1, 2


@dataclass(frozen=True)
class Progress:
    """Tell how far a run is, in optimizer steps and epochs; both count from 0."""

    step: int
    total_steps: int
    epoch: int
    total_epochs: int
    seed: int = 0

    @property
    def fraction(self) -> float:
        """Return the share of the steps that are done, from 0 to 1."""
        return self.step / max(self.total_steps, 1)

    def generator(self, purpose: int = 0) -> torch.Generator:
        """Return a CPU generator that depends on (seed, step, purpose) alone: equal on all workers."""
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + self.step) * 31 + purpose) % 2**63)

    def draws(self, ids: Tensor, count: int, purpose: int = 0) -> Tensor:
        """Return uniform numbers in [0, 1), (N, count) float64, functions of (seed, step, purpose, id) alone.

        `ids` (N,) are whole numbers. Source: SplitMix64, Steele et al., OOPSLA 2014.
        """
        key = int(torch.randint(2**62, (), generator=self.generator(purpose)))
        numbers = ids[:, None] * count + torch.arange(count, device=ids.device)
        # Products wrap around at 64 bits; the masks make the shifts unsigned.
        bits = key + numbers * -0x61C8864680B583EB
        bits = (bits ^ (bits >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
        bits = (bits ^ (bits >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
        bits = bits ^ (bits >> 31 & 0x1FFFFFFFF)
        return (bits >> 11 & (2**53 - 1)).double() * 2.0**-53


class StepOutput(NamedTuple):
    """Hold the scalar loss to minimise, and detached scalars to log."""

    loss: Tensor
    metrics: dict[str, Tensor]


class ViewGroup(NamedTuple):
    """Describe views of one length: `batch[name]` is (B, count, samples), of `seconds` each."""

    name: str
    count: int  # type: ignore[assignment]  # hides tuple.count
    seconds: float
    is_clean: bool = False  # clean views are not augmented


class CorpusSize(NamedTuple):
    """Size memory banks and classifiers; with `data.speeds_are_classes` a speaker counts once per speed."""

    num_utterances: int = 0
    num_speakers: int = 0


class Corpus(Protocol):
    """Give a method access to all training utterances between two epochs."""

    size: CorpusSize

    def embed(self, model: "Model", *, seconds: float = 4.0, clean: bool = True) -> Tensor:
        """Return `model.embed` of one crop of each utterance, (N, D) float32 on the CPU.

        Row i is utterance i. The model runs in evaluation mode. All workers must call this together; all get
        the same rows, for any number of workers.
        """


class Model(nn.Module, ABC):
    """Hold an encoder and a training objective; subclasses state their `views` and give `forward`.

    What lasts between steps (queues, teachers, centres) must be buffers and modules, the same on all workers:
    `state_dict()` is all that a checkpoint holds.
    """

    needs_labels = False  # True: the batch also holds `speaker`
    embedder = "encoder"  # the submodule whose output is the embedding

    config: Any  # the settings of the method, its `Config`
    encoder: nn.Module
    views: tuple[ViewGroup, ...]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.positives: PositiveSampler | None = None

    @abstractmethod
    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return loss and metrics of one batch; with several workers, of all their batches together.

        The batch holds the int16 views of each group, (B, count, samples), and int64 columns (B,): `sample`,
        the position in the run; `utterance`, from 0 to N - 1; `speaker` for classes with `needs_labels`.
        """

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Return embeddings (V*B, D) of all views, view by view; each view group is one forward pass."""
        return torch.cat([self.encoder(by_view(batch[group.name])) for group in self.views])

    def regularized(self, output: StepOutput, embeddings: Tensor, progress: Progress) -> StepOutput:
        """Add the regularizers to the loss, and `batch_feature_std` to the metrics unless they have it.

        `embeddings` (B, V, D) are this worker's. The metric is the spread of these; the regularizers are
        computed on the global batch, one view at a time, and averaged over the V views.
        """
        weights = {each.name: each.weight for each in self.config.regularizers}
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = full_precision(embeddings)
            metrics = {"batch_feature_std": feature_std(by_view(embeddings.detach()))} | output.metrics
            if not weights:
                return StepOutput(output.loss, metrics)
            rows = distributed.gather(embeddings, loss_is_whole=True).transpose(0, 1)  # (V, W*B, D)
            terms = regularizer_terms(tuple(weights), rows, progress.generator(REGULARIZERS))
            added, values = weighted(terms, list(weights.values()))
        values = {f"embedding_{name}": value for name, value in values.items()}
        return StepOutput(output.loss + added, metrics | values)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups; by default matrices and kernels decay, vectors and scalars do not.

        Keys: `params`; `decays`, False for no weight decay; `rate_scale`, a factor of the learning rate
        (default 1); `follows_schedule`, False for a rate that stays at the highest one.
        """
        return decay_groups(self.parameters())

    def start_epoch(self, progress: Progress, corpus: Corpus) -> None:
        """Prepare an epoch; called before its first step, not when a run is resumed within it.

        With `add_positives`, all utterances are clustered, by an embedding of a clean crop of each.
        """
        if self.positives is not None and progress.epoch >= self.positives.settings.start_epoch:
            seconds = self.positives.settings.reference_seconds
            embeddings = corpus.embed(self, seconds=seconds, clean=True)
            self.positives.cluster(embeddings, progress.generator(POSITIVES))

    def add_positives(self, settings: SSPS | None, size: CorpusSize, dim: int) -> None:
        """Enable SSPS for rows of `dim` values in total; with None, `sample_positives` changes nothing."""
        if settings is not None:
            self.positives = PositiveSampler(settings, size.num_utterances, dim, self.embedding_dim)

    def sample_positives(
        self, rows: Tensor, batch: dict[str, Tensor], progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return positives (W*B, ...) of all workers, some replaced by other utterances', and metrics.

        `batch` is this worker's. Replaced rows have no gradient; the metric is `coverage`, their share.
        """
        if self.positives is None:
            return rows, {}
        utterances = distributed.gather(batch["utterance"])
        rows, coverage = self.positives(rows, utterances, progress.draws(utterances, 2, POSITIVES))
        return rows, {"coverage": coverage}

    def start_from(self, encoder: nn.Module, model: "Model | None") -> None:
        """Load a trained encoder's weights; a method may also take parts of `model`, which trained it."""
        self.encoder.load_state_dict(encoder.state_dict())

    def before_step(self, progress: Progress) -> None:
        """Change gradients when they are final and unscaled, before the optimizer's step: clip, freeze."""

    def after_step(self, progress: Progress) -> None:
        """Change weights just after the optimizer's step, such as those of a teacher."""

    @property
    def embedding_dim(self) -> int:
        """Return D, the number of values in an embedding."""
        return int(self.get_submodule(self.embedder).embedding_dim)  # type: ignore[arg-type]

    @property
    def min_samples(self) -> int:
        """Return the length of the shortest waveform that can be embedded."""
        return int(self.encoder.min_samples)  # type: ignore[arg-type]

    @classmethod
    def build_embedder(cls, config: Any, encoder: nn.Module) -> nn.Module:
        """Rebuild the submodule `embedder` around a new encoder, for export."""
        return encoder

    def embed(self, waveforms: Tensor) -> Tensor:
        """Return embeddings for verification, (B, D), not normalised, of waveforms (B, T), int16 or float."""
        return self.get_submodule(self.embedder)(waveforms)  # type: ignore[no-any-return]


def by_view(views: Tensor) -> Tensor:
    """Return views (B, V, ...) as rows (V * B, ...): all of the first view, then all of the second.

    One pass over them is faster than one for each view, and batch norm sees all views alike.
    """
    return views.transpose(0, 1).flatten(0, 1)


def by_sample(rows: Tensor, num_views: int = 2) -> Tensor:
    """Undo `by_view`: return rows (V * B, D) as (B, V, D), at least float32."""
    return torch.stack(full_precision(rows).chunk(num_views), 1)


def decay_groups(parameters: Iterable[nn.Parameter], **keys: Any) -> list[dict[str, Any]]:
    """Split trainable parameters into those that decay and those that do not (0-D, 1-D); both get `keys`."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "decays": True},
        {"params": [p for p in trainable if p.ndim <= 1], "decays": False},
    ]
    return [group | keys for group in groups if group["params"]]


def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale the gradient of each tensor by itself to an L2 norm of at most `max_norm` (DINO's clipping)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norms = torch._foreach_norm(gradients)
        torch._foreach_mul_(gradients, [(max_norm / (norm + 1e-6)).clamp(max=1.0) for norm in norms])


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """Drop gradients in `before_step`: the optimizer then skips these tensors, weight decay included."""
    for parameter in parameters:
        parameter.grad = None
