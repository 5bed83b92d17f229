"""Optimizers and learning rates: which parameter is stepped by what, and how large the step is when."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from model.network.heads import HEADS_PREFIX
from model.network.leximind import LexiMind
from training.errors import TrainingError


@dataclass(frozen=True)
class OptimizerConfig:
    """`adamw` or `adafactor`: all parameters at `lr`. `muon`: hidden matrices by Muon at `matrix_lr`, the rest AdamW.

    Raises:
        TrainingError: a value outside its range, or `matrix_lr` where nothing reads it.
    """

    name: Literal["adamw", "adafactor", "muon"]
    lr: float
    matrix_lr: float | None
    head_lr: float | None
    weight_decay: float
    betas: tuple[float, float]
    eps: float

    def __post_init__(self) -> None:
        for name in ("lr", "matrix_lr", "head_lr", "eps"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise TrainingError(f"optimizer.{name} is {value}; it must be above 0")
        if (self.matrix_lr is None) == (self.name == "muon"):
            remedy = "give it one, 0.01 say" if self.name == "muon" else "leave it null"
            raise TrainingError(f"optimizer.matrix_lr is {self.matrix_lr} with {self.name}; {remedy}")


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up over `warmup_steps`, then `cosine`, `constant`, `inverse_sqrt` or `trapezoid`.

    `cosine` falls to `final` of the peak; `trapezoid` stays there and falls linearly to `final` over the last
    `decay_fraction` of the steps; `inverse_sqrt` falls as 1/√step (Vaswani et al. 2017) from the end of the warm-up.

    Raises:
        TrainingError: a value outside its range.
    """

    name: Literal["cosine", "constant", "inverse_sqrt", "trapezoid"]
    warmup_steps: int
    final: float
    decay_fraction: float

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise TrainingError(f"schedule.warmup_steps is {self.warmup_steps}; it must be 0 or more")
        if not 0 <= self.final <= 1 or not 0 < self.decay_fraction <= 1:
            raise TrainingError(
                f"schedule.final is {self.final} and decay_fraction {self.decay_fraction}; they are shares, at most 1"
            )


class Optimizers:
    """One or two torch optimizers stepped as one."""

    def __init__(self, model: LexiMind, config: OptimizerConfig) -> None:
        matrices, groups = _groups(model, config)
        if not matrices and not any(group["params"] for group in groups):
            raise TrainingError("nothing is left to train; loop.freeze names every parameter")
        self.parts: list[torch.optim.Optimizer] = []
        if config.name == "adafactor":
            self.parts.append(torch.optim.Adafactor(groups, lr=config.lr))
        else:
            self.parts.append(torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True))
        if matrices:
            assert config.matrix_lr is not None
            self.parts.append(torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=config.weight_decay))
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_scale(self, scale: float) -> None:
        """Set every learning rate to `scale` times its peak."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * scale

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of every part."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """The inverse of `state_dict`."""
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
    if config.name == "inverse_sqrt":
        return math.sqrt(max(1, config.warmup_steps) / max(1, step))
    return 1.0


def _groups(model: LexiMind, config: OptimizerConfig) -> tuple[list[nn.Parameter], list[dict[str, Any]]]:
    # Muon and decay are for the hidden matrices; norms, biases, embeddings, positions and heads go without decay.
    matrices: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    heads: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            in_stack = name.startswith(("encoder.layers.", "decoder.layers."))
            is_head = config.head_lr is not None and name.startswith(HEADS_PREFIX)
            (matrices if in_stack and parameter.ndim == 2 else heads if is_head else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": [] if config.name == "muon" else matrices, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if heads:
        groups.append({"params": heads, "weight_decay": 0.0, "lr": config.head_lr})
    return matrices if config.name == "muon" else [], groups
