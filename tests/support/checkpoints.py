"""Checkpoint folders that somebody else wrote or damaged, and their refusal."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from model.errors import CheckpointError
from model.storage.checkpoint import load_checkpoint

FILES = ["config.json", "model.safetensors", "spiece.model", "tasks.json", "MODEL_CARD.md"]


def sign(folder: Path) -> None:
    """Make the manifest agree with the files, as another program might."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refuse(folder: Path, message: str) -> None:
    """Loading `folder` fails with an error that `message`, a regular expression, matches."""
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, torch.device("cpu"))
