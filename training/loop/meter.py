"""What happened since the last report: mean losses, speed, and how much of the hardware's arithmetic was used."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import ModelConfig
from training.data.batches import Batch
from training.distributed.processes import Processes

# Dense bf16 peak, operations a second, from the makers' data sheets.
_PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "4070": 58e12}


class Meter:
    """Sums of one stretch of steps; nothing here waits for the device before `summary`."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._tokens = 0
        self._operations = 0.0
        self._start = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor], batch: Batch) -> None:
        """Count one batch."""
        for task, loss in losses.items():
            self._sums[task] = self._sums.get(task, torch.zeros_like(loss)) + loss.detach()
            self._counts[task] = self._counts.get(task, 0) + 1
        rows, source = batch.input_ids.shape
        target = batch.labels.shape[1] if batch.has_summaries else 0
        self._tokens += rows * (source + target)
        self._operations += 3 * rows * forward_operations(self._config, source, target)

    def summary(self, processes: Processes) -> dict[str, float]:
        """Mean loss of each task, tokens a second (padding included) and, on a known GPU, `mfu`; over processes."""
        own = (
            {task: (float(total), self._counts[task]) for task, total in self._sums.items()},
            self._tokens,
            self._operations,
        )
        parts = processes.gather(own)
        seconds = time.perf_counter() - self._start
        figures = {}
        for task in dict.fromkeys(task for losses, *_ in parts for task in losses):
            found = [losses[task] for losses, *_ in parts if task in losses]
            figures[task] = sum(total for total, _ in found) / sum(count for _, count in found)
        figures["tokens_per_s"] = sum(tokens for _, tokens, _ in parts) / seconds
        if peak := peak_operations(self._device):
            figures["mfu"] = sum(operations for *_, operations in parts) / seconds / peak / len(parts)
        return figures


def forward_operations(config: ModelConfig, source: int, target: int) -> float:
    """Multiplications and additions of one row's forward pass, S source and T target tokens (backward: twice that).

    Two a weight and token, plus attention's two products (Kaplan et al. 2020, table 1).
    """
    width, inner = config.d_model, config.inner_width
    attention, feed_forward = 4 * width * inner, 3 * width * config.d_ff
    encoder = config.num_encoder_layers * (2 * source * (attention + feed_forward) + 4 * inner * source**2)
    decoder = config.num_decoder_layers * (
        2 * target * (attention + 2 * width * inner + feed_forward)
        + 2 * source * 2 * width * inner  # keys and values of the source
        + 4 * inner * (target**2 + target * source)
    )
    return encoder + (decoder + 2 * target * width * config.vocab_size if target else 0)


def peak_operations(device: torch.device) -> float | None:
    """Dense bf16 operations a second of a known GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), None)
