"""Intact files that do not fit each other: a checkpoint is loaded whole or not at all, and every mismatch is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from model.network.leximind import LexiMind
from model.storage.checkpoint import Checkpoint
from model.storage.saving import save_checkpoint
from model.tasks import Tasks
from support.checkpoints import refuse, sign


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    sign(path.parent)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    sign(folder)


CONFIG_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no model": (lambda c: c.pop("model"), "config.json: lacks 'model'"),
    "no object": (lambda c: c.update(model=[1]), r"config.json: the configuration is \[1\]"),
    "missing": (lambda c: c["model"].pop("d_kv"), r"config.json: missing fields \['d_kv'\]"),
    "unknown": (lambda c: c["model"].update(bias=True), r"config.json: unknown fields \['bias'\]"),
    "type": (lambda c: c["model"].update(d_model="32"), "config.json: d_model is '32'; it must be of type int"),
    "range": (lambda c: c["model"].update(num_heads=0), "config.json: num_heads is 0; it must be at least 1"),
    "ids": (lambda c: c["model"].update(eos_id=3), "config.json: pad_id, eos_id and unk_id are 0, 3, 2"),
    "deeper": (lambda c: c["model"].update(num_encoder_layers=3), "missing encoder.layers.2.attention"),
    "shallower": (lambda c: c["model"].update(num_decoder_layers=1), "unexpected decoder.layers.1"),
    "tied": (lambda c: c["model"].update(tie_lm_head=True), "unexpected lm_head.weight"),
    "wider": (lambda c: c["model"].update(d_ff=50), r"wi.weight has shape \(96, 32\), not \(100, 32\)"),
    "tokens": (lambda c: c["model"].update(num_tokens=399), "spiece.model has 400 pieces, the model knows 399"),
    "labels": (lambda c: c["model"]["heads"].update(topic=5), "tasks.json names 4 topic labels, the head has 5"),
    "no number": (lambda c: c["model"]["heads"].update(topic="4"), "heads: topic has '4' labels; a head has"),
    "no heads": (lambda c: c["model"].update(heads=[4]), r"heads is \[4\]; it must be of type dict"),
    "name": (lambda c: c["model"]["heads"].update(type=4), "names 0 type labels, the head has 4"),
}


@pytest.mark.parametrize(("change", "message"), CONFIG_FAULTS.values(), ids=CONFIG_FAULTS)
def test_config_that_fits_nothing_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change_json(folder / "config.json", change)
    refuse(folder, message)


def change_head(number: int, **fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda tasks: tasks["heads"][number].update(fields)


TASKS_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "fewer emotions": (
        change_head(0, labels=["joy", "fear"], thresholds=[0.5, 0.5]),
        "names 2 emotions labels, the head has 28",
    ),
    "no such head": (lambda tasks: tasks["heads"].pop(), "names 0 topic labels, the head has 4"),
    "renamed": (change_head(1, name="subject"), "names 4 subject labels, the head has 0"),
    "twice": (
        lambda tasks: tasks["heads"].append(tasks["heads"][0]),
        "heads are named .* each name must be there once",
    ),
    "reserved": (change_head(1, name="summary"), "the head 'summary': the word is taken"),
    "slash": (change_head(1, name="a/b"), "the head 'a/b': a name has lower-case letters"),
    "kind": (change_head(1, kind="ranking"), "the head topic is of kind 'ranking'; it must be single_label"),
    "kind of a built-in one": (change_head(0, kind="single_label"), "emotions is of kind .*; it must be multi_label"),
    "thresholds": (change_head(0, thresholds=[0.5]), "1 thresholds for 28 labels"),
    "threshold": (change_head(0, thresholds=[1.5] * 28), "thresholds are .* each lies in"),
    "no number": (change_head(0, thresholds=["a"] * 28), "thresholds cannot be read"),
    "thresholds of one label": (change_head(1, thresholds=[0.5] * 4), "a single_label head none"),
    "repeated": (change_head(1, labels=["World"] * 4), "labels are .* each once"),
    "one label": (change_head(1, labels=["World"]), "labels are .* there must be 2 or more"),
    "text": (change_head(1, labels="abcd"), "a head labels is 'abcd'; it must be of type list"),
    "cold": (change_head(1, temperature=0), "temperature is 0; it lies in"),
    "prompt": (lambda tasks: tasks.update(prompt=1), "prompt is 1; it must be of type str"),
    "no heads": (lambda tasks: tasks.pop("heads"), "has the fields .*it must have .*'heads'"),
    "head": (lambda tasks: tasks["heads"].append(3), "a head is 3; it must be an object"),
    "length": (lambda tasks: tasks.update(max_source_tokens=7), "max_source_tokens is 7; it must lie in"),
    "unknown": (lambda tasks: tasks.update(language="en"), "has the fields .*'language'"),
}


@pytest.mark.parametrize(("change", "message"), TASKS_FAULTS.values(), ids=TASKS_FAULTS)
def test_tasks_that_fit_nothing_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    change_json(folder / "tasks.json", change)
    refuse(folder, message)


TENSOR_FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda t: t.pop("heads.emotions.linear.bias"), "missing heads.emotions.linear.bias"),
    "unexpected": (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
    "shape": (lambda t: t.update({"encoder_positions": torch.zeros(9, 32)}), r"\(9, 32\), not \(64, 32\)"),
    "quantised": (
        lambda t: t.update({"encoder.norm.weight": torch.ones(32, dtype=torch.int8)}),
        r"encoder\.norm\.weight is I8, no plain float",
    ),
}


@pytest.mark.parametrize(("change", "message"), TENSOR_FAULTS.values(), ids=TENSOR_FAULTS)
def test_weights_are_loaded_whole_or_not_at_all(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    change_tensors(folder, change)
    refuse(folder, message)


def test_every_misfit_is_named_at_once(folder: Path) -> None:
    change_tensors(
        folder,
        lambda t: (t.pop("encoder.norm.weight"), t.pop("decoder.norm.weight"), t.update(x=t["lm_head.weight"] * 1)),
    )
    refuse(folder, "missing decoder.norm.weight; missing encoder.norm.weight; unexpected x")


def test_what_could_not_be_loaded_is_not_saved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    spiece = checkpoint.folder / "spiece.model"
    with pytest.raises(CheckpointError, match=r"tasks\.json names 0 emotions labels, the head has 28"):
        save_checkpoint(tmp_path / "new", LexiMind(checkpoint.model.config), spiece, Tasks(), card="")
    assert not list(tmp_path.iterdir())
