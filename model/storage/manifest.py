"""`manifest.json`: the files of a checkpoint folder with their hashes, and what else its writer wants remembered."""

import hashlib
import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
OWN_FACTS = ("format_version", "package_version", "files")
_READABLE = (1, FORMAT_VERSION)
_FILES = ("config.json", "model.safetensors", "spiece.model", "tasks.json", "MODEL_CARD.md")
_MAX_JSON_BYTES = 16 * 2**20


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a folder that has all other files; `facts` are further entries."""
    hashes = {name: _sha256(folder / name) for name in _FILES}
    own = {"format_version": FORMAT_VERSION, "package_version": _package_version(), "files": hashes}
    write_json(folder / MANIFEST, {**facts, **own})


def verified_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder whose files are those that it lists.

    Raises:
        CheckpointError: names the file that is missing, altered or of another format.
    """
    if not os.path.isdir(folder):  # pathlib's raises for a name that is too long or a folder above that is closed to us
        raise CheckpointError(f"{folder}: no such folder; give a checkpoint folder as training or import writes it")
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(
            f"{folder}: no {MANIFEST}, so this is no LexiMind checkpoint; "
            "a published FLAN-T5 folder becomes one by `leximind import SOURCE TARGET`"
        )
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format_version") not in _READABLE or type(manifest["format_version"]) is not int:
        raise CheckpointError(
            f"{folder / MANIFEST}: format {manifest.get('format_version')!r}, this version reads "
            f"{' and '.join(map(str, _READABLE))}"
        )
    hashes = manifest.get("files")
    if not isinstance(hashes, dict):
        raise CheckpointError(f"{folder / MANIFEST}: lists no files")
    for name in _FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing; restore the file or the whole folder")
        try:
            intact = _sha256(folder / name) == hashes.get(name)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error})") from error
        if not intact:
            raise CheckpointError(f"{folder / name}: differs from its hash in {MANIFEST}; restore the file")
    return manifest


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


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The inverse of `read_json`."""
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
