"""The state of an unfinished run on disk: what exact resumption needs and no server ever sees."""

import os
from pathlib import Path
from typing import Any

import torch

from training.errors import ResumeError

STATE_FILE = "state.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` into `folder`; a crash leaves the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{STATE_FILE}.partial"
    with partial.open("wb") as out:
        torch.save(state, out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(folder / STATE_FILE)


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
    except Exception as error:
        raise ResumeError(f"{path}: cannot be read ({error}); start afresh or restore the file") from error
    return state
