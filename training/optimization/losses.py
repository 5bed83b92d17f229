"""What is minimised: one loss a task, each a mean over its own units, so that task weights mean what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.leximind import LexiMind
from model.tasks import SUMMARIZE, Head, HeadKind
from training.data.batches import IGNORED, Batch
from training.errors import TrainingError
from training.optimization.cross_entropy import linear_cross_entropy


@dataclass(frozen=True)
class LossConfig:
    """How much each task counts, the label smoothing of summaries, and what helps rare labels.

    `heads` has the weights of heads by their names; one that is not there counts 1. `keep` has the share of a head's
    loss that is the distance to what it answered before the run, 0 for one that is not there.

    Raises:
        TrainingError: a value outside its range.
    """

    summarize: float
    heads: dict[str, float]
    keep: dict[str, float]
    label_smoothing: float
    positive_power: float
    focus_positive: float
    focus_negative: float
    ignore_below: float

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "ignore_below"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"loss.{name} is {getattr(self, name)}; it must lie in [0, 1)")
        for name, share in self.keep.items():
            if not 0 <= share <= 1:
                raise TrainingError(f"loss.keep.{name} is {share}; it must lie in [0, 1]")
        weights = {f"heads.{name}": weight for name, weight in self.heads.items()}
        for name in ("summarize", "positive_power", "focus_positive", "focus_negative"):
            weights[name] = getattr(self, name)
        for name, value in weights.items():
            if value < 0:
                raise TrainingError(f"loss.{name} is {value}; it must be 0 or more")
        for name in ("focus_positive", "focus_negative"):
            if 0 < getattr(self, name) < 1:  # the gradient of x^γ at 0 is infinite
                raise TrainingError(f"loss.{name} is {getattr(self, name)}; it must be 0 (off) or at least 1")


class Objective(nn.Module):
    """The network with its losses: one forward pass, from a batch to what is minimised.

    `label_weights` says for each of `heads` how much each of its labels counts, as `label_weights` gives it: (L,).
    `before` is the network as it was before the run, whose answers the heads of `loss.keep` stay near.
    """

    def __init__(
        self,
        model: LexiMind,
        heads: Sequence[Head],
        config: LossConfig,
        label_weights: Mapping[str, Tensor],
        before: LexiMind | None = None,
    ) -> None:
        super().__init__()
        self._before = (before,)  # in a tuple, so that it is no part of what is trained and saved
        self.model = model
        self.config = config
        # Whether every batch must pass through every parameter (see `training.distributed.sharding`).
        self.everywhere = False
        self._kinds = {head.name: head.kind for head in heads}
        for name, weights in label_weights.items():
            self.register_buffer(f"weights_of_{name}", weights, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the loss of each task that `batch` has labels for; one encoder pass.

        `summarize`: cross-entropy a target token (label smoothing as in Szegedy et al. 2016). A head: see `head_loss`.
        """
        config, mask = self.config, batch.encoder_mask
        encoder_states = self.model.encode(batch.input_ids, mask)
        losses = {}
        if batch.has_summaries:
            # Padding is half of a batch of summaries or more: it has no part in the largest product of the network.
            states = self.model.target_states(encoder_states, mask, batch.decoder_input_ids).flatten(0, 1)
            smoothing = config.label_smoothing if self.training else 0.0
            losses[SUMMARIZE] = linear_cross_entropy(
                states.index_select(0, batch.counted),
                self.model.lm_head_weight,
                batch.labels.flatten().index_select(0, batch.counted),
                smoothing,
            )
        logits_before = self._logits_before(batch)
        for name, logits in self.model.classify(encoder_states, mask, batch.heads).items():
            weights: Tensor = getattr(self, f"weights_of_{name}")
            losses[name] = head_loss(logits, batch.heads[name], self._kinds[name], weights, config)
            if name in logits_before:
                kept = distance(logits, logits_before[name], self._kinds[name])
                losses[name] = torch.lerp(losses[name], kept, config.keep[name])
        counts = {SUMMARIZE: config.summarize, **config.heads}
        total = torch.stack([counts.get(task, 1.0) * loss for task, loss in losses.items()]).sum()
        if self.everywhere:
            total = total + 0.0 * self._rest(batch, encoder_states[:1], mask[:1])
        return total, losses

    @torch.no_grad()
    def _logits_before(self, batch: Batch) -> dict[str, Tensor]:
        (before,) = self._before
        kept = [name for name in batch.heads if self.config.keep.get(name)]
        if before is None or not kept:
            return {}
        return before.classify(before.encode(batch.input_ids, batch.encoder_mask), batch.encoder_mask, kept)

    def _rest(self, batch: Batch, encoder_states: Tensor, mask: Tensor) -> Tensor:
        # One row through all that `batch` does not use: processes whose batches differ synchronise in every part.
        model, parts = self.model, [encoder_states.sum()]
        if not batch.has_summaries:
            start = torch.zeros(1, 1, dtype=torch.int64, device=encoder_states.device)
            parts.append((model.target_states(encoder_states, mask, start) * model.lm_head_weight[:1]).sum())
        others = [name for name in model.heads if name not in batch.heads]
        parts += [logits.sum() for logits in model.classify(encoder_states, mask, others).values()]
        return torch.stack([part.float() for part in parts]).sum()


def asymmetric_loss(logits: Tensor, truth: Tensor, positive_weights: Tensor, config: LossConfig) -> Tensor:
    """Binary cross-entropy with less weight on easy decisions: (B, E), (B, E), (E,) to (B, E).

    Asymmetric loss (Ridnik et al. 2021, eq. 4 to 7): both sides are focused by their own power of what is missing to
    certainty, and a negative below the probability `ignore_below` counts nothing. With all of these 0 and weights of 1
    it is binary cross-entropy.
    """
    probability = logits.sigmoid()
    shifted = (probability - config.ignore_below).clamp(min=0)
    positive = F.logsigmoid(logits) * (1 - probability) ** config.focus_positive * positive_weights
    absent = torch.log1p(-shifted.clamp(max=1 - 1e-6)) if config.ignore_below else F.logsigmoid(-logits)
    negative = absent * shifted**config.focus_negative
    return -(truth * positive + (1 - truth) * negative)


def head_loss(logits: Tensor, known: Tensor, kind: HeadKind, weights: Tensor, config: LossConfig) -> Tensor:
    """A head's loss a row: (B, L), labels as `Batch.heads` has them, (L,) to a scalar.

    Several labels: binary cross-entropy, summed over the labels. One label: cross-entropy.
    """
    if kind == "single_label":
        return F.cross_entropy(logits.float(), known, weights, ignore_index=IGNORED)
    there = known[:, 0] >= 0
    rows = asymmetric_loss(logits.float(), known.clamp(min=0), weights, config)
    return (rows.sum(1) * there).sum() / there.sum()


def distance(logits: Tensor, other: Tensor, kind: HeadKind) -> Tensor:
    """Cross-entropy to the probabilities of `other`, a mean over rows: (B, L), (B, L) to a scalar.

    Learning without forgetting (Li and Hoiem 2016), at a temperature of 1.
    """
    if kind == "single_label":
        return F.cross_entropy(logits.float(), other.float().softmax(1))
    rows = F.binary_cross_entropy_with_logits(logits.float(), other.float().sigmoid(), reduction="none")
    return rows.sum(1).mean()


def label_weights(rows: Sequence[tuple[int, ...]], head: Head, power: float) -> Tensor:
    """How much each label counts, by its number among `rows`, the labels of each row: (L,).

    Several labels: of its presence (negatives / positives)^power, at least 1. One label: (mean number of rows of a
    label / its own)^power.
    """
    counts = torch.zeros(len(head.labels))
    for labels in rows:
        counts[list(labels)] += 1
    if head.kind == "single_label":
        return (counts.mean() / counts.clamp(min=1)) ** power
    return ((len(rows) - counts) / counts.clamp(min=1)).clamp(min=1) ** power
