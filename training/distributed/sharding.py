"""Weights, gradients and optimizer states shared out over the processes of a run (FSDP2), and put together again.

What is saved is whole, so that a state is the same whatever shared it out, and a checkpoint is an ordinary one.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from model.network.heads import HEADS_PREFIX
from model.network.leximind import LexiMind
from model.tasks import SUMMARIZE
from training.config import TrainConfig
from training.errors import TrainingError
from training.optimization.losses import Objective

_SUMMARIZING = ("decoder.", "decoder_positions", "lm_head.")  # parameters that only batches of summaries use


def check_sharding(config: TrainConfig) -> None:
    """Refuse what cannot work on a part of a matrix.

    Raises:
        TrainingError: Muon or Adafactor, which look at whole matrices, or float16 with its scaling.
    """
    if config.optimizer.name != "adamw":
        raise TrainingError(
            f"optimizer.name is {config.optimizer.name}, which needs whole matrices; use adamw with loop.parallel=fsdp"
        )
    if config.loop.precision == "fp16":
        raise TrainingError("loop.precision is fp16, whose scaling looks at one process's gradients; use bf16 or fp32")


def shard(objective: Objective, device: torch.device) -> None:
    """Leave on this process its part of every parameter; a layer is whole while it is computed."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in (*objective.model.encoder.layers, *objective.model.decoder.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    objective.everywhere = True


@contextmanager
def whole_weights(objective: Objective) -> Iterator[None]:
    """Within, every parameter is an ordinary, whole tensor; all processes enter."""
    parts = [module for module in objective.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def whole(tree: Any, *, keep: bool) -> Any:
    """The same with every shared tensor put together on the CPU, or left out where not to `keep`; all processes ask."""
    if isinstance(tree, DTensor):
        full = tree.full_tensor()
        return full.cpu() if keep else None
    if isinstance(tree, dict):
        return {name: whole(value, keep=keep) for name, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value, keep=keep) for value in tree]
    return tree


def shared_like(tensors: Mapping[str, Tensor], pattern: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole `tensors`, shared out where their namesake in `pattern` is."""
    return {name: _like(tensor, pattern[name]) for name, tensor in tensors.items()}


def shared_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer, shared out as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries = {
        number: {
            name: _like(value, parameters[number]) if value.shape == parameters[number].shape else value
            for name, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    return {**state, "state": entries}


def drop_unused(model: LexiMind, tasks: Collection[str]) -> None:
    """Without a batch of some task in any process, the parameters of its own are not stepped: as one process does."""
    unused = tuple(f"{HEADS_PREFIX}{name}." for name in model.heads if name not in tasks)
    unused += () if SUMMARIZE in tasks else _SUMMARIZING
    for name, parameter in model.named_parameters():
        if name.startswith(unused):
            parameter.grad = None


def _like(tensor: Tensor, pattern: Tensor) -> Tensor:
    if not isinstance(pattern, DTensor):
        return tensor
    return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh, pattern.placements)
