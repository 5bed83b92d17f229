"""Two processes train as one does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import SMALL, trainer

from training.data.batches import Encoded, Stream
from training.errors import TrainingError
from training.mixture import Mixture, MixtureConfig
from training.state import load_state

# No dropout: each process draws its own. AdamW divides by the gradient's size, so sums in another order show early.
OPTIONS = ("loop.accumulate=2", "model.dropout=0.0", "loop.precision=fp32", "loop.steps=4", "loop.log_every=1")


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in sorted(line) if name.startswith("train/") and "tokens" not in name]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(data: Path, tmp_path: Path) -> None:
    trainer(data, tmp_path / "one", *OPTIONS).run()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "training.train", *SMALL, *OPTIONS, f"data.root={data}", f"output={tmp_path / 'two'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    # float32 sums of gradients in another order
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_state(tmp_path / name)["model"] for name in ("one", "two"))
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-4), name


def rows(number: int) -> list[Encoded]:
    return [Encoded((5 + n, 1), (), None, 0) for n in range(number)]


@pytest.mark.parametrize("config", [MixtureConfig(None, 1), MixtureConfig(2.0, 2)])
def test_processes_share_a_step_out(config: MixtureConfig) -> None:
    def mixture(rank: int, world_size: int) -> Mixture:
        streams = {name: (Stream(rows(number), [(8, 0)], 16, 0, seed=0), 1) for name, number in (("a", 40), ("b", 10))}
        return Mixture(streams, config, 2, 0, rank, world_size)

    whole, halves = mixture(0, 1), [mixture(rank, 2) for rank in (0, 1)]
    for step in range(6):
        expected = sorted((slot.group, slot.batch.numbers) for slot in whole.step(step))
        parts = [slot for half in halves for slot in half.step(step)]
        assert sorted((slot.group, slot.batch.numbers) for slot in parts) == expected
        assert all(half.state() == whole.state() for half in halves)


def test_temperature_decides_the_odds() -> None:
    def counts(temperature: float) -> int:
        streams = {name: (Stream(rows(n), [(8, 0)], 8, 0, seed=0), 1) for name, n in (("large", 90), ("small", 10))}
        mixture = Mixture(streams, MixtureConfig(temperature, 1), 1, 0)
        return sum(mixture.step(step)[0].group == "large" for step in range(1000))

    assert counts(1.0) == pytest.approx(900, abs=40)  # 4 standard deviations
    assert counts(2.0) == pytest.approx(750, abs=55)  # √90 : √10 is 3 : 1


def test_batches_that_do_not_divide_are_refused() -> None:
    streams = {"a": (Stream(rows(8), [(8, 0)], 8, 0, seed=0), 1)}
    with pytest.raises(TrainingError, match=r"do not divide among 2 processes; raise loop\.accumulate"):
        Mixture(streams, MixtureConfig(None, 1), 1, 0, rank=0, world_size=2)
