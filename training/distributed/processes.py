"""The processes of a run that `torchrun` started, or the only one: their ranks and what they exchange.

Every process works on its own slots of a step (`training.data.mixture`), and the gradients are averaged once, when the
step is complete. DistributedDataParallel would average after each backward pass or, under `no_sync`, miss the
parameters that only an earlier one used (a head, the decoder), since its buckets follow the last graph alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from model.devices import device_named
from model.errors import DeviceError
from training.errors import TrainingError

_PATIENCE = timedelta(hours=2)  # the others wait while the first one validates


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `world_size`."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one prints, saves and validates."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean over processes; a parameter without a gradient here counts as zero if it has one elsewhere."""
        if self.world_size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.float32)
        used = used.to(trained[0].device)
        distributed.all_reduce(used)
        chosen = [parameter for parameter, count in zip(trained, used.tolist(), strict=True) if count]
        for parameter in chosen:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in chosen if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.world_size
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """What the first process gives."""
        if self.world_size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]


def join(device: str) -> tuple[Processes, torch.device]:
    """Join the other processes if `torchrun` started this one; gives the device that this one works on.

    `device` is `auto`, `cpu` or a CUDA device.

    Raises:
        TrainingError: a device that is none of these, or not there.
    """
    try:
        place = device_named(device)
    except DeviceError as error:
        raise TrainingError(f"loop.device: {error}") from error
    if not distributed.is_torchelastic_launched():
        return Processes(), place
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    if place == torch.device("cuda"):
        place = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(place)
    return Processes(distributed.get_rank(), distributed.get_world_size()), place


def leave() -> None:
    """The end of what `join` began."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
