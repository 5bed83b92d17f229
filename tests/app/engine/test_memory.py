"""The engine when memory does not suffice: a batch is tried again in parts, and nobody notices who fits."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from app.engine.request import DoesNotFit, EngineRequest, EngineResult
from model.inference.decoding.options import DecodingOptions
from model.inference.kv_cache import KVCache
from model.inference.torch_backend import TorchBackend
from support.engines import assert_same

Source = Callable[[int, int], tuple[int, ...]]
Alone = Callable[[EngineRequest], EngineResult]
ERRORS = (
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
)


@pytest.fixture(params=ERRORS, ids=("cpu", "cuda", "python"))
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`limit(encoder_tokens=…, cache_rows=…, step_rows=…)`: memory for so much at once, and the allocator's error."""

    def set_limits(
        *, encoder_tokens: float = math.inf, cache_rows: float = math.inf, step_rows: float = math.inf
    ) -> None:
        encode, reserve, step = TorchBackend.encode, KVCache.reserve, TorchBackend.compute_step

        def limited_encode(self: TorchBackend, input_ids: Tensor, encoder_mask: Tensor) -> Tensor:
            if input_ids.numel() > encoder_tokens:
                raise request.param
            return encode(self, input_ids, encoder_mask)

        def limited_reserve(self: KVCache, documents: int, source: int, target: int) -> None:
            if documents * self.num_beams > cache_rows:
                raise request.param
            reserve(self, documents, source, target)

        def limited_step(self: TorchBackend, token_ids: Tensor, caches: Any) -> Tensor:
            logits = step(self, token_ids, caches)  # the caches have changed by then
            if len(token_ids) > step_rows:
                raise request.param
            return logits

        monkeypatch.setattr(TorchBackend, "encode", limited_encode)
        monkeypatch.setattr(KVCache, "reserve", limited_reserve)
        monkeypatch.setattr(TorchBackend, "compute_step", limited_step)

    return set_limits


def summaries(source: Source, count: int, **options: Any) -> list[EngineRequest]:
    decoding = DecodingOptions(max_new_tokens=12, min_new_tokens=8, **options)
    return [EngineRequest(source(seed, 9 + seed), math.inf, ("topic",), decoding) for seed in range(count)]


async def test_encoder_batch_that_does_not_fit_is_encoded_in_parts(
    start: Any, source: Source, alone: Alone, limit: Any, encoded_shapes: list[tuple[int, int]]
) -> None:
    rig = await start()
    requests = [EngineRequest(source(seed, 10), math.inf, heads=("topic", "emotions")) for seed in range(9)]
    expected = [alone(one) for one in requests]
    encoded_shapes.clear()
    limit(encoder_tokens=30)
    for answer, one in zip(await rig.engine.run_all(requests), expected, strict=True):
        assert_same(answer, one)
    assert max(rows for rows, _ in encoded_shapes) <= 3
    assert rig.value("queue_wait_seconds_count", task="several", priority="interactive") == 9
    encoded_shapes.clear()
    await rig.engine.run_all([EngineRequest(source(seed, 3), math.inf, heads=("topic",)) for seed in range(9)])
    assert max(rows for rows, _ in encoded_shapes) == 9, "later batches are whole again"
    assert await rig.is_quiet()


@pytest.mark.parametrize("what", ["cache_rows", "step_rows"])
@pytest.mark.parametrize("num_beams", [1, 2])
async def test_decoding_that_does_not_fit_begins_anew_in_parts(
    start: Any, source: Source, alone: Alone, limit: Any, what: str, num_beams: int
) -> None:
    rig = await start()
    requests = [*summaries(source, 7, num_beams=num_beams), *summaries(source, 2, do_sample=True, seed=5)]
    expected = [alone(one) for one in requests]
    limit(**{what: 3})
    for answer, one in zip(await rig.engine.run_all(requests), expected, strict=True):
        assert_same(answer, one)
    assert await rig.is_quiet()


async def test_stream_goes_on_where_it_was_when_others_end_the_memory(
    start: Any, source: Source, alone: Alone, limit: Any
) -> None:
    rig = await start()
    request = EngineRequest(
        source(1, 9), math.inf, options=DecodingOptions(max_new_tokens=60, min_new_tokens=55, do_sample=True, seed=3)
    )
    others = summaries(source, 4)
    expected, expected_others = alone(request), [alone(one) for one in others]
    stream = rig.engine.stream([request])
    token_ids = [(await anext(stream))[1] for _ in range(5)]
    limit(step_rows=2)
    running = asyncio.create_task(rig.engine.run_all(others))
    *more, answer = [item async for _, item in stream]
    assert (*token_ids, *more) == answer.summary.token_ids, "each token once"
    assert_same(answer, expected)
    for other, one in zip(await running, expected_others, strict=True):
        assert_same(other, one)
    assert await rig.is_quiet()


@pytest.mark.parametrize("what", ["encoder_tokens", "cache_rows", "step_rows"])
async def test_only_what_does_not_fit_alone_fails_and_says_its_size(
    start: Any, source: Source, alone: Alone, limit: Any, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await start()
    small = summaries(source, 5)
    large = EngineRequest(source(9, 45), math.inf, options=DecodingOptions(max_new_tokens=12, num_beams=4))
    expected = [alone(one) for one in small]
    limit(**{what: 40 if what == "encoder_tokens" else 3})
    answers = await asyncio.gather(*(rig.engine.run(one) for one in (*small, large)), return_exceptions=True)
    for answer, one in zip(answers, expected, strict=False):
        assert isinstance(answer, EngineResult), answer
        assert_same(answer, one)
    assert isinstance(answers[-1], DoesNotFit)
    assert "45 tokens to read, 4 x 12 tokens to write" in str(answers[-1])
    assert "memory does not suffice" in caplog.text
    assert rig.engine.state == "ready"
    assert await rig.is_quiet()


async def test_source_that_fits_only_alone_waits_for_those_that_decode(
    start: Any, source: Source, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await start()
    running, large = summaries(source, 1)[0], EngineRequest(source(9, 45), math.inf, heads=("topic",))
    expected = [alone(running), alone(large)]
    encode, was_refused = TorchBackend.encode, []

    def limited(self: TorchBackend, input_ids: Tensor, encoder_mask: Tensor) -> Tensor:
        if input_ids.shape[1] == 45 and rig.engine._runner.num_rows:
            was_refused.append(True)
            raise MemoryError
        return encode(self, input_ids, encoder_mask)

    stream = rig.engine.stream([running])
    await anext(stream)
    monkeypatch.setattr(TorchBackend, "encode", limited)
    answer = asyncio.create_task(rig.engine.run(large))
    *_, (_, summary) = [item async for item in stream]
    assert_same(summary, expected[0])
    assert_same(await answer, expected[1])
    assert was_refused == [True]
    assert await rig.is_quiet()
