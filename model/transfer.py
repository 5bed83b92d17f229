"""Tensors from the host to where they are needed."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, made on the host, on `device`; to a GPU by pinned memory, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
