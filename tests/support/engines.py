"""Around an engine: a tiny network's shape and heads, a clock, a gate, equality of answers."""

import asyncio
import dataclasses
import math
import threading
from typing import Any

import pytest
from torch import nn

from app.engine.engine import Engine
from app.engine.request import EngineRequest, EngineResult
from app.metrics import Metrics
from model.config import ModelConfig
from model.network.leximind import LexiMind
from model.tasks import Head

TINY = ModelConfig(
    vocab_size=96,
    num_tokens=90,
    d_model=32,
    num_heads=3,
    d_kv=8,
    d_ff=48,
    num_encoder_layers=2,
    num_decoder_layers=2,
    num_positions=64,
    heads={"emotions": 5, "topic": 4},
    tie_lm_head=True,
    scale_lm_head=True,
)

HEADS = (
    Head("emotions", "multi_label", tuple("abcde"), (0.5,) * 5),
    Head("topic", "single_label", tuple("wxyz")),
)


class FakeClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Rig:
    """An engine that is ready, and what a test looks at."""

    engine: Engine
    metrics: Metrics
    model: LexiMind

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"leximind_{name}", labels) or 0.0

    async def is_quiet(self) -> bool:
        """Whether nothing of earlier requests is left, once the model's thread has read all commands."""
        await self.engine.run(EngineRequest((5, TINY.eos_id), math.inf, heads=("topic",)))
        gauges = [self.value(name) for name in ("queue_requests", "queue_tokens", "kv_slots_used")]
        return gauges == [0, 0, 0] and self.engine._runner.num_rows == 0


class Gate:
    """Holds a module up before its forward pass, from the next pass on, until it is opened."""

    def __init__(self, module: nn.Module) -> None:
        self._entered = threading.Event()
        self._open = threading.Event()
        self._hook = module.register_forward_pre_hook(self._wait)

    def _wait(self, _module: nn.Module, _args: Any) -> None:
        self._entered.set()
        assert self._open.wait(30), "nobody opened the gate"

    async def entered(self) -> None:
        """Until the model's thread stands at the gate."""
        assert await asyncio.to_thread(self._entered.wait, 30)

    def open(self) -> None:
        self._hook.remove()
        self._open.set()


def assert_same(answer: EngineResult, expected: EngineResult) -> None:
    """Equal but for the last digits, which the other rows of a batch decide."""
    assert (answer.summary is None) == (expected.summary is None)
    if answer.summary is not None and expected.summary is not None:
        assert answer.summary.token_ids == expected.summary.token_ids
        assert answer.summary.finish_reason == expected.summary.finish_reason
        assert answer.summary.score == pytest.approx(expected.summary.score, abs=1e-4)
    # float32, and padding changes the order of summation
    assert answer.scores.keys() == expected.scores.keys()
    for name, scores in answer.scores.items():
        assert scores == pytest.approx(expected.scores[name], abs=1e-5)
