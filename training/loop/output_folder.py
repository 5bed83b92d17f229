"""Where a run writes: whether the folder can be made and has room, which is asked before data is read."""

import math
import os
import shutil
from pathlib import Path

from model.config import ModelConfig
from model.network.leximind import tensor_shapes
from training.config import TrainConfig
from training.errors import TrainingError

_OPTIMIZER_NUMBERS = {"adamw": 2, "muon": 1, "adafactor": 0}  # kept for each weight, at least


def make_output(folder: Path) -> None:
    """Make the output folder of a run.

    Raises:
        TrainingError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"output is {folder}, which cannot be made ({error}); choose another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TrainingError(f"output is {folder}, where this user may not write; choose another or change its owner")


def check_room(folder: Path, architecture: ModelConfig, config: TrainConfig) -> None:
    """Refuse a disk that the states and checkpoints of a run will fill.

    Counted are `state.pt`, `last` and `checkpoint`, and once more the state and a checkpoint, since the new
    one is written before the old one is removed; what a run has left in the folder already is there to be replaced.

    Raises:
        TrainingError: says how much is free and how much is needed.
    """
    weights = 4 * sum(map(math.prod, tensor_shapes(architecture).values()))  # bytes
    kept = 0 if config.lora.rank or config.loop.freeze else _OPTIMIZER_NUMBERS[config.optimizer.name]
    state = weights * (1 + kept + bool(config.loop.ema))
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed, free = 2 * state + 3 * weights - there, shutil.disk_usage(folder).free
    if free < needed:
        raise TrainingError(
            f"{folder}: {free / 1e9:.1f} GB are free, and the states and checkpoints of this run need "
            f"{needed / 1e9:.1f} GB; make room or choose another output"
        )
