"""The engine when its model fails: who loses an answer, who does not, and what is left."""

import asyncio
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from app.engine.engine import Engine
from app.engine.request import EngineError, EngineRequest, EngineResult
from app.metrics import Metrics
from app.settings import Settings
from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind
from model.tasks import Tasks
from support.engines import HEADS, assert_same
from support.waiting import until

Source = Callable[[int, int], tuple[int, ...]]
Alone = Callable[[EngineRequest], EngineResult]


def fail(module: nn.Module, times: int) -> None:
    """Makes the next `times` forward passes of `module` raise."""
    left = times

    def fault(_module: nn.Module, _args: Any) -> None:
        nonlocal left
        if left:
            left -= 1
            raise RuntimeError("injected")

    module.register_forward_pre_hook(fault)


async def test_failed_encoder_batch_fails_its_requests_and_no_others(
    start: Any, source: Source, alone: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await start()
    running = EngineRequest(source(1, 9), math.inf, options=DecodingOptions(max_new_tokens=100, min_new_tokens=90))
    stream = rig.engine.stream([running])
    token_ids = [(await anext(stream))[1]]
    fail(rig.model.encoder, times=1)
    with pytest.raises(EngineError, match="encoding"):
        await rig.engine.run(EngineRequest(source(2, 9), math.inf, heads=("topic",)))
    *more, answer = [item async for _, item in stream]
    assert_same(answer, alone(running))
    assert (*token_ids, *more) == answer.summary.token_ids
    assert "injected" in caplog.text
    assert rig.engine.state == "ready"
    assert await rig.is_quiet()


async def test_failed_step_fails_what_decodes_and_the_engine_lives_on(start: Any, source: Source, alone: Alone) -> None:
    rig = await start()
    options = DecodingOptions(max_new_tokens=6)
    requests = [EngineRequest(source(seed, 9), math.inf, options=options) for seed in range(3)]
    fail(rig.model.decoder.norm, times=1)
    answers = await asyncio.gather(*(rig.engine.run(request) for request in requests), return_exceptions=True)
    assert any(isinstance(answer, EngineError) for answer in answers)
    for request in requests:
        assert_same(await rig.engine.run(request), alone(request))
    assert await rig.is_quiet()


async def test_model_that_goes_on_failing_marks_the_engine_failed(start: Any, source: Source) -> None:
    failed: list[None] = []
    rig = await start(on_failure=lambda: failed.append(None))
    fail(rig.model.decoder.norm, times=1000)
    options = DecodingOptions(max_new_tokens=6)
    requests = [EngineRequest(source(seed, 9), math.inf, options=options) for seed in range(3)]
    answers = await asyncio.gather(*(rig.engine.run(request) for request in requests), return_exceptions=True)
    assert all(isinstance(answer, EngineError) for answer in answers)
    with pytest.raises(EngineError):
        await rig.engine.run(requests[0])
    assert rig.engine.state == "failed"
    assert failed == [None]
    assert [rig.value(name) for name in ("queue_requests", "queue_tokens", "kv_slots_used")] == [0, 0, 0]


async def test_model_that_cannot_answer_at_all_does_not_start(start: Any, model: LexiMind) -> None:
    fail(model.encoder, times=1000)
    with pytest.raises(EngineError, match="minimal request"):
        await start()


async def test_engine_that_drains_while_it_warms_up_does_not_come_back(model: LexiMind, pause: Any) -> None:
    checkpoint: Any = SimpleNamespace(backend=TorchBackend(model), name="tiny", tasks=Tasks(heads=HEADS))
    engine = Engine(checkpoint, Settings(), Metrics())
    paused = pause(model.encoder)
    starting = asyncio.create_task(engine.start())
    await paused.reached()
    draining = asyncio.create_task(engine.drain(5.0))
    await until(lambda: engine.state == "draining")
    paused.release()
    await asyncio.gather(starting, draining)
    assert engine.state == "draining"


async def test_start_can_be_cancelled_while_the_model_warms_up(start: Any, model: LexiMind, pause: Any) -> None:
    paused = pause(model.encoder)
    starting = asyncio.create_task(start())
    await paused.reached()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    paused.release()  # the fixture stops the engine and sees that nothing raised
