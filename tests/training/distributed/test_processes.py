"""Two processes train as one does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.storage.checkpoint import load_checkpoint
from support.depth import only_in_full
from support.training_runs import SMALL, equal, state, trainer
from training.config import flat
from training.distributed.processes import Processes
from training.errors import TrainingError
from training.loop.state import load_state

# No dropout: each process draws its own. AdamW divides by the gradient's size, so sums in another order show early.
OPTIONS = ("loop.accumulate=2", "model.dropout=0.0", "loop.precision=fp32", "loop.steps=4", "loop.log_every=1")


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in sorted(line) if name.startswith("train/") and "tokens" not in name]


def in_two_processes(data: Path, output: Path, *options: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "training.train", *SMALL, *OPTIONS, f"data.root={data}", f"output={output}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("loop.parallel=ddp",),
        pytest.param(("loop.parallel=fsdp", "loop.ema=0.5"), marks=only_in_full),
        # One draw a process and step: a step often has batches of one task only, and never the same in both.
        ("loop.parallel=fsdp", "mixture.temperature=2", "lora.rank=2", "loop.checkpoint_layers=true"),
    ],
)
def test_two_processes_give_the_losses_of_one(options: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    trainer(data, tmp_path / "one", *OPTIONS, *options).run()
    in_two_processes(data, tmp_path / "two", *options)
    # float32 sums of gradients in another order
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_state(tmp_path / name) for name in ("one", "two"))
    for part in ("model", "average"):
        for name, tensor in flat_tensors(one[part]):
            assert torch.allclose(tensor, dict(flat_tensors(two[part]))[name], atol=1e-4), name
    served = [load_checkpoint(tmp_path / name / "last", torch.device("cpu")).model for name in ("one", "two")]
    for a, b in zip(*(model.parameters() for model in served), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_shared_out_run_is_resumed_to_the_last_bit(data: Path, tmp_path: Path) -> None:
    options = ("loop.parallel=fsdp", "loop.ema=0.5", "model.dropout=0.2")
    in_two_processes(data, tmp_path / "whole", *options)
    in_two_processes(data, tmp_path / "parts", *options, "loop.steps=2")
    in_two_processes(data, tmp_path / "parts", *options, f"resume_from={tmp_path / 'parts'}")
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    whole["best"] = parts["best"] = None  # a run of 2 steps validates its last
    assert equal(parts, whole)
    on = ("loop.parallel=ddp", "loop.steps=5", f"resume_from={tmp_path / 'parts'}")
    in_two_processes(data, tmp_path / "parts", *options, *on)
    assert state(tmp_path / "parts")["step"] == 5


@pytest.mark.parametrize("option", ["optimizer.name=adafactor", "loop.precision=fp16"])
def test_what_cannot_be_shared_out_is_refused_at_once(option: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"use adamw|use bf16"):
        trainer(data, tmp_path / "run", "loop.parallel=fsdp", option, processes=Processes(0, 2))


def flat_tensors(tree: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, one) for name, one in flat(tree or {}) if isinstance(one, torch.Tensor)]
