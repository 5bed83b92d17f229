"""A checkpoint is one folder that describes itself; loading trusts nothing that it has not hashed.

config.json        architecture and format version
model.safetensors  weights
spiece.model       tokenizer
tasks.json         prompt, heads (kind, labels, thresholds, temperature), lengths
MODEL_CARD.md      for people
manifest.json      sha256 of each of the above, package version, and whatever the writer wants remembered
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from model.choices import Precision
from model.config import ModelConfig
from model.errors import CheckpointError, ConfigError, ModelError, TokenizerError
from model.inference.backend import Backend
from model.inference.native_backend import NativeBackend, why_not_native
from model.inference.onednn_backend import OneDnnBackend, can_pack_bfloat16
from model.inference.spelling import Spelling
from model.inference.torch_backend import TorchBackend
from model.kernels.library import has_bfloat16, is_available
from model.network.attention import avoid_cudnn_attention
from model.network.leximind import LexiMind, from_tensors, tensor_shapes
from model.precision import ON_CPUS_ALONE, computing_dtype
from model.storage.consistency import check_fit, check_tensors
from model.storage.format1 import upgrade_config, upgrade_tasks, weight_name
from model.storage.manifest import FORMAT_VERSION, read_json, verified_manifest
from model.storage.stored_weights import StoredWeights
from model.tasks import Tasks
from model.tokenizer import Tokenizer

_ID_DIGITS = 12


@dataclass(frozen=True)
class Checkpoint:
    """A folder that was verified: the architecture, its tokenizer, its tasks, its manifest."""

    config: ModelConfig
    tokenizer: Tokenizer
    tasks: Tasks
    manifest: dict[str, Any]
    folder: Path
    num_parameters: int

    @property
    def name(self) -> str:
        """What reports and answers call it."""
        return checkpoint_name(self.folder)

    @property
    def id(self) -> str:
        """`NAME@HASH`, the first digits of a hash of its manifest."""
        manifest = json.dumps(self.manifest, sort_keys=True).encode()
        return f"{quote(self.name)}@{hashlib.sha256(manifest).hexdigest()[:_ID_DIGITS]}"

    @property
    def terms(self) -> str:
        """The terms of the weights in a line, as their writer recorded them."""
        terms = self.manifest.get("terms")
        return " ".join(terms.split()) if isinstance(terms, str) else "not recorded: see its MODEL_CARD.md"


@dataclass(frozen=True)
class LoadedCheckpoint(Checkpoint):
    """With the network, in evaluation mode: to be trained on, changed, saved."""

    model: LexiMind


@dataclass(frozen=True)
class ServedCheckpoint(Checkpoint):
    """With what answers for it."""

    backend: Backend

    @property
    def why_no_kernels(self) -> str | None:
        """Why none of the native kernels computes, and what to do about it; None where they do."""
        return None if self.backend.kernels != "none" else why_not_native(self.config, self.backend.device)


def default_precision(device: torch.device) -> Precision:
    """What to serve in on `device` unless asked otherwise.

    bfloat16 by torch on a CPU does not give the same tokens whatever they are batched with; the native kernels do, and
    are faster in it where the processor has instructions for it.
    """
    return "bfloat16" if device.type == "cuda" or has_bfloat16() else "float32"


def is_computable(precision: Precision, device: torch.device) -> bool:
    """Whether `load_served` takes `precision` on `device`."""
    if device.type == "cuda":
        return precision not in ON_CPUS_ALONE
    return precision != "bfloat16" or is_available() or can_pack_bfloat16()


def checkpoint_name(folder: Path) -> str:
    """The folder's own name; every run calls its folders `checkpoint` and `last`, so these have the run's."""
    folder = folder.resolve()
    run = folder.parent.name
    return {"checkpoint": run, "last": run and f"{run}-last"}.get(folder.name) or folder.name


def load_checkpoint(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> LoadedCheckpoint:
    """Read and verify a checkpoint folder.

    Raises:
        CheckpointError: names the file that is missing, altered, of another program or does not fit the others.
    """
    checkpoint, weights = _verified(folder)
    model = from_tensors(checkpoint.config, {name: weights.read(name, dtype, device) for name in weights})
    return LoadedCheckpoint(**vars(checkpoint), model=model)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Verify a checkpoint folder, with at most one tensor of it in memory at a time.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    checkpoint, weights = _verified(folder)
    for name in weights:
        _ = weights[name]
    return checkpoint


def load_served(folder: Path, device: torch.device, precision: Precision) -> ServedCheckpoint:
    """Read and verify a checkpoint folder for answering alone, by the fastest backend that the processor has.

    What is large is read one tensor at a time, so that memory never holds the weights twice.

    Raises:
        CheckpointError: as `load_checkpoint`.
        ModelError: int8 on a GPU, bfloat16 on a CPU that has no instructions for it.
    """
    if device.type == "cuda":
        if not is_computable(precision, device):
            raise ModelError(
                f"dtype is {precision} and device {device}; {precision} is for the CPU: use bfloat16 on a GPU"
            )
        avoid_cudnn_attention()
    elif not is_computable(precision, device):
        raise ModelError(f"dtype is {precision}, for which this processor has no instructions; use auto or float32")
    checkpoint, weights = _verified(folder)
    config, dtype = checkpoint.config, computing_dtype(precision)
    spelling = Spelling.of(checkpoint.tokenizer, checkpoint.tasks.words)
    backend: Backend
    if why_not_native(config, device) is None:
        backend = NativeBackend(weights, config, precision, spelling)
    else:
        model = from_tensors(config, {name: weights.read(name, dtype, device) for name in weights})
        if device.type == "cpu" and precision != "float32":
            backend = OneDnnBackend(model, precision, spelling)
        else:
            backend = TorchBackend(model, spelling)
    return ServedCheckpoint(**vars(checkpoint), backend=backend)


def _verified(folder: Path) -> tuple[Checkpoint, StoredWeights]:
    manifest = verified_manifest(folder)
    is_old = manifest["format_version"] != FORMAT_VERSION
    config, fields = read_config(folder, manifest), read_json(folder / "tasks.json")
    tasks = Tasks.from_json(upgrade_tasks(fields) if is_old else fields)
    try:
        tokenizer = Tokenizer(folder / "spiece.model")
    except TokenizerError as error:
        raise CheckpointError(str(error)) from error
    check_fit(folder, config, tokenizer, tasks)
    weights = StoredWeights([folder / "model.safetensors"], weight_name if is_old else str)
    check_tensors(tensor_shapes(config), weights.shapes, str(folder), "the configuration")
    num_parameters = sum(math.prod(shape) for shape in weights.shapes.values())
    return Checkpoint(config, tokenizer, tasks, manifest, folder, num_parameters), weights


def read_config(folder: Path, manifest: Mapping[str, Any]) -> ModelConfig:
    """The architecture in a folder of either format.

    Raises:
        CheckpointError: it is missing a field or has one that no network can have.
    """
    path = folder / "config.json"
    try:
        fields = read_json(path)["model"]
        return ModelConfig.from_json(fields if manifest["format_version"] == FORMAT_VERSION else upgrade_config(fields))
    except KeyError as error:
        raise CheckpointError(f"{path}: lacks {error}") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
