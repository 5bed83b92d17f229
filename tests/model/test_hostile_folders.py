"""Folders that were made to hurt: refused in a line, before anything large is allocated or read."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from model.storage.checkpoint import Checkpoint, load_served
from model.storage.flan_t5 import import_flan_t5
from model.storage.stored_weights import StoredWeights
from support.checkpoints import refuse, sign

ABSURD = {
    "num_encoder_layers": 10**7,
    "num_decoder_layers": 10**7,
    "num_positions": 10**18,
    "relative_attention_max_distance": 10**9,
    "vocab_size": 10**12,
    "num_heads": 10**9,
}


@pytest.mark.parametrize(("name", "value"), ABSURD.items(), ids=ABSURD)
def test_absurd_sizes_are_refused_by_their_number(folder: Path, name: str, value: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    sign(folder)
    refuse(folder, rf"config\.json: {name} is {value}; it must be at most \d+$")


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"topic": 10**9}, "heads: topic has 1000000000 labels; a head has a whole number of them, 2 to 65536"),
        ({f"h{number}": 2 for number in range(300)}, "heads: there are 300; at most 256 are read"),
    ],
)
def test_absurd_heads_are_refused(folder: Path, heads: dict[str, int], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["heads"] = heads
    (folder / "config.json").write_text(json.dumps(config))
    sign(folder)
    refuse(folder, message)


def test_absurd_source_length_is_refused(folder: Path) -> None:
    tasks = json.loads((folder / "tasks.json").read_text())
    (folder / "tasks.json").write_text(json.dumps({**tasks, "max_source_tokens": 10**18}))
    sign(folder)
    refuse(folder, r"max_source_tokens is 1000000000000000000; it must lie in \[8, 32768\]")


MANY = [str(number) for number in range(300_000)]
EMOTIONS, TOPIC = 0, 1
HOSTILE_TASKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "many equal labels": lambda tasks: tasks["heads"][TOPIC].update(labels=["a"] * 300_000),
    "unknown fields": lambda tasks: tasks.update(dict.fromkeys(MANY, 1)),
    "unknown fields of a head": lambda tasks: tasks["heads"][TOPIC].update(dict.fromkeys(MANY, 1)),
    "wrong type": lambda tasks: tasks["heads"][TOPIC].update(labels=dict.fromkeys(MANY, 1)),
    "no object": lambda tasks: tasks["heads"].append(MANY),
    "many heads": lambda tasks: tasks.update(heads=[tasks["heads"][TOPIC]] * 30_000),
    "thresholds": lambda tasks: tasks["heads"][EMOTIONS].update(thresholds=[2.0] * 300_000),
    "integer beyond floats": lambda tasks: tasks["heads"][EMOTIONS].update(thresholds=[10**400]),
    "energy of several labels": lambda tasks: tasks["heads"][EMOTIONS].update(min_energy=1.0),
    "energy beyond numbers": lambda tasks: tasks["heads"][TOPIC].update(min_energy=float("nan")),
    "energy of the wrong type": lambda tasks: tasks["heads"][TOPIC].update(min_energy="1"),
    "more words than there are": lambda tasks: tasks.update(min_known_words=1.5),
    "surrogate in a label": lambda tasks: tasks["heads"][TOPIC].update(labels=["\ud800", "b", "c", "d"]),
    "surrogate in a prompt": lambda tasks: tasks.update(prompt="\ud800"),
    "surrogate in the prompt of a head": lambda tasks: tasks["heads"][TOPIC].update(prompt="\ud800"),
}


@pytest.mark.parametrize("change", HOSTILE_TASKS.values(), ids=HOSTILE_TASKS)
def test_hostile_tasks_are_refused_in_a_short_line(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tasks = json.loads((folder / "tasks.json").read_text())
    change(tasks)
    (folder / "tasks.json").write_text(json.dumps(tasks))
    sign(folder)
    with pytest.raises(CheckpointError, match=r"^tasks\.json: [^\n\ud800]{1,300}$"):
        load_served(folder, torch.device("cpu"), "float32")


@pytest.mark.parametrize("model", [dict.fromkeys(MANY, 1), MANY], ids=["unknown fields", "list"])
def test_hostile_configuration_is_refused_in_a_short_line(folder: Path, model: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"model": model}))
    sign(folder)
    with pytest.raises(CheckpointError) as refused:
        load_served(folder, torch.device("cpu"), "float32")
    assert len(str(refused.value)) < 1_500


def write_names(path: Path, count: int) -> None:
    """A safetensors file with `count` empty tensors."""
    names = {
        f"layer.{number}.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(count)
    }
    table = json.dumps(names).encode()
    path.write_bytes(struct.pack("<Q", len(table)) + table)


def test_hundreds_of_thousands_of_names_are_not_read(folder: Path) -> None:
    write_names(folder / "model.safetensors", 300_000)
    sign(folder)
    refuse(folder, r"model\.safetensors: its table of tensors has \d+ bytes, at most 4194304 are read")


def test_thousands_of_misfits_are_one_readable_line(folder: Path) -> None:
    write_names(folder / "model.safetensors", 5_000)
    sign(folder)
    with pytest.raises(CheckpointError, match=r"and \d+ more$") as refused:
        load_served(folder, torch.device("cpu"), "float32")
    assert len(str(refused.value)) < 10_000


@pytest.mark.parametrize("name", ["config.json", "tasks.json", "manifest.json"])
def test_deep_and_huge_json_is_refused(folder: Path, name: str) -> None:
    for content, message in (
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested too deeply"),
        (b" " * (16 * 2**20 + 1), "more than 16777216 bytes"),
    ):
        (folder / name).write_bytes(content)
        if name != "manifest.json":
            sign(folder)
        refuse(folder, f"{name}: .*{message}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["embedding.weight", "decoder.layers.1.cross_attention.kv.weight", "heads.topic.linear.bias"]
)
def test_weights_that_are_no_numbers_are_refused(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors")
    sign(folder)
    refuse(folder, f"model.safetensors: {name.replace('.', '[.]')} holds NaN or infinity")
    for precision in ("float32", "int8"):
        with pytest.raises(CheckpointError, match="holds NaN or infinity"):
            load_served(folder, torch.device("cpu"), precision)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_largest_numbers_of_every_dtype_are_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    extremes = torch.finfo(dtype)
    save_file({"w": torch.tensor([extremes.max, extremes.min], dtype=dtype).repeat(999)}, tmp_path / "w.safetensors")
    assert StoredWeights([tmp_path / "w.safetensors"])["w"].shape == (1998,)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "a.bin"])
def test_index_that_leads_elsewhere_is_refused(tmp_path: Path, spiece: Path, shard: str) -> None:
    published = tmp_path / "published"
    published.mkdir()
    (published / "config.json").write_text("{}")
    (published / "spiece.model").write_bytes(spiece.read_bytes())
    index: dict[str, Any] = {"weight_map": {"shared.weight": shard, "lm_head.weight": "model-1.safetensors"}}
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"weight_map names .*; shards are .safetensors files in that folder"):
        import_flan_t5(str(published), tmp_path / "target")


def test_bfloat16_without_the_instructions_is_refused_with_the_remedy(checkpoint: Checkpoint) -> None:
    script = (
        "import sys, torch, model.kernels.library as library\n"
        "from pathlib import Path\n"
        "library.choose('none')\n"
        "from model.storage.checkpoint import load_served\n"
        "load_served(Path(sys.argv[1]), torch.device('cpu'), 'bfloat16')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(checkpoint.folder)],
        env={"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr.splitlines()[-1] == (
        "model.errors.ModelError: dtype is bfloat16, for which this processor has no instructions; use auto or float32"
    )
