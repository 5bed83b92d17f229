"""A checkpoint is one folder that describes itself; saving is atomic, loading trusts nothing that it has not hashed.

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
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from model.config import ModelConfig
from model.errors import CheckpointError, ConfigError, ModelError, TokenizerError
from model.inference.backend import Backend
from model.inference.native_backend import NativeBackend, can_be_native
from model.inference.onednn_backend import OneDnnBackend, can_pack_bfloat16
from model.inference.torch_backend import TorchBackend
from model.kernels.library import is_available
from model.network.attention import avoid_cudnn_attention
from model.network.leximind import LexiMind, from_tensors, tensor_shapes
from model.precision import Precision, computing_dtype
from model.storage.atomic_folder import atomic_folder
from model.storage.format1 import upgrade_config, upgrade_tasks, weight_name
from model.storage.stored_weights import StoredWeights
from model.tasks import Tasks
from model.tokenizer import Tokenizer

FORMAT_VERSION = 2
_READABLE = (1, FORMAT_VERSION)
BUNDLED = Path(__file__).parents[1] / "pretrained" / "tiny"
_FILES = ("config.json", "model.safetensors", "spiece.model", "tasks.json", "MODEL_CARD.md")
_MANIFEST = "manifest.json"
_MAX_JSON_BYTES = 16 * 2**20
_LISTED_PROBLEMS = 100
_OWN_FACTS = ("format_version", "package_version", "files")


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


@dataclass(frozen=True)
class LoadedCheckpoint(Checkpoint):
    """With the network, in evaluation mode: to be trained on, changed, saved."""

    model: LexiMind


@dataclass(frozen=True)
class ServedCheckpoint(Checkpoint):
    """With what answers for it."""

    backend: Backend


def checkpoint_name(folder: Path) -> str:
    """The folder's own name; every run calls its folders `checkpoint` and `last`, so these have the run's."""
    folder = folder.resolve()
    run = folder.parent.name
    return {"checkpoint": run, "last": run and f"{run}-last"}.get(folder.name) or folder.name


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
        tasks: prompt, heads, lengths.
        card: the text of `MODEL_CARD.md`.
        facts: further entries of the manifest, such as metrics and data hashes.

    Raises:
        CheckpointError: `folder` exists and is no checkpoint, the parts do not fit each other, or writing fails.
        TokenizerError: `spiece` is missing or is none of T5's.
    """
    if folder.exists() and not (folder / _MANIFEST).is_file():
        raise CheckpointError(f"{folder}: exists and is no checkpoint; choose another folder or remove it")
    _check_fit(folder, model.config, Tokenizer(spiece), tasks)
    with _written(folder) as partial:
        _write(partial, model, spiece, tasks, card, dtype)
        _write_manifest(partial, facts or {})


def describe_checkpoint(folder: Path, tasks: Tasks, *, card: str, facts: Mapping[str, Any]) -> None:
    """Give a checkpoint other thresholds or prompts, another card and further facts; weights stay as they are.

    As atomic as `save_checkpoint`. `facts` are added to those of the manifest. A folder of format 1 is one of today's
    afterwards.

    Raises:
        CheckpointError: `folder` is no intact checkpoint.
    """
    manifest = _verified_manifest(folder)
    known = {key: value for key, value in manifest.items() if key not in _OWN_FACTS}
    with _written(folder) as partial:
        if manifest["format_version"] == FORMAT_VERSION:
            for name in ("config.json", "model.safetensors"):
                shutil.copyfile(folder / name, partial / name)
        else:
            weights = StoredWeights([folder / "model.safetensors"], rename=weight_name)
            _write_network(partial, _read_config(folder, manifest), dict(weights))
        shutil.copyfile(folder / "spiece.model", partial / "spiece.model")
        _write_json(partial / "tasks.json", tasks.to_json())
        (partial / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        _write_manifest(partial, {**known, **facts})


def load_checkpoint(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> LoadedCheckpoint:
    """Read and verify a checkpoint folder.

    Raises:
        CheckpointError: names the file that is missing, altered, foreign or does not fit the others.
    """
    checkpoint, weights = _verified(folder)
    model = from_tensors(checkpoint.config, {name: weights.read(name, dtype, device) for name in weights})
    return LoadedCheckpoint(**vars(checkpoint), model=model)


def load_served(folder: Path, device: torch.device, precision: Precision) -> ServedCheckpoint:
    """Read and verify a checkpoint folder for answering alone, by the fastest backend that the processor has.

    What is large is read one tensor at a time, so that memory never holds the weights twice.

    Raises:
        CheckpointError: as `load_checkpoint`.
        ModelError: int8 on a GPU, bfloat16 on a CPU that has no instructions for it.
    """
    if device.type == "cuda":
        if precision == "int8":
            raise ModelError(f"dtype is int8 and device {device}; int8 is for the CPU: use bfloat16 on a GPU")
        avoid_cudnn_attention()
    elif precision == "bfloat16" and not is_available("bfloat16") and not can_pack_bfloat16():
        raise ModelError("dtype is bfloat16, for which this processor has no instructions; use auto or float32")
    checkpoint, weights = _verified(folder)
    config, dtype, byte_pieces = checkpoint.config, computing_dtype(precision), checkpoint.tokenizer.byte_pieces
    backend: Backend
    if device.type == "cpu" and can_be_native(config, precision):
        backend = NativeBackend(weights, config, precision, byte_pieces)
    else:
        model = from_tensors(config, {name: weights.read(name, dtype, device) for name in weights})
        if device.type == "cpu" and precision != "float32":
            backend = OneDnnBackend(model, precision, byte_pieces)
        else:
            backend = TorchBackend(model, byte_pieces)
    return ServedCheckpoint(**vars(checkpoint), backend=backend)


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str, config: str
) -> None:
    """Refuse tensors, by name and shape, that are not those that `config` asks for; `source` is where they are.

    Raises:
        CheckpointError: names every missing, unexpected and misshapen tensor; a part is never loaded.
    """
    problems = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has shape {found[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if problems:
        raise CheckpointError(f"{source}: the weights do not fit {config}: {listed(problems)}")


def _verified(folder: Path) -> tuple[Checkpoint, StoredWeights]:
    manifest = _verified_manifest(folder)
    is_old = manifest["format_version"] != FORMAT_VERSION
    config, fields = _read_config(folder, manifest), read_json(folder / "tasks.json")
    tasks = Tasks.from_json(upgrade_tasks(fields) if is_old else fields)
    try:
        tokenizer = Tokenizer(folder / "spiece.model")
    except TokenizerError as error:
        raise CheckpointError(str(error)) from error
    _check_fit(folder, config, tokenizer, tasks)
    weights = StoredWeights([folder / "model.safetensors"], weight_name if is_old else str)
    check_tensors(tensor_shapes(config), weights.shapes, str(folder), "the configuration")
    num_parameters = sum(math.prod(shape) for shape in weights.shapes.values())
    return Checkpoint(config, tokenizer, tasks, manifest, folder, num_parameters), weights


def _read_config(folder: Path, manifest: Mapping[str, Any]) -> ModelConfig:
    path = folder / "config.json"
    try:
        fields = read_json(path)["model"]
        return ModelConfig.from_json(fields if manifest["format_version"] == FORMAT_VERSION else upgrade_config(fields))
    except KeyError as error:
        raise CheckpointError(f"{path}: lacks {error}") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def listed(problems: Sequence[str]) -> str:
    """`problems` as one line, which ends after as many as anyone would read."""
    further = len(problems) - _LISTED_PROBLEMS
    return "; ".join(problems[:_LISTED_PROBLEMS]) + (f"; and {further} more" if further > 0 else "")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: a file that is missing, damaged, too large or too deep, or holds no object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_JSON_BYTES + 1)
        if len(content) > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: has more than {_MAX_JSON_BYTES} bytes; fetch the file again")
        value = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested too deeply to be read; fetch the file again") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return value


def _write(folder: Path, model: LexiMind, spiece: Path, tasks: Tasks, card: str, dtype: torch.dtype | None) -> None:
    tensors = {name: t.detach().to("cpu", dtype or t.dtype).contiguous() for name, t in model.state_dict().items()}
    _write_network(folder, model.config, tensors)
    _write_json(folder / "tasks.json", tasks.to_json())
    shutil.copyfile(spiece, folder / "spiece.model")
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def _write_network(folder: Path, config: ModelConfig, tensors: dict[str, torch.Tensor]) -> None:
    _write_json(folder / "config.json", {"format_version": FORMAT_VERSION, "model": config.to_json()})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors gives it to its owner alone; the server is another user


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    try:
        with atomic_folder(folder) as partial:
            yield partial
    except (OSError, SafetensorError) as error:  # a full disk, a folder that is not ours
        raise CheckpointError(f"{folder}: cannot be written ({error}); what was there is as it was") from error


def _write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    hashes = {name: _sha256(folder / name) for name in _FILES}
    own = {"format_version": FORMAT_VERSION, "package_version": _package_version(), "files": hashes}
    _write_json(folder / _MANIFEST, {**facts, **own})


def _verified_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a checkpoint folder as training or import writes it")
    if not (folder / _MANIFEST).is_file():
        raise CheckpointError(
            f"{folder}: no {_MANIFEST}, so this is no LexiMind checkpoint; "
            "a published FLAN-T5 folder becomes one by `leximind import SOURCE TARGET`"
        )
    manifest = read_json(folder / _MANIFEST)
    if manifest.get("format_version") not in _READABLE or type(manifest["format_version"]) is not int:
        raise CheckpointError(
            f"{folder / _MANIFEST}: format {manifest.get('format_version')!r}, this version reads "
            f"{' and '.join(map(str, _READABLE))}"
        )
    hashes = manifest.get("files")
    if not isinstance(hashes, dict):
        raise CheckpointError(f"{folder / _MANIFEST}: lists no files")
    for name in _FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing; restore the file or the whole folder")
        try:
            intact = _sha256(folder / name) == hashes.get(name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error})") from error
        if not intact:
            raise CheckpointError(f"{folder / name}: differs from its hash in {_MANIFEST}; restore the file")
    return manifest


def _check_fit(folder: Path, config: ModelConfig, tokenizer: Tokenizer, tasks: Tasks) -> None:
    labels = {head.name: len(head.labels) for head in tasks.heads}
    for name in {**labels, **config.heads}:
        if labels.get(name, 0) != config.heads.get(name, 0):
            raise CheckpointError(
                f"{folder}: tasks.json names {labels.get(name, 0)} {name} labels, the head has "
                f"{config.heads.get(name, 0)}"
            )
    if tokenizer.num_pieces > config.num_tokens:
        raise CheckpointError(
            f"{folder}: spiece.model has {tokenizer.num_pieces} pieces, the model knows {config.num_tokens} tokens"
        )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as out:
        json.dump(value, out, indent=2, ensure_ascii=False)
        out.write("\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _package_version() -> str:
    try:
        return metadata.version("leximind")
    except metadata.PackageNotFoundError:
        return "unknown"
