"""What is minimised: one loss a task, each a mean over its own units, so that task weights mean what they say."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.leximind import LexiMind
from training.data.batches import IGNORED, Batch


@dataclass(frozen=True)
class LossWeights:
    """How much each task counts, and the label smoothing of summaries."""

    summarize: float
    emotions: float
    topic: float
    label_smoothing: float


def task_losses(model: LexiMind, batch: Batch, label_smoothing: float) -> dict[str, Tensor]:
    """Loss of each task that `batch` has labels for; one encoder pass.

    `summarize`: cross-entropy a target token (label smoothing as in Szegedy et al. 2016). `emotions`: binary
    cross-entropy a row, summed over the labels. `topic`: cross-entropy a row.
    """
    hidden = model.encode(batch.input_ids, batch.encoder_mask)
    losses = {}
    if batch.labels.shape[1] and bool((batch.labels != IGNORED).any()):
        logits = model.decode(hidden, batch.encoder_mask, batch.decoder_input_ids)
        losses["summarize"] = F.cross_entropy(
            logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing
        )
    known = batch.emotions[:, 0] >= 0 if batch.emotions.shape[1] else torch.zeros(0, dtype=torch.bool)
    if bool(known.any()):
        logits = model.emotion_logits(hidden, batch.encoder_mask).float()
        rows = F.binary_cross_entropy_with_logits(logits, batch.emotions.clamp(min=0), reduction="none").sum(1)
        losses["emotions"] = rows[known].mean()
    if bool((batch.topics != IGNORED).any()):
        logits = model.topic_logits(hidden, batch.encoder_mask).float()
        losses["topic"] = F.cross_entropy(logits, batch.topics, ignore_index=IGNORED)
    return losses


def total_loss(losses: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """Weighted sum of what `task_losses` returned."""
    return torch.stack([getattr(weights, task) * loss for task, loss in losses.items()]).sum()
