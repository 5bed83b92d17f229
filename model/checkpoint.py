"""A checkpoint is one folder that describes itself; saving is atomic, loading trusts nothing that it has not hashed.

config.json        architecture and format version
model.safetensors  weights
spiece.model       tokenizer
tasks.json         prompts, label sets, thresholds, lengths
MODEL_CARD.md      for people
manifest.json      sha256 of each of the above, package version, and whatever the writer wants remembered
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model.config import ModelConfig
from model.errors import CheckpointError, ModelError
from model.leximind import LexiMind
from model.tasks import Tasks
from model.tokenizer import Tokenizer

FORMAT_VERSION = 1
BUNDLED = Path(__file__).parent / "pretrained" / "tiny"
_FILES = ("config.json", "model.safetensors", "spiece.model", "tasks.json", "MODEL_CARD.md")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded folder: the network in evaluation mode, its tokenizer, its tasks, its manifest."""

    model: LexiMind
    tokenizer: Tokenizer
    tasks: Tasks
    manifest: dict[str, Any]
    folder: Path


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
    """Write a checkpoint folder beside `folder` and rename it into place: a crash leaves the old one or the new one.

    Args:
        folder: where; a checkpoint that is there already is replaced.
        model: its parameters are stored in `dtype` (None: as they are).
        spiece: the SentencePiece file to copy.
        tasks: prompts, labels, thresholds.
        card: the text of `MODEL_CARD.md`.
        facts: further entries of the manifest, such as metrics and data hashes.

    Raises:
        CheckpointError: `folder` exists and is no checkpoint.
    """
    if folder.exists() and not (folder / _MANIFEST).is_file():
        raise CheckpointError(f"{folder}: exists and is no checkpoint; choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(partial, model, spiece, tasks, card, dtype)
        manifest = {
            "format_version": FORMAT_VERSION,
            "package_version": _package_version(),
            "files": {name: _sha256(partial / name) for name in _FILES},
            **(facts or {}),
        }
        _write_json(partial / _MANIFEST, manifest)
        partial.chmod(0o755)
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_checkpoint(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read and verify a checkpoint folder.

    Raises:
        CheckpointError: names the file that is missing, altered, foreign or does not fit the others.
    """
    manifest = _verified_manifest(folder)
    try:
        config = ModelConfig.from_json(_read_json(folder / "config.json")["model"])
        tasks = Tasks.from_json(_read_json(folder / "tasks.json"))
        tokenizer = Tokenizer(folder / "spiece.model")
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'}: lacks {error}") from error
    except CheckpointError:
        raise
    except ModelError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    _check_fit(folder, config, tokenizer, tasks)
    model = build_model(config, read_tensors([folder / "model.safetensors"]), str(folder), device, dtype)
    return Checkpoint(model, tokenizer, tasks, manifest, folder)


def build_model(
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    source: str,
    device: torch.device,
    dtype: torch.dtype,
) -> LexiMind:
    """The network of `config` with exactly `tensors` in it, in evaluation mode; nothing is initialised twice.

    Raises:
        CheckpointError: names every missing, unexpected and misshapen tensor; a part is never loaded.
    """
    with torch.device("meta"):
        model = LexiMind(config)
    expected = model.state_dict()
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    if problems:
        raise CheckpointError(f"{source}: the weights do not fit the configuration: " + "; ".join(problems))
    placed = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    model.load_state_dict(placed, assign=True)
    return model.eval().requires_grad_(False)


def read_tensors(paths: list[Path]) -> dict[str, torch.Tensor]:
    """Every tensor of some safetensors files.

    Raises:
        CheckpointError: a file that is missing, damaged or not safetensors (a pickle, say).
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: not readable as safetensors ({error}); pickled weights are refused, convert them first"
            ) from error
    return tensors


def _write(folder: Path, model: LexiMind, spiece: Path, tasks: Tasks, card: str, dtype: torch.dtype | None) -> None:
    _write_json(folder / "config.json", {"format_version": FORMAT_VERSION, "model": model.config.to_json()})
    _write_json(folder / "tasks.json", tasks.to_json())
    tensors = {name: t.detach().to("cpu", dtype or t.dtype).contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(spiece, folder / "spiece.model")
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def _replace(new: Path, folder: Path) -> None:
    if not folder.exists():
        new.rename(folder)
        return
    # A folder cannot be renamed onto a full one: the old one steps aside and comes back if the new one cannot.
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        new.rename(folder)
    except OSError:
        (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _verified_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a checkpoint folder as training or import writes it")
    if not (folder / _MANIFEST).is_file():
        raise CheckpointError(
            f"{folder}: no {_MANIFEST}, so this is no LexiMind checkpoint; "
            "a published FLAN-T5 folder becomes one by `leximind import SOURCE TARGET`"
        )
    manifest = _read_json(folder / _MANIFEST)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / _MANIFEST}: format {manifest.get('format_version')!r}, this version reads {FORMAT_VERSION}"
        )
    hashes = manifest.get("files")
    if not isinstance(hashes, dict):
        raise CheckpointError(f"{folder / _MANIFEST}: lists no files")
    for name in _FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing; restore the file or the whole folder")
        if _sha256(folder / name) != hashes.get(name):
            raise CheckpointError(f"{folder / name}: differs from its hash in {_MANIFEST}; restore the file")
    return manifest


def _check_fit(folder: Path, config: ModelConfig, tokenizer: Tokenizer, tasks: Tasks) -> None:
    for name, labels, outputs in (
        ("emotion", tasks.emotion_labels, config.num_emotions),
        ("topic", tasks.topic_labels, config.num_topics),
    ):
        if len(labels) != outputs:
            raise CheckpointError(f"{folder}: tasks.json names {len(labels)} {name} labels, the head has {outputs}")
    if tokenizer.num_pieces > config.num_tokens:
        raise CheckpointError(
            f"{folder}: spiece.model has {tokenizer.num_pieces} pieces, the model knows {config.num_tokens} tokens"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as out:
        json.dump(value, out, indent=2, ensure_ascii=False)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _package_version() -> str:
    try:
        return metadata.version("leximind")
    except metadata.PackageNotFoundError:
        return "unknown"
