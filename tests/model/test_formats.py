"""Folders of other versions: one of format 1 is read and written anew, and fields that come later harm no older one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.config import ModelConfig
from model.errors import ConfigError
from model.network.heads import new_heads
from model.storage.checkpoint import load_checkpoint, load_served
from model.storage.saving import describe_checkpoint
from model.tasks import EMOTIONS, TOPICS
from support.checkpoints import refuse, sign

CPU = torch.device("cpu")
FORMAT_1 = Path(__file__).parents[1] / "app" / "recorded" / "format1"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of a folder of format 1."""
    return Path(shutil.copytree(FORMAT_1, tmp_path / "old"))


def test_format_1_is_two_heads_by_name(old: Path) -> None:
    checkpoint = load_checkpoint(old, CPU)
    assert checkpoint.model.config.heads == {"emotions": 28, "topic": 4}
    emotions, topic = checkpoint.tasks.heads
    assert (emotions.name, emotions.kind, emotions.labels) == ("emotions", "multi_label", EMOTIONS)
    assert emotions.thresholds == tuple(json.loads((old / "tasks.json").read_text())["emotion_thresholds"])
    assert (topic.name, topic.kind, topic.labels, topic.thresholds) == ("topic", "single_label", TOPICS, ())
    assert {head.temperature for head in checkpoint.tasks.heads} == {1.0}
    stored = load_file(old / "model.safetensors")
    assert torch.equal(checkpoint.model.heads["topic"].linear.weight, stored["topic_head.linear.weight"].float())
    assert load_served(old, CPU, "float32").tasks == checkpoint.tasks


def test_described_anew_it_is_of_today_s_format_with_the_same_weights(old: Path) -> None:
    before, tensors = load_checkpoint(old, CPU), load_file(old / "model.safetensors")
    describe_checkpoint(old, before.tasks, card="# Known\n", facts={"evaluation": 1})
    assert json.loads((old / "config.json").read_text())["format_version"] == 2
    after = load_checkpoint(old, CPU)
    assert (after.manifest["format_version"], after.manifest["evaluation"]) == (2, 1)
    assert after.manifest["training"] == before.manifest["training"]
    assert (after.tasks, after.model.config) == (before.tasks, before.model.config)
    renamed = {n.replace("emotion_head", "heads.emotions").replace("topic_head", "heads.topic") for n in tensors}
    stored = load_file(old / "model.safetensors")
    assert stored.keys() == renamed
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert sum(map(torch.Tensor.numel, stored.values())) == sum(map(torch.Tensor.numel, tensors.values()))


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "prompts": ("tasks", lambda t: t.update(prompts={"summarize": ""}), r"prompts are given for \['summarize'\]"),
    "labels": ("tasks", lambda t: t.update(topic_labels="abcd"), "topic_labels is 'abcd'; it must be of type list"),
    "thresholds": ("tasks", lambda t: t.update(emotion_thresholds=[0.5]), "1 thresholds for 28 labels"),
    "unknown": ("tasks", lambda t: t.update(heads=[]), r"has the fields .*'heads'"),
    "fewer": ("tasks", lambda t: t.update(topic_labels=["a", "b"]), "names 2 topic labels, the head has 4"),
    "outputs": ("config", lambda c: c["model"].pop("num_topics"), r"config.json: missing fields \['num_topics'\]"),
    "negative": ("config", lambda c: c["model"].update(num_topics=-1), "num_topics is -1; it must be a whole number"),
}


@pytest.mark.parametrize(("name", "change", "message"), FAULTS.values(), ids=FAULTS)
def test_misfits_of_format_1_are_named(
    old: Path, name: str, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = old / f"{name}.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    sign(old)
    refuse(old, message)


def test_without_a_head_format_1_has_none(old: Path) -> None:
    for name in ("tasks", "config"):
        path = old / f"{name}.json"
        fields = json.loads(path.read_text())
        fields.update({"topic_labels": []} if name == "tasks" else {"model": {**fields["model"], "num_topics": 0}})
        path.write_text(json.dumps(fields))
    sign(old)
    refuse(old, "unexpected heads.topic.linear.bias; unexpected heads.topic.linear.weight")


def test_field_that_comes_later_with_a_default_leaves_older_folders_readable(folder: Path) -> None:
    @dataclass(frozen=True)
    class Later(ModelConfig):
        logit_cap: float = 0.0

    fields = json.loads((folder / "config.json").read_text())["model"]
    assert Later.from_json(fields).logit_cap == 0.0
    assert Later.from_json({name: value for name, value in fields.items() if name != "heads"}).heads == {}
    tasks = json.loads((folder / "tasks.json").read_text())
    for head in tasks["heads"]:
        del head["temperature"]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    sign(folder)
    assert {head.temperature for head in load_checkpoint(folder, CPU).tasks.heads} == {1.0}


@pytest.mark.parametrize("name", ["type", "training", "items"])
def test_name_that_torch_needs_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the head '{name}': torch has this word"):
        new_heads(8, {name: 2}, 0.0)
