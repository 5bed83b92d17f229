"""The engine when its model fails: who loses an answer, who does not, and what is left."""

import asyncio
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, marked: int, value: float) -> None:
    """Makes `name` of the backend give `value` in the rows of sources that contain the token `marked`."""
    states = {"marked": torch.zeros(0, dtype=torch.bool)}
    encode, compute = TorchBackend.encode, getattr(TorchBackend, name)

    def mark(self: TorchBackend, input_ids: Tensor, encoder_mask: Tensor) -> Tensor:
        states["marked"] = (input_ids == marked).any(1)
        made = encode(self, input_ids, encoder_mask)
        return made.masked_fill(states["marked"][:, None, None], value) if name == "encode" else made

    def spoiled(self: TorchBackend, first: Tensor, *others: Any) -> Any:
        made = compute(self, first, *others)
        rows = states["marked"]
        if name == "classify":  # of rows that name the same heads, which are all
            return {head: logits.masked_fill(rows[:, None], value) for head, logits in made.items()}
        beams = made.shape[0] // len(rows)
        made[rows.repeat_interleave(beams), 7] = value  # of one token
        return made

    monkeypatch.setattr(TorchBackend, "encode", mark)
    if name != "encode":
        monkeypatch.setattr(TorchBackend, name, spoiled)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["encode", "classify", "compute_step"])
@pytest.mark.parametrize("num_beams", [1, 3])
async def test_numbers_that_are_not_finite_fail_their_own_request_alone(
    start: Any, source: Source, alone: Alone, monkeypatch: pytest.MonkeyPatch, name: str, value: float, num_beams: int
) -> None:
    rig = await start()
    options = DecodingOptions(max_new_tokens=12, min_new_tokens=6, num_beams=num_beams)
    sound = EngineRequest(tuple(5 if one == 9 else one for one in source(1, 9)), math.inf, ("topic",), options)
    expected = alone(sound)
    broken = EngineRequest((9, 9, 5, 5, 5, 5, 5, 5, 1), math.inf, ("topic",), options)
    spoil(monkeypatch, name, 9, value)
    failure, answer = await asyncio.gather(rig.engine.run(broken), rig.engine.run(sound), return_exceptions=True)
    assert isinstance(failure, EngineError)
    assert "not finite" in str(failure)
    assert_same(answer, expected)
    assert rig.engine.state == "ready"
    assert await rig.is_quiet()


async def test_sampling_from_numbers_that_are_not_finite_fails(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await start()
    spoil(monkeypatch, "compute_step", 9, math.nan)
    options = DecodingOptions(max_new_tokens=12, do_sample=True, seed=3)
    with pytest.raises(EngineError, match="not finite"):
        await rig.engine.run(EngineRequest((9, 9, 5, 1), math.inf, options=options))


async def test_model_whose_numbers_stay_not_finite_marks_the_engine_failed(start: Any, source: Source) -> None:
    failed: list[None] = []
    rig = await start(on_failure=lambda: failed.append(None))
    with torch.no_grad():
        rig.model.decoder.norm.weight.fill_(math.nan)
    with pytest.raises(EngineError):
        await rig.engine.run(EngineRequest(source(1, 9), math.inf, options=DecodingOptions(max_new_tokens=3)))
    await asyncio.to_thread(rig.engine._thread.join, 10)
    await asyncio.sleep(0)
    assert rig.engine.state == "failed"
    assert failed == [None]
