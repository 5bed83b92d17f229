"""What is minimised: one loss a task, each a mean over its own units, so that task weights mean what they say."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.leximind import LexiMind
from training.cross_entropy import linear_cross_entropy
from training.data.batches import IGNORED, Batch, Encoded
from training.errors import TrainingError


@dataclass(frozen=True)
class LossConfig:
    """How much each task counts, the label smoothing of summaries, and what helps rare emotions.

    Raises:
        TrainingError: a value outside its range.
    """

    summarize: float
    emotions: float
    topic: float
    label_smoothing: float
    positive_power: float
    focus_positive: float
    focus_negative: float
    ignore_below: float

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "ignore_below"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"loss.{name} is {getattr(self, name)}; it must lie in [0, 1)")
        for name in ("summarize", "emotions", "topic", "positive_power", "focus_positive", "focus_negative"):
            if getattr(self, name) < 0:
                raise TrainingError(f"loss.{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("focus_positive", "focus_negative"):
            if 0 < getattr(self, name) < 1:  # the gradient of x^γ at 0 is infinite
                raise TrainingError(f"loss.{name} is {getattr(self, name)}; it must be 0 (off) or at least 1")


class Objective(nn.Module):
    """The network with its losses: one forward pass, from a batch to what is minimised.

    `positive_weights` (E,) is how much each emotion's presence counts against its absence.
    """

    positive_weights: Tensor

    def __init__(self, model: LexiMind, config: LossConfig, positive_weights: Tensor) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.everywhere = False  # whether every batch must pass through every parameter (see `training.sharding`)
        self.register_buffer("positive_weights", positive_weights, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the loss of each task that `batch` has labels for; one encoder pass.

        `summarize`: cross-entropy a target token (label smoothing as in Szegedy et al. 2016). `emotions`: binary
        cross-entropy a row, summed over the labels. `topic`: cross-entropy a row.
        """
        config, mask = self.config, batch.encoder_mask
        hidden = self.model.encode(batch.input_ids, mask)
        losses = {}
        if batch.has_summaries:
            # Padding is half of a batch of summaries or more: it has no part in the largest product of the network.
            states = target_states(self.model, hidden, mask, batch.decoder_input_ids).flatten(0, 1)
            smoothing = config.label_smoothing if self.training else 0.0
            losses["summarize"] = linear_cross_entropy(
                states.index_select(0, batch.counted),
                self.model.lm_head_weight,
                batch.labels.flatten().index_select(0, batch.counted),
                smoothing,
            )
        if batch.has_emotions:
            known = batch.emotions[:, 0] >= 0
            logits = self.model.emotion_logits(hidden, mask).float()
            rows = asymmetric_loss(logits, batch.emotions.clamp(min=0), self.positive_weights, config)
            losses["emotions"] = (rows.sum(1) * known).sum() / known.sum()
        if batch.has_topics:
            logits = self.model.topic_logits(hidden, mask).float()
            losses["topic"] = F.cross_entropy(logits, batch.topics, ignore_index=IGNORED)
        total = torch.stack([getattr(config, task) * loss for task, loss in losses.items()]).sum()
        if self.everywhere:
            total = total + 0.0 * self._rest(batch, hidden[:1], mask[:1])
        return total, losses

    def _rest(self, batch: Batch, hidden: Tensor, mask: Tensor) -> Tensor:
        # One row through all that `batch` does not use: processes whose batches differ meet in every part.
        model, parts = self.model, [hidden.sum()]
        if not batch.has_summaries:
            start = torch.zeros(1, 1, dtype=torch.int64, device=hidden.device)
            parts.append((target_states(model, hidden, mask, start) * model.lm_head_weight[:1]).sum())
        if model.config.num_emotions and not batch.has_emotions:
            parts.append(model.emotion_logits(hidden, mask).sum())
        if model.config.num_topics and not batch.has_topics:
            parts.append(model.topic_logits(hidden, mask).sum())
        return torch.stack([part.float() for part in parts]).sum()


def target_states(model: LexiMind, hidden: Tensor, mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
    """What `LexiMind.decode` multiplies with the output matrix: (B, S, D), (B, S), (B, T) to (B, T, D)."""
    x = model.embedding(decoder_input_ids)
    if model.config.num_positions:
        table = model.decoder_positions[: x.shape[1]]
        x = x + F.pad(table, (0, 0, 0, x.shape[1] - len(table)))
    states: Tensor = model.decoder(x, hidden, mask)
    return states * model.config.d_model**-0.5 if model.config.scale_lm_head else states


def asymmetric_loss(logits: Tensor, truth: Tensor, positive_weights: Tensor, config: LossConfig) -> Tensor:
    """Binary cross-entropy that looks away from easy decisions: (B, E), (B, E), (E,) to (B, E).

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


def positive_weights(rows: Sequence[Encoded], num_emotions: int, power: float) -> Tensor:
    """For each emotion (negatives / positives)^power over the rows that have emotions, at least 1: (E,)."""
    known = [row.emotions for row in rows if row.emotions is not None]
    counts = torch.zeros(num_emotions)
    for emotions in known:
        counts[list(emotions)] += 1
    return ((len(known) - counts) / counts.clamp(min=1)).clamp(min=1) ** power
