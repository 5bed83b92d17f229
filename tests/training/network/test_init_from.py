"""A run that starts from a checkpoint has its architecture; what contradicts it is refused before data is read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module

from model.storage.checkpoint import load_checkpoint
from support.training_runs import SMALL, trainer
from training.config import parse_config
from training.distributed.processes import Processes
from training.errors import TrainingError
from training.network.architecture import architecture_of
from training.run import build_run


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a width and depth that no choice of `model` has."""
    folder = tmp_path_factory.mktemp("first") / "run"
    trainer(data, folder, "loop.steps=1").run()
    return folder / "checkpoint"


def build(data: Path, output: Path, first: Path, *overrides: str) -> Any:
    rest = [override for override in SMALL if not override.startswith("model")]
    with initialize_config_module("training.configs", version_base=None):
        config = compose(
            "train", [*rest, "loop.steps=1", f"data.root={data}", f"output={output}", f"init_from={first}", *overrides]
        )
    return build_run(parse_config(config), [], Processes(), torch.device("cpu"))


def test_init_from_brings_its_architecture(data: Path, first: Path, tmp_path: Path) -> None:
    there = load_checkpoint(first, torch.device("cpu"))
    run = build(data, tmp_path / "run", first, "model.dropout=0.3")
    config = run.objective.model.config
    assert (config.d_model, config.num_encoder_layers, config.dropout) == (32, 1, 0.3)
    assert torch.equal(run.objective.model.embedding.weight, there.model.embedding.weight)
    assert run.config.must_match()["model.d_model"] == 32  # what the card, MLflow and resuming get
    assert not (tmp_path / "run" / "spiece.model").exists()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("model=tiny", "model.d_model is 256, there 32"), ("model.d_ff=64", "model.d_ff is 64, there 48")],
)
def test_what_contradicts_it_is_an_error_before_data(choice: str, expected: str, first: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=rf"{expected}.*Leave model out: init_from brings its own"):
        build(tmp_path / "no data", tmp_path / "run", first, choice)


def test_without_it_auto_is_base() -> None:
    with initialize_config_module("training.configs", version_base=None):
        base, auto = (compose("train", ["output=run", *choice]) for choice in (["model=base"], []))
    one, other = (architecture_of(parse_config(config).model, None) for config in (base, auto))
    assert one == other
