"""Weights averaged over the steps of a run, which are validated and saved in place of the newest."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of the parameters of a network; the first update copies them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._started = False
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards what `model` is now."""
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter, 1 - self._decay if self._started else 1.0)
        self._started = True

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Within, `model` has the averaged weights."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    def state_dict(self) -> dict[str, Any]:
        """Weights, and whether there has been an update."""
        return {"weights": self.weights, "started": self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, weight in state["weights"].items():
            self.weights[name].copy_(weight)
        self._started = state["started"]

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            newest = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(newest)
