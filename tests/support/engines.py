"""Around an engine: a tiny network's shape and heads, a clock, a pause, equality of answers."""

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
from support.waiting import until

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

    async def begin(self, *requests: EngineRequest) -> list[asyncio.Task[EngineResult]]:
        """A caller for each of `requests`, all of which the engine has accepted."""
        num_accepted = self.value("input_tokens_count") + len(requests)
        tasks = [asyncio.create_task(self.engine.run(request)) for request in requests]
        await until(lambda: self.value("input_tokens_count") == num_accepted)
        return tasks

    async def is_quiet(self) -> bool:
        """Whether nothing of earlier requests is left, once the model's thread has read all commands."""
        await self.engine.run(EngineRequest((5, TINY.eos_id), math.inf, heads=("topic",)))
        gauges = [self.value(name) for name in ("queue_requests", "queue_tokens", "kv_slots_used")]
        return gauges == [0, 0, 0] and self.engine._runner.num_rows == 0


class Pause:
    """Stops the model's thread before the next forward pass of a module, until released."""

    def __init__(self, module: nn.Module) -> None:
        self._reached = threading.Event()
        self._released = threading.Event()
        self._hook = module.register_forward_pre_hook(self._wait)

    def _wait(self, _module: nn.Module, _args: Any) -> None:
        self._reached.set()
        assert self._released.wait(30), "nobody released it"

    async def reached(self) -> None:
        """Until the model's thread has stopped there."""
        assert await asyncio.to_thread(self._reached.wait, 30)

    def release(self) -> None:
        """Let the thread, and all later passes, go on."""
        self._hook.remove()
        self._released.set()


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
