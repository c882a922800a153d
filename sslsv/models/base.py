"""Define the interface of a training method: `Model`, and the objects that the trainer passes to it."""

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

# Values of `purpose` for `Progress.generator` and `draws`; 0, the default, is for a method's own loss.
REGULARIZERS, POSITIVES = 1, 2


@dataclass(frozen=True)
class Progress:
    """Hold the position of a run in optimizer steps and epochs, both counted from 0, and their totals."""

    step: int
    total_steps: int
    epoch: int
    total_epochs: int
    seed: int = 0

    @property
    def fraction(self) -> float:
        """Return the share of all optimizer steps that are done, from 0 to 1."""
        return self.step / max(self.total_steps, 1)

    def generator(self, purpose: int = 0) -> torch.Generator:
        """Return a CPU generator that depends only on (seed, step, purpose), so all workers get the same."""
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + self.step) * 31 + purpose) % 2**63)

    def draws(self, ids: Tensor, count: int, purpose: int = 0) -> Tensor:
        """Return uniform numbers in [0, 1), (N, count) float64, functions of (seed, step, purpose, id) only.

        `ids` (N,) are integers. Source: SplitMix64, Steele et al., OOPSLA 2014.
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
    """Describe `count` views of equal length: `batch[name]` is (B, count, samples), `seconds` each."""

    name: str
    count: int  # type: ignore[assignment]  # hides tuple.count
    seconds: float
    is_clean: bool = False  # clean views are not augmented


class CorpusSize(NamedTuple):
    """Hold the size of the training corpus; a speaker counts once per speed if `data.speeds_are_classes`."""

    num_utterances: int = 0
    num_speakers: int = 0


class Corpus(Protocol):
    """Give a method access to all training utterances between two epochs."""

    size: CorpusSize

    def embed(self, model: "Model", *, seconds: float = 4.0, clean: bool = True) -> Tensor:
        """Return `model.embed` of one crop per utterance, (N, D) float32 on the CPU.

        Row i is utterance i. The model runs in evaluation mode. All workers must call this together, and all
        get the same rows, whatever the number of workers.
        """


class Model(nn.Module, ABC):
    """Hold an encoder and a training objective; subclasses set `views` and implement `forward`.

    State that lasts between steps (queues, teachers, centres) must be in buffers and submodules and be equal
    on all workers, because a checkpoint stores a model only as its `state_dict()`.
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
        """Return the loss and metrics of a batch; averaged over workers, the loss is the global batch's.

        The global batch joins the batches of all W workers, B samples each. `batch` holds the int16 views of
        each group, (B, count, samples), and int64 columns (B,): `sample`, the position in the run;
        `utterance`, from 0 to N - 1; `speaker` for classes with `needs_labels`.
        """

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the embeddings (V*B, D) of all views, view by view; each view group is one forward pass."""
        return torch.cat([self.encoder(by_view(batch[group.name])) for group in self.views])

    def regularized(self, output: StepOutput, embeddings: Tensor, progress: Progress) -> StepOutput:
        """Add the regularizers to the loss, and `batch_feature_std` to the metrics if it is not there yet.

        `embeddings` (B, V, D) are this worker's; the metric measures their spread (`feature_std`). The
        regularizers are computed on the global batch, per view, and averaged over the V views.
        """
        weights = {each.name: each.weight for each in self.config.regularizers}
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = full_precision(embeddings)
            metrics = {"batch_feature_std": feature_std(by_view(embeddings.detach()))} | output.metrics
            if not weights:
                return StepOutput(output.loss, metrics)
            rows = distributed.gather(embeddings, is_global_loss=True).transpose(0, 1)  # (V, W*B, D)
            terms = regularizer_terms(tuple(weights), rows, progress.generator(REGULARIZERS))
            penalty, values = weighted(terms, list(weights.values()))
        values = {f"embedding_{name}": value for name, value in values.items()}
        return StepOutput(output.loss + penalty, metrics | values)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups; by default, vectors and scalars have no weight decay.

        Keys: `params`; `decays`, False for no weight decay; `rate_scale`, factor of the learning rate
        (default 1); `follows_schedule`, False to keep the base learning rate throughout.
        """
        return decay_groups(self.parameters())

    def start_epoch(self, progress: Progress, corpus: Corpus) -> None:
        """Prepare an epoch; called before its first step, but not when a run resumes within the epoch.

        With SSPS (see `positives.py`), this clusters all utterances by the embedding of one clean crop each.
        """
        if self.positives is not None and progress.epoch >= self.positives.settings.start_epoch:
            seconds = self.positives.settings.reference_seconds
            embeddings = corpus.embed(self, seconds=seconds, clean=True)
            self.positives.cluster(embeddings, progress.generator(POSITIVES))

    def add_positives(self, settings: SSPS | None, size: CorpusSize, dim: int) -> None:
        """Enable SSPS (see `positives.py`) for positives of `dim` values; without settings, do nothing."""
        if settings is not None:
            self.positives = PositiveSampler(settings, size.num_utterances, dim, self.embedding_dim)

    def sample_positives(
        self, rows: Tensor, batch: dict[str, Tensor], progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the positives (W*B, ...) of all workers, some from other utterances, and metrics.

        `rows` are the positives of the global batch, `batch` this worker's. Replaced rows have no gradient.
        The metric `coverage` is their share.
        """
        if self.positives is None:
            return rows, {}
        utterances = distributed.gather(batch["utterance"])
        rows, coverage = self.positives(rows, utterances, progress.draws(utterances, 2, POSITIVES))
        return rows, {"coverage": coverage}

    def start_from(self, encoder: nn.Module, model: "Model | None") -> None:
        """Load a trained encoder's weights; a method may also copy parts of the `model` that trained it."""
        self.encoder.load_state_dict(encoder.state_dict())

    def before_step(self, progress: Progress) -> None:
        """Clip or drop gradients; called before the optimizer's step, with final, unscaled gradients."""

    def after_step(self, progress: Progress) -> None:
        """Update weights and buffers after the optimizer's step, such as a teacher or a queue."""

    @property
    def embedding_dim(self) -> int:
        """Return D, the number of values in an embedding."""
        return int(self.get_submodule(self.embedder).embedding_dim)  # type: ignore[arg-type]

    @property
    def min_samples(self) -> int:
        """Return the smallest number of samples in a waveform that can be embedded."""
        return int(self.encoder.min_samples)  # type: ignore[arg-type]

    @classmethod
    def build_embedder(cls, config: Any, encoder: nn.Module) -> nn.Module:
        """Return the submodule `embedder`, rebuilt around a given encoder; used for export."""
        return encoder

    def embed(self, waveforms: Tensor) -> Tensor:
        """Return embeddings for verification, (B, D), not normalised, of int16 or float waveforms (B, T)."""
        return self.get_submodule(self.embedder)(waveforms)  # type: ignore[no-any-return]


def by_view(views: Tensor) -> Tensor:
    """Return views (B, V, ...) as rows (V * B, ...): all rows of the first view, then all of the second.

    One forward pass over all views is faster than one per view, and batch norms use all views together.
    """
    return views.transpose(0, 1).flatten(0, 1)


def by_sample(rows: Tensor, num_views: int = 2) -> Tensor:
    """Undo `by_view`: return rows (V * B, D) as (B, V, D), in float32 or float64."""
    return torch.stack(full_precision(rows).chunk(num_views), 1)


def decay_groups(parameters: Iterable[nn.Parameter], **keys: Any) -> list[dict[str, Any]]:
    """Return the trainable parameters in a group with decay and one without (0-D, 1-D), both with `keys`."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "decays": True},
        {"params": [p for p in trainable if p.ndim <= 1], "decays": False},
    ]
    return [group | keys for group in groups if group["params"]]


def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Clip the gradient of each tensor separately to an L2 norm of at most `max_norm`, as in DINO."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norms = torch._foreach_norm(gradients)
        torch._foreach_mul_(gradients, [(max_norm / (norm + 1e-6)).clamp(max=1.0) for norm in norms])


def drop_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Drop gradients in `before_step`, so that the optimizer skips these tensors, weight decay included."""
    for parameter in parameters:
        parameter.grad = None
