"""Writing a checkpoint folder, whole or not at all."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from model.config import ModelConfig
from model.errors import CheckpointError
from model.network.leximind import LexiMind
from model.storage.atomic_folder import atomic_folder
from model.storage.checkpoint import read_config
from model.storage.consistency import check_fit
from model.storage.format1 import weight_name
from model.storage.manifest import FORMAT_VERSION, MANIFEST, OWN_FACTS, verified_manifest, write_json, write_manifest
from model.storage.stored_weights import StoredWeights
from model.tasks import Tasks
from model.tokenizer import Tokenizer


def save_checkpoint(
    folder: Path,
    model: LexiMind,
    spiece: Path,
    tasks: Tasks,
    *,
    card: str,
    facts: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint folder next to `folder` and rename it into place: a crash leaves the old one or the new one.

    Args:
        folder: where; a checkpoint that is there already is replaced.
        model: its parameters are stored in `dtype` (None: as they are).
        spiece: the SentencePiece file to copy.
        tasks: prompt, heads, lengths.
        card: the text of `MODEL_CARD.md`.
        facts: further entries of the manifest, such as metrics and data hashes.

    Raises:
        CheckpointError: `folder` exists and is no checkpoint, the parts do not fit each other, or writing fails.
        TokenizerError: `spiece` is missing or is none of T5's.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: exists and is no checkpoint; choose another folder or remove it")
    check_fit(folder, model.config, Tokenizer(spiece), tasks)
    with _written(folder) as partial:
        _write(partial, model, spiece, tasks, card, dtype)
        write_manifest(partial, facts or {})


def describe_checkpoint(folder: Path, tasks: Tasks, *, card: str, facts: Mapping[str, Any]) -> None:
    """Give a checkpoint other thresholds or prompts, another card and further facts; weights stay as they are.

    As atomic as `save_checkpoint`. `facts` are added to those of the manifest. A folder of format 1 is one of today's
    afterwards.

    Raises:
        CheckpointError: `folder` is no intact checkpoint.
    """
    manifest = verified_manifest(folder)
    known = {key: value for key, value in manifest.items() if key not in OWN_FACTS}
    with _written(folder) as partial:
        if manifest["format_version"] == FORMAT_VERSION:
            for name in ("config.json", "model.safetensors"):
                shutil.copyfile(folder / name, partial / name)
        else:
            weights = StoredWeights([folder / "model.safetensors"], rename=weight_name)
            _write_network(partial, read_config(folder, manifest), dict(weights))
        shutil.copyfile(folder / "spiece.model", partial / "spiece.model")
        write_json(partial / "tasks.json", tasks.to_json())
        (partial / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        write_manifest(partial, {**known, **facts})


def _write(folder: Path, model: LexiMind, spiece: Path, tasks: Tasks, card: str, dtype: torch.dtype | None) -> None:
    tensors = {name: t.detach().to("cpu", dtype or t.dtype).contiguous() for name, t in model.state_dict().items()}
    _write_network(folder, model.config, tensors)
    write_json(folder / "tasks.json", tasks.to_json())
    shutil.copyfile(spiece, folder / "spiece.model")
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def _write_network(folder: Path, config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
    write_json(folder / "config.json", {"format_version": FORMAT_VERSION, "model": config.to_json()})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors gives it to its owner alone; the server is another user


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    try:
        with atomic_folder(folder) as partial:
            yield partial
    except (OSError, SafetensorError) as error:  # a full disk, a folder that is not ours
        raise CheckpointError(f"{folder}: cannot be written ({error}); what was there is as it was") from error
