"""Loading: every file is verified, whatever does not fit is named, nothing is unpickled."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.choices import BUNDLED, PRECISIONS, Precision
from model.errors import ModelError
from model.inference.backend import Backend
from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.native_backend import NativeBackend, why_not_native
from model.inference.onednn_backend import OneDnnBackend
from model.inference.spelling import Spelling
from model.inference.torch_backend import TorchBackend
from model.kernels.library import Absence
from model.precision import computing_dtype
from model.storage.checkpoint import Checkpoint, checkpoint_name, load_checkpoint, load_served
from model.storage.saving import describe_checkpoint, save_checkpoint
from support.checkpoints import FILES, refuse, sign
from support.models import random_model

CPU = torch.device("cpu")


def test_loaded_is_what_was_saved(checkpoint: Checkpoint, folder: Path) -> None:
    save_checkpoint(folder, checkpoint.model, folder / "spiece.model", checkpoint.tasks, card="x", facts={"dev": 0.5})
    loaded = load_checkpoint(folder, CPU)
    assert (loaded.model.config, loaded.tasks) == (checkpoint.model.config, checkpoint.tasks)
    assert loaded.manifest["dev"] == 0.5
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_weights_are_stored_and_loaded_in_the_dtype_asked_for(checkpoint: Checkpoint, tmp_path: Path) -> None:
    spiece = checkpoint.folder / "spiece.model"
    save_checkpoint(tmp_path / "half", checkpoint.model, spiece, checkpoint.tasks, card="", dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "half/model.safetensors").values()} == {torch.bfloat16}
    assert load_checkpoint(tmp_path / "half", CPU).model.dtype == torch.float32
    assert load_checkpoint(tmp_path / "half", CPU, torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_read_part_by_part_it_is_what_packing_the_whole_gives(
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    tied: bool,
    kernels: bool,
) -> None:
    if not kernels:
        monkeypatch.setattr("model.inference.native_backend.absence", lambda: Absence("for this test"))
    model = random_model(replace(checkpoint.config, tie_lm_head=tied))
    folder, spiece = tmp_path / "saved", checkpoint.folder / "spiece.model"
    save_checkpoint(folder, model, spiece, checkpoint.tasks, card="", dtype=torch.bfloat16)
    loaded = load_checkpoint(folder, CPU, computing_dtype(precision)).model
    spelling = Spelling(checkpoint.tokenizer.byte_pieces)
    whole: Backend
    if why_not_native(loaded.config, torch.device("cpu")) is None:
        whole = NativeBackend(loaded.state_dict(), loaded.config, precision, spelling)
    elif precision == "float32":
        whole = TorchBackend(loaded, spelling)
    else:
        whole = OneDnnBackend(loaded, precision, spelling)
    parts = load_served(folder, CPU, precision).backend
    assert (type(parts), parts.precision) == (type(whole), whole.precision)
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids, dtype=torch.bool)
    encoder_states = [one.encode(ids, mask) for one in (whole, parts)]
    assert torch.equal(*encoder_states)
    options = [DecodingOptions(max_new_tokens=9, num_beams=2), DecodingOptions(max_new_tokens=9)]
    assert decode(whole, encoder_states[0], mask, options) == decode(parts, encoder_states[1], mask, options)


def test_int8_on_a_gpu_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ModelError, match="dtype is int8 and device cuda:1; int8 is for the CPU: use bfloat16"):
        load_served(Path("/no/such/folder"), torch.device("cuda:1"), "int8")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("base", "base"),
        ("runs/first/checkpoint", "first"),
        ("runs/first/last", "first-last"),
        ("/checkpoint", "checkpoint"),
    ],
)
def test_a_run_s_checkpoint_has_its_name(folder: str, name: str) -> None:
    assert checkpoint_name(Path(folder)) == name


def test_bundled_checkpoint_answers() -> None:
    bundled = load_checkpoint(BUNDLED, CPU)
    assert bundled.tasks.names == ("summarize", "emotions", "topic")
    ids = torch.tensor([bundled.tokenizer.encode_source("The council voted to build a new bridge over the river.")])
    mask = torch.ones_like(ids, dtype=torch.bool)
    encoder_states = bundled.model.encode(ids, mask)
    [summary] = decode(TorchBackend(bundled.model), encoder_states, mask, [DecodingOptions(max_new_tokens=16)])
    assert bundled.tokenizer.decode(summary.token_ids)
    for name, logits in bundled.model.classify(encoder_states, mask, ["emotions", "topic"]).items():
        assert logits.shape == (1, len(bundled.tasks.head(name).labels))
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 32e6


def test_description_changes_without_the_weights(checkpoint: Checkpoint, folder: Path) -> None:
    before = json.loads((folder / "manifest.json").read_text())["files"]["model.safetensors"]
    describe_checkpoint(folder, checkpoint.tasks, card="# Better known\n", facts={"evaluation": 1})
    loaded = load_checkpoint(folder, CPU)
    assert loaded.manifest["files"]["model.safetensors"] == before
    assert (folder / "MODEL_CARD.md").read_text() == "# Better known\n"


@pytest.mark.parametrize("name", FILES)
def test_altered_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refuse(folder, rf"{name}: differs from its hash in manifest\.json")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refuse(folder, rf"{name}: missing; restore")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused_even_if_signed(folder: Path, share: float) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(len(content) * share)])
    refuse(folder, r"model\.safetensors: differs from its hash")
    sign(folder)
    refuse(folder, r"model\.safetensors: not readable as safetensors")


def test_pickle_is_refused_and_never_run(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
            return Path.touch, (tmp_path / "sprung",)

    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    sign(folder)
    refuse(folder, r"model\.safetensors: not readable as safetensors .*pickled weights are refused")
    assert not (tmp_path / "sprung").exists()


def test_foreign_folder_is_told_from_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "no such folder")
    refuse(tmp_path / ("long" * 100), "no such folder")
    (folder / "manifest.json").unlink()
    refuse(folder, r"no manifest\.json, so this is no LexiMind checkpoint; .*leximind import")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"format_version": 1'], ids=repr)
def test_damaged_manifest_is_named(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    refuse(folder, r"manifest\.json: (not readable as JSON|holds no JSON object)")


@pytest.mark.parametrize("version", [0, 3, "1", True, None])
def test_another_format_is_refused(folder: Path, version: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": version}))
    refuse(folder, rf"manifest\.json: format {version!r}, this version reads 1 and 2")
