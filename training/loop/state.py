"""The state of an unfinished run on disk: what exact resumption needs and no server ever sees."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.errors import ResumeError, TrainingError

STATE_FILE = "state.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` into `folder`; a crash or a full disk leaves the old one.

    Raises:
        TrainingError: it cannot be written.
    """
    partial = folder / f"{STATE_FILE}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            torch.save(state, out)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(folder / STATE_FILE)
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says
        with suppress(OSError):  # where no folder can be made there is none to remove it from
            partial.unlink(missing_ok=True)
        raise TrainingError(
            f"{folder / STATE_FILE}: cannot be written ({error}); what was saved before is still there: make room "
            "and resume from it"
        ) from error


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        ResumeError: nothing there, or not readable as tensors and plain values.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise ResumeError(f"{path}: no such file; resume_from must be the output folder of a run that has saved")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own
        raise ResumeError(f"{path}: cannot be read ({error}); start afresh or restore the file") from error
    return state


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Torch's generators as they stand."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_states`; a generator that was not saved stays as it is."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
