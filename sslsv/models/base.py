"""What the trainer asks of a method, and what methods with two equal views, or with a teacher, share."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sslsv.models.fields import SSPS
from sslsv.models.positives import PositiveSampler
from sslsv.models.regularizers import regularizer_terms
from sslsv.models.terms import feature_std, weighted_sum
from sslsv.ops import distributed
from sslsv.ops.layers import full_precision, projector
from sslsv.ops.whitening import IterNorm

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
        """Return a generator of random numbers (CPU) that is the same on all workers, new in each step.

        Draws of PyTorch's global generator differ between workers; those of this one depend on
        (seed, step, purpose) alone, so a resumed run, or one with more workers, draws the same.
        """
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + self.step) * 31 + purpose) % 2**63)

    def draws(self, ids: Tensor, count: int, purpose: int = 0) -> Tensor:
        """Return uniform numbers in [0, 1), (N, count) float64, functions of (seed, step, purpose, id) alone.

        `ids` (N,) are whole numbers such as utterances; the place of one among the others changes nothing.
        Source: SplitMix64, Steele et al., OOPSLA 2014.
        """
        key = int(torch.randint(2**62, (), generator=self.generator(purpose)))
        numbers = ids[:, None] * count + torch.arange(count, device=ids.device)
        # Products wrap around at 64 bits; the masks make shifts of negative numbers those of unsigned ones.
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
    """Count what memories and classifiers are sized by; a speaker counts once for each class of theirs."""

    num_utterances: int = 0
    num_speakers: int = 0


class Corpus(Protocol):
    """Give a method access to all training utterances between two epochs."""

    size: CorpusSize

    def embed(self, model: "Model", *, seconds: float = 4.0, clean: bool = True) -> Tensor:
        """Return `model.embed` of one crop of each utterance, (N, D) float32 on the CPU.

        Row i is utterance i. The model is in evaluation mode meanwhile. All workers must call this together;
        all get the same rows, whatever their number.
        """


class Model(nn.Module, ABC):
    """Hold an encoder and a training objective; subclasses state their `views` and give `forward`.

    State that lasts between steps (queues, teachers, centres) must be buffers and modules, so that
    `state_dict()` is all that a checkpoint needs, and must be the same on all workers.
    """

    needs_labels = False  # True: the batch also holds `speaker`
    has_cacheable_projections = False  # True: gives `project` and `compare`, so `train.chunk_size` works
    embedder = "encoder"  # the submodule whose output is the embedding

    config: Any  # the settings of the method, its `Config`
    encoder: nn.Module
    views: tuple[ViewGroup, ...]

    def __init__(self) -> None:
        super().__init__()
        self.positives: PositiveSampler | None = None

    @abstractmethod
    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return loss and metrics of one batch; with several workers, of all their batches together.

        The batch holds the int16 views of each group, (B, count, samples), and int64 columns (B,): `sample`,
        the position in the run; `utterance`, from 0 to N - 1; `speaker` for classes with `needs_labels`.
        """

    def regularized(self, output: StepOutput, embeddings: Tensor, progress: Progress) -> StepOutput:
        """Add the settings' `regularizers` of this worker's embeddings (B, V, D) to loss and metrics.

        They see the embeddings of the global batch, each of the V views by itself; their mean over the views
        counts. Settings without regularizers leave the output as it is.
        """
        chosen = getattr(self.config, "regularizers", ())
        if not chosen:
            return output
        weights = {each.name: each.weight for each in chosen}
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = distributed.gather(full_precision(embeddings)).transpose(0, 1)  # (V, W*B, D)
            terms = regularizer_terms(tuple(weights), rows, progress.generator(REGULARIZERS))
            loss = output.loss + weighted_sum(terms, weights)
        values = {f"embedding_{name}": term.detach() for name, term in terms.items()}
        return StepOutput(loss, output.metrics | values)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups; by default matrices and kernels decay, vectors and scalars do not.

        Keys: `params`; `decays`, False for no weight decay; `rate_scale`, a factor of the learning rate
        (default 1); `follows_schedule`, False for a rate that stays at the highest one.
        """
        return decay_groups(self.parameters())

    def start_epoch(self, progress: Progress, corpus: Corpus) -> None:
        """Prepare an epoch; called before its first step, not when a run is resumed within it.

        With `add_positives`, from its start epoch on, all utterances are clustered by embeddings of a clean
        crop of each, made by the model as it is now.
        """
        if self.positives is not None and progress.epoch >= self.positives.settings.start_epoch:
            seconds = self.positives.settings.reference_seconds
            embeddings = corpus.embed(self, seconds=seconds, clean=True)
            self.positives.cluster(embeddings, progress.generator(POSITIVES))

    def add_positives(self, settings: SSPS | None, size: CorpusSize, dim: int) -> None:
        """Let `sample_positives` work on rows of `dim` values in all; None leaves every row as it is."""
        if settings is not None:
            self.positives = PositiveSampler(settings, size.num_utterances, dim)

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
        """Take over a trained encoder's weights, and what else the method wants of the model around it."""
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
        """Return a module like the submodule `embedder`, around a new encoder: an export is made with it."""
        return encoder

    def embed(self, waveforms: Tensor) -> Tensor:
        """Return embeddings for verification, (B, D), not normalised, of waveforms (B, T), int16 or float."""
        return self.get_submodule(self.embedder)(waveforms)  # type: ignore[no-any-return]


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
    """Drop gradients in `before_step`: the optimizer leaves these tensors alone, weight decay included."""
    for parameter in parameters:
        parameter.grad = None


class TwoViewConfig(Protocol):
    """Name the settings of every method with two equal views."""

    @property
    def crop_seconds(self) -> float: ...  # noqa: D102

    @property
    def projector_dims(self) -> tuple[int, ...]: ...  # noqa: D102


class TwoViewModel(Model):
    """Pass two views alike through an encoder and a projector; subclasses give the loss of projections.

    A `Config` with a field `positives` lets view b come from other utterances, see `positives.py`.
    """

    has_cacheable_projections = True

    def __init__(self, config: TwoViewConfig, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:  # noqa: B008
        super().__init__()
        self.config: Any = config  # subclasses may state the type, `config: Config`
        self.encoder = encoder
        self.projector = projector(int(encoder.embedding_dim), config.projector_dims)  # type: ignore[arg-type]
        self.views = (ViewGroup("views", 2, config.crop_seconds),)
        projection_dim = (int(encoder.embedding_dim), *config.projector_dims)[-1]  # type: ignore[arg-type]
        self.add_positives(getattr(config, "positives", None), size, projection_dim)

    def forward(self, batch: dict[str, Tensor], progress: Progress) -> StepOutput:
        """Return the loss of all workers' batches; autocast covers encoder and projector, not the loss."""
        return self.compare(*self.project(batch["views"]), batch, progress)

    def project(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings and projections, (B, 2, D) and (B, 2, P), of views (B, 2, T).

        A worker, or a chunk of its share, does this alone: layers from the first IterNorm on, which need
        the whole batch, belong to `compare`.
        """
        # One pass over both views, (2B, T): faster than two, and batch norm sees both alike.
        embeddings = self.encoder(views.transpose(0, 1).flatten(0, 1))
        projections = self.projector[: self._num_local_layers](embeddings)
        return paired(embeddings), paired(projections)

    def compare(
        self, embeddings: Tensor, projections: Tensor, batch: dict[str, Tensor], progress: Progress
    ) -> StepOutput:
        """Return loss and metrics of what `project` gave for a worker's batch, with all other workers'."""
        with torch.autocast(projections.device.type, enabled=False):
            rows = self.whitening(projections.transpose(0, 1).flatten(0, 1))  # (2B, P)
            pairs = distributed.gather(paired(rows))  # (W*B, 2, P)
            positives, sampling = self.sample_positives(pairs[:, 1], batch, progress)
            # Stacked again, rows lie in memory as they do without sampling: sums are the same bit for bit.
            z_a, z_b = torch.stack([pairs[:, 0], positives], 1).unbind(1)
            loss, metrics = self.loss_at(z_a, z_b, progress)
            metrics |= sampling
            metrics["batch_feature_std"] = feature_std(embeddings.detach().transpose(0, 1).flatten(0, 1))
        return self.regularized(StepOutput(loss, metrics), embeddings, progress)

    @property
    def whitening(self) -> nn.Sequential:
        """Return the projector's layers from the first IterNorm on: their batch is that of all workers."""
        return self.projector[self._num_local_layers :]

    @property
    def _num_local_layers(self) -> int:
        layers = list(self.projector)
        return next((i for i, layer in enumerate(layers) if isinstance(layer, IterNorm)), len(layers))

    def loss_at(self, z_a: Tensor, z_b: Tensor, progress: Progress) -> StepOutput:
        """Return `loss`; a method whose loss draws, or changes over the run, gives this instead of it."""
        return self.loss(z_a, z_b)

    def loss(self, z_a: Tensor, z_b: Tensor) -> StepOutput:
        """Return the loss of projections (B, P) of view a and of view b, row i of both from sample i."""
        raise NotImplementedError(f"{type(self).__name__} has neither `loss` nor `loss_at`.")


class TeacherModel(Model):
    """Keep a teacher: copies of some of the student's modules that follow them as moving averages.

    A subclass calls `add_teacher` once its modules are there. The teacher's weights move after each
    optimizer step; its batch norms stay in training mode with running statistics of their own, which are not
    averaged. It is in `state_dict()`, and neither the optimizer nor DDP sees it.
    """

    teacher: nn.ModuleDict

    def add_teacher(self, *names: str) -> None:
        """Make `self.teacher[name]`, a frozen copy of the submodule `self.name`, for each name."""
        self.teacher = nn.ModuleDict({name: copy.deepcopy(getattr(self, name)) for name in names})
        self.teacher.requires_grad_(False)

    def start_from(self, encoder: nn.Module, model: Model | None) -> None:
        """Take over a trained encoder's weights, for student and teacher."""
        super().start_from(encoder, model)
        if "encoder" in self.teacher:
            self.teacher["encoder"].load_state_dict(encoder.state_dict())

    def teacher_momentum(self, progress: Progress) -> float:
        """Return the share of its own weights that the teacher keeps in this step, 0 to 1.

        It rises from the settings' `teacher_momentum` to 1 by half a cosine, unless a subclass differs.
        """
        return cosine_momentum(self.config.teacher_momentum, progress)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Move the teacher: teacher = m * teacher + (1 - m) * student, for all parameters."""
        teachers: list[Tensor] = list(self.teacher.parameters())
        students: list[Tensor] = [p for name in self.teacher for p in getattr(self, name).parameters()]
        # A weight of 1 or 0 is exact: momentum 0 copies the student, momentum 1 leaves the teacher alone.
        torch._foreach_lerp_(teachers, students, 1.0 - self.teacher_momentum(progress))


class TwoViewTeacherModel(TeacherModel):
    """Keep a teacher of encoder and projector, which see two equal views as the student does."""

    projector_ends_in_norm = False

    def __init__(self, config: TwoViewConfig, encoder: nn.Module, size: CorpusSize = CorpusSize()) -> None:  # noqa: B008
        super().__init__()
        self.config: Any = config  # subclasses may state the type, `config: Config`
        self.views = (ViewGroup("views", 2, config.crop_seconds),)
        self.encoder = encoder
        embedding_dim = int(encoder.embedding_dim)  # type: ignore[arg-type]
        self.projector = projector(embedding_dim, config.projector_dims, self.projector_ends_in_norm)
        self.projection_dim = (embedding_dim, *config.projector_dims)[-1]
        self.add_teacher("encoder", "projector")

    def project(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the student's embeddings (2B, D) and projections (2B, P), and the teacher's (B, 2, P).

        Views are (B, 2, T); rows of 2B hold all of view a before all of view b. No gradient reaches the
        teacher.
        """
        # One pass over both views: batch norm sees both alike.
        waveforms = views.transpose(0, 1).flatten(0, 1)
        embeddings = self.encoder(waveforms)
        with torch.no_grad():
            targets = self.teacher["projector"](self.teacher["encoder"](waveforms))
        return embeddings, self.projector(embeddings), paired(targets)


def cosine_momentum(base: float, progress: Progress) -> float:
    """Return the momentum that rises from `base` at step 0 towards 1 at the end, by half a cosine (BYOL)."""
    return 1.0 - (1.0 - base) * (math.cos(math.pi * progress.fraction) + 1.0) / 2.0


def paired(rows: Tensor) -> Tensor:
    """Return (B, 2, D) of rows (2B, D) in which all of view a come before all of view b; at least float32."""
    return torch.stack(full_precision(rows).chunk(2), 1)
