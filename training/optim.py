"""Optimizers and learning rates: which parameter is stepped by what, and how large the step is when."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from model.leximind import LexiMind
from training.errors import TrainingError


@dataclass(frozen=True)
class OptimizerConfig:
    """`adamw`: all parameters at `lr`. `muon`: hidden matrices by Muon at `matrix_lr`, the rest by AdamW at `lr`."""

    name: Literal["adamw", "muon"]
    lr: float
    matrix_lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up over `warmup_steps`, then `cosine` to `final` of the peak, `constant`, or `trapezoid`.

    `trapezoid` stays at the peak and falls linearly to `final` over the last `decay_fraction` of the steps.
    """

    name: Literal["cosine", "constant", "trapezoid"]
    warmup_steps: int
    final: float
    decay_fraction: float


class Optimizers:
    """One or two torch optimizers stepped as one."""

    def __init__(self, model: LexiMind, config: OptimizerConfig) -> None:
        matrices, decayed, plain = _split(model, config.name)
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                groups,
                lr=config.lr,
                betas=config.betas,
                eps=config.eps,
                weight_decay=config.weight_decay,
                fused=True,
            )
        ]
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=config.weight_decay))
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def step(self, scale: float) -> None:
        """One step of every part at `scale` times its peak learning rate; gradients are dropped."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of every part."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """The inverse of `state_dict`."""
        if len(states) != len(self.parts):
            raise TrainingError(f"the saved state has {len(states)} optimizers, this run has {len(self.parts)}")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def learning_rate_scale(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at `step` of `total_steps`, in [0, 1]."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    progress = min(1.0, progress)
    if config.name == "cosine":
        return config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2
    if config.name == "trapezoid":
        left = (1 - progress) / config.decay_fraction
        return config.final + (1 - config.final) * min(1.0, left)
    return 1.0


def _split(model: LexiMind, name: str) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    # No decay on norms, biases, embeddings and position tables; Muon is for the matrices between them.
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    hidden = {id(parameter) for parameter in _hidden_matrices(model)}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in hidden:
            (matrices if name == "muon" else decayed).append(parameter)
        else:
            plain.append(parameter)
    return matrices, decayed, plain


def _hidden_matrices(model: LexiMind) -> Iterator[nn.Parameter]:
    for stack in (model.encoder.layers, model.decoder.layers):
        yield from (parameter for parameter in stack.parameters() if parameter.ndim == 2)
