"""Both trainers minimise the same function, and what is reported of them is what was measured."""

from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from benchmarks.trainers import TRAINERS, pad_to_longest
from benchmarks.training import QUICK, TABLES, Plan, markdown
from benchmarks.weights import SMOKE, Weights, prepare

PLAN = Plan(SMOKE, "cpu", **QUICK)
# The same batches in another order: all but the first are seen after other steps, which change a loss little yet.
CLOSE = 2e-3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return prepare(SMOKE, tmp_path_factory.mktemp("weights"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("table", TABLES)
def test_both_trainers_have_the_same_loss_and_number_of_steps(table: str, weights: Weights) -> None:
    pytest.importorskip("accelerate")
    ours, peer = (trained(name, table, weights) for name in ("our trainer fp32", "HF Trainer fp32"))
    assert ours["steps"] == peer["steps"]
    assert ours["loss"] == pytest.approx(peer["loss"], rel=CLOSE)


@pytest.mark.parametrize("table", TABLES)
def test_our_trainer_has_the_loss_of_the_published_network(table: str, weights: Weights) -> None:
    reference: Any = T5ForConditionalGeneration.from_pretrained(weights.published, dtype=torch.float32).eval()
    with torch.no_grad():
        reference.lm_head.weight.mul_(weights.shape.d_model**-0.5)
        rows = [{"input_ids": source, "labels": target} for source, target in PLAN.rows(table)]
        batches = [rows[start : start + PLAN.batch] for start in range(0, len(rows), PLAN.batch)]
        losses = [reference(**pad_to_longest(batch)).loss.item() for batch in batches]
    ours = trained("our trainer fp32", table, weights)
    assert ours["steps"] == len(losses)
    assert ours["loss"] == pytest.approx(sum(losses) / len(losses), rel=CLOSE)


def trained(name: str, table: str, weights: Weights) -> dict[str, Any]:
    TRAINERS[name].load(weights, threads=1)
    return TRAINERS[name].train(PLAN.rows(table), PLAN.batch, "cpu")


def test_lengths_are_as_planned() -> None:
    assert {(len(source), len(target)) for source, target in PLAN.rows("equal")} == {(PLAN.source, PLAN.target)}
    mixed = Plan(SMOKE, "cpu", batch=8, steps=25, source=256, target=64).rows("mixed")
    lengths = sorted(len(source) for source, _ in mixed)
    assert lengths[len(lengths) // 2] == pytest.approx(157, rel=0.1)
    assert max(lengths) <= 512


def test_ratios_are_of_medians_and_warming_up_does_not_count() -> None:
    seconds = {"our trainer bf16": (9.0, 1.0, 1.0, 5.0), "HF Trainer bf16": (9.0, 2.0, 2.0, 2.0)}
    data = {
        "facts": dict.fromkeys(("date", "commit", "processor", "cores", "load_before", "python", "command"), "x")
        | {"versions": {}},
        "plan": {"shape": "smoke", **QUICK},
        "padding": dict.fromkeys(TABLES, 0.25),
        "work": {table: {"tokens": 100, "operations": 1e9} for table in TABLES},
        "peaks": {"bf16": 2e9},
        "measurements": [
            {"contender": name, "table": "equal", "repetition": number, "seconds": one, "loss": 7.0}
            for name, times in seconds.items()
            for number, one in enumerate(times)
        ],
        "notes": {},
    }
    shown = markdown(data)
    assert "| our trainer bf16 | 100 | 50% | – | – | 7.000 |" in shown
    assert "| **ours ÷ HF, bf16** | 2.00 |" in shown
