"""The engine under concurrent callers: right answers, and nothing left behind whatever callers do."""

import asyncio
import math
import random
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
import torch

from app.engine.request import (
    DeadlineExceeded,
    EngineRequest,
    EngineResult,
    EngineStopped,
    Overloaded,
)
from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind
from support.engines import assert_same
from support.waiting import until

Source = Callable[[int, int], tuple[int, ...]]
Alone = Callable[[EngineRequest], EngineResult]
LONG = DecodingOptions(max_new_tokens=400, min_new_tokens=400, no_repeat_ngram_size=0)


def mixed_request(seed: int, source: Source) -> EngineRequest:
    """Any length, tasks and options."""
    choose = random.Random(seed)
    length = choose.choice((3, 7, 20, 45, 90))
    options = choose.choice(
        (
            None,
            DecodingOptions(max_new_tokens=choose.randint(1, 16)),
            DecodingOptions(max_new_tokens=choose.randint(4, 12), num_beams=choose.randint(2, 4), length_penalty=0.7),
            DecodingOptions(max_new_tokens=choose.randint(1, 16), do_sample=True, top_p=0.9, seed=seed),
            DecodingOptions(max_new_tokens=16, min_new_tokens=9, repetition_penalty=1.3),
        )
    )
    emotions = choose.random() < 0.5
    topic = options is None or choose.random() < 0.3
    heads = tuple(name for name, is_asked in (("emotions", emotions), ("topic", topic)) if is_asked)
    return EngineRequest(source(seed % 150, length), math.inf, heads, options)


async def test_200_concurrent_requests_get_the_answers_that_each_gets_alone(
    start: Any, source: Source, alone: Alone
) -> None:
    rig = await start(max_batch_tokens=512, max_decode_rows=16)
    requests = [mixed_request(seed, source) for seed in range(200)]
    answers = await asyncio.gather(*(rig.engine.run(request) for request in requests))
    for request, answer in zip(requests, answers, strict=True):
        assert_same(answer, alone(request))
    assert await rig.is_quiet()


@pytest.mark.parametrize("kind", ["greedy", "sampled", "beams"])
async def test_streamed_tokens_are_those_of_the_final_answer(start: Any, source: Source, kind: str) -> None:
    rig = await start()
    options = DecodingOptions(max_new_tokens=12, do_sample=kind == "sampled", num_beams=2 if kind == "beams" else 1)
    *token_ids, answer = [
        item async for _, item in rig.engine.stream([EngineRequest(source(1, 9), math.inf, options=options)])
    ]
    assert tuple(token_ids) == answer.summary.token_ids
    assert len(token_ids) > 1


async def test_several_are_streamed_at_once(start: Any, source: Source, alone: Alone) -> None:
    rig = await start()
    requests = [EngineRequest(source(n, 9), math.inf, options=DecodingOptions(max_new_tokens=20)) for n in range(3)]
    items: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    order = []
    async for number, item in rig.engine.stream(requests):
        items[number].append(item)
        order.append(number)
    for request, (*token_ids, answer) in zip(requests, items.values(), strict=True):
        assert_same(answer, alone(request))
        assert tuple(token_ids) == answer.summary.token_ids
    assert order != sorted(order), "one after the other"


async def test_slow_reader_delays_no_other(start: Any, source: Source, alone: Alone) -> None:
    rig = await start()
    options = DecodingOptions(max_new_tokens=20)
    unread = rig.engine.stream([EngineRequest(source(1, 9), math.inf, options=options)])
    request = EngineRequest(source(2, 9), math.inf, options=DecodingOptions(max_new_tokens=40))
    assert_same(await rig.engine.run(request), alone(request))
    *token_ids, answer = [item async for _, item in unread]
    assert tuple(token_ids) == answer.summary.token_ids


async def test_list_is_answered_in_its_order(start: Any, source: Source, alone: Alone) -> None:
    rig = await start()
    requests = [mixed_request(seed, source) for seed in range(12)]
    for request, answer in zip(requests, await rig.engine.run_all(requests), strict=True):
        assert_same(answer, alone(request))


async def test_equal_sources_that_wait_together_are_encoded_once(
    start: Any, source: Source, pause: Any, encoded_shapes: list[tuple[int, int]]
) -> None:
    rig = await start()
    paused = pause(rig.model.encoder)
    first = asyncio.create_task(rig.engine.run(EngineRequest(source(1, 5), math.inf, heads=("topic",))))
    await paused.reached()
    encoded_shapes.clear()
    same = [EngineRequest(source(2, 30), math.inf, heads=("topic",)) for _ in range(5)]
    waiting = await rig.begin(*same)
    assert rig.value("queue_requests") == 5
    assert rig.value("queue_tokens") == 150
    paused.release()
    answers = await asyncio.gather(first, *waiting)
    assert encoded_shapes == [(1, 30)]
    assert all(one == answers[1] for one in answers[2:])


async def test_what_is_padded_to_few_lengths_counts_for_the_budget(
    start: Any, source: Source, pause: Any, encoded_shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.runner._LENGTH_MULTIPLES", {"cpu": 64})
    rig = await start(max_batch_tokens=256)
    paused = pause(rig.model.encoder)
    requests = [EngineRequest(source(seed, 5), math.inf, heads=("topic",)) for seed in range(9)]
    first = asyncio.create_task(rig.engine.run(requests[0]))
    await paused.reached()
    encoded_shapes.clear()
    waiting = await rig.begin(*requests[1:])
    paused.release()
    await asyncio.gather(first, *waiting)
    assert encoded_shapes == [(4, 64), (4, 64)]


async def test_cancelled_in_the_queue_is_never_encoded(
    start: Any, source: Source, pause: Any, encoded_shapes: list[tuple[int, int]]
) -> None:
    rig = await start()
    paused = pause(rig.model.encoder)
    first = asyncio.create_task(rig.engine.run(EngineRequest(source(1, 5), math.inf, heads=("topic",))))
    await paused.reached()
    [cancelled] = await rig.begin(EngineRequest(source(2, 40), math.inf, options=LONG))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert rig.value("queue_requests") == 0
    paused.release()
    await first
    assert await rig.is_quiet()
    assert (1, 40) not in encoded_shapes


async def test_cancelled_while_decoding_frees_its_rows(start: Any, source: Source) -> None:
    rig = await start()
    beams = DecodingOptions(max_new_tokens=400, min_new_tokens=400, num_beams=4)
    [task] = await rig.begin(EngineRequest(source(1, 9), math.inf, options=beams))
    async with aclosing(rig.engine.stream([EngineRequest(source(2, 9), math.inf, options=LONG)])) as stream:
        await anext(stream)
        await anext(stream)  # so the earlier request decodes too
        assert rig.value("kv_slots_used") == 5
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await rig.is_quiet()
    assert rig.value("decode_step_seconds_count") < 400, "it was left, not finished"


async def test_abandoned_stream_frees_its_row(start: Any, source: Source) -> None:
    rig = await start()

    async def read() -> None:
        async for _ in rig.engine.stream([EngineRequest(source(1, 9), math.inf, options=LONG)]):
            reading.set()

    reading = asyncio.Event()
    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rig.is_quiet()
    assert rig.value("decode_step_seconds_count") < 400


async def test_remaining_callers_get_their_results_while_others_leave(start: Any, source: Source, alone: Alone) -> None:
    rig = await start(max_batch_tokens=300, max_decode_rows=8, max_queued_requests=300)
    requests = [mixed_request(1000 + seed, source) for seed in range(300)]

    places = asyncio.Semaphore(40)  # arrivals are spread over the work: one when another has ended

    async def ask(request: EngineRequest) -> EngineResult:
        async with places:
            return await rig.engine.run(request)

    async def leave(number: int) -> None:
        await asyncio.wait([tasks[number - number % 37]])  # while it decodes, encodes, waits, or has not come yet
        tasks[number].cancel()

    tasks = [asyncio.create_task(ask(request)) for request in requests]
    leaving = [leave(number) for number in range(0, len(requests), 3)]
    answers, _ = await asyncio.gather(
        asyncio.gather(*tasks, return_exceptions=True),
        asyncio.gather(*leaving),
    )
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        if isinstance(answer, asyncio.CancelledError):
            assert number % 3 == 0
        else:
            assert_same(answer, alone(request))
    assert await rig.is_quiet()


async def test_deadline_passes_in_the_queue(start: Any, source: Source, pause: Any, clock: Any) -> None:
    rig = await start()
    paused = pause(rig.model.encoder)
    first = asyncio.create_task(rig.engine.run(EngineRequest(source(1, 5), math.inf, heads=("topic",))))
    await paused.reached()
    [late] = await rig.begin(EngineRequest(source(2, 5), clock.now + 5, heads=("topic",)))
    clock.now += 5
    paused.release()
    with pytest.raises(DeadlineExceeded):
        await late
    await first
    assert await rig.is_quiet()


async def test_deadline_passes_while_decoding(start: Any, source: Source, clock: Any) -> None:
    rig = await start()
    stream = rig.engine.stream([EngineRequest(source(1, 9), clock.now + 5, options=LONG)])
    await anext(stream)
    clock.now += 6
    with pytest.raises(DeadlineExceeded):
        async for _ in stream:
            pass
    assert await rig.is_quiet()
    assert rig.value("decode_step_seconds_count") < 400


async def test_refusal_says_when_to_retry_by_the_rate_of_results(
    start: Any, source: Source, pause: Any, clock: Any
) -> None:
    rig = await start(max_queued_requests=1)
    running = rig.engine.stream([EngineRequest(source(1, 9), math.inf, options=LONG)])  # busy all the time
    await anext(running)
    await rig.engine.run(EngineRequest(source(2, 5), math.inf, heads=("topic",)))
    clock.now += 20
    paused = pause(rig.model.encoder)
    encoding = asyncio.create_task(rig.engine.run(EngineRequest(source(3, 5), math.inf, heads=("topic",))))
    await paused.reached()
    await until(lambda: rig.value("queue_requests") == 0)
    [waiting] = await rig.begin(EngineRequest(source(4, 5), math.inf, heads=("topic",)))
    with pytest.raises(Overloaded) as refused:
        await rig.engine.run(EngineRequest(source(5, 5), math.inf, heads=("topic",)))
    assert refused.value.retry_after_s == 60, "three have no answer, one was answered in 20 s"
    paused.release()
    await asyncio.gather(encoding, waiting)
    await running.aclose()
    assert await rig.is_quiet()


async def test_full_queue_is_refused_and_a_list_is_taken_whole_or_not_at_all(
    start: Any, source: Source, pause: Any
) -> None:
    rig = await start(max_queued_requests=3)
    paused = pause(rig.model.encoder)
    requests = [EngineRequest(source(seed, 5), math.inf, heads=("topic",)) for seed in range(5)]
    tasks = [asyncio.create_task(rig.engine.run(requests[0]))]
    await paused.reached()
    await until(lambda: rig.value("queue_requests") == 0)
    tasks += await rig.begin(*requests[1:3])
    with pytest.raises(Overloaded) as refused:
        await rig.engine.run_all(requests[3:])
    assert refused.value.retry_after_s >= 1
    assert rig.value("queue_requests") == 2, "nothing of the list was taken"
    tasks += await rig.begin(requests[3])
    with pytest.raises(Overloaded):
        rig.engine.stream([EngineRequest(source(9, 5), math.inf, options=LONG)])
    paused.release()
    assert len(await asyncio.gather(*tasks)) == 4
    assert await rig.is_quiet()


async def test_drain_finishes_what_is_accepted_and_refuses_what_is_new(
    start: Any, source: Source, pause: Any, alone: Alone
) -> None:
    rig = await start()
    paused = pause(rig.model.encoder)
    requests = [mixed_request(seed, source) for seed in range(8)]
    tasks = [asyncio.create_task(rig.engine.run(request)) for request in requests]
    await paused.reached()
    draining = asyncio.create_task(rig.engine.drain(30))
    await until(lambda: rig.engine.state == "draining")
    with pytest.raises(EngineStopped):
        await rig.engine.run(requests[0])
    paused.release()
    await draining
    for request, task in zip(requests, tasks, strict=True):
        assert_same(await task, alone(request))


async def test_drain_fails_what_it_has_no_time_for(start: Any, source: Source) -> None:
    rig = await start()
    stream = rig.engine.stream([EngineRequest(source(1, 9), math.inf, options=LONG)])
    await anext(stream)
    [waiting] = await rig.begin(EngineRequest(source(2, 9), math.inf, options=LONG))
    await rig.engine.drain(0)
    with pytest.raises(EngineStopped):
        await waiting
    with pytest.raises(EngineStopped):
        async for _ in stream:
            pass
    assert [rig.value(name) for name in ("queue_requests", "queue_tokens", "kv_slots_used")] == [0, 0, 0]


async def test_stopped_engine_refuses(start: Any, source: Source) -> None:
    rig = await start()
    await rig.engine.drain(0)
    with pytest.raises(EngineStopped):
        await rig.engine.run(EngineRequest(source(1, 5), math.inf, heads=("topic",)))


async def test_summary_of_one_token_is_answered(
    start: Any, source: Source, model: LexiMind, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TorchBackend.step

    def eager_to_end(*args: Any) -> torch.Tensor:
        logits = step(*args)
        logits[:, model.config.eos_id] += 1e4
        return logits

    monkeypatch.setattr(TorchBackend, "step", eager_to_end)
    rig = await start()
    options = DecodingOptions(max_new_tokens=8, min_new_tokens=1)
    for seed in range(2):  # the engine lives on
        summary = (await rig.engine.run(EngineRequest(source(seed, 6), math.inf, options=options))).summary
        assert (len(summary.token_ids), summary.finish_reason) == (1, "stop")


async def test_metrics_count_what_was_done(start: Any, source: Source) -> None:
    rig = await start(max_decode_rows=32)
    options = DecodingOptions(max_new_tokens=10, min_new_tokens=10)
    await rig.engine.run_all(
        [
            EngineRequest(source(1, 40), math.inf, options=options),
            EngineRequest(source(2, 30), math.inf, heads=("emotions",)),
            EngineRequest(source(3, 40), math.inf, heads=("emotions", "topic")),
        ]
    )
    assert rig.value("input_tokens_sum") == 110
    assert rig.value("output_tokens_count") == 1
    assert rig.value("time_to_first_token_seconds_count") == 1
    assert rig.value("time_per_output_token_seconds_count") == 1
    waited = {"priority": "interactive"}
    assert [rig.value("queue_wait_seconds_count", task=task, **waited) for task in ("summarize", "emotions")] == [1, 1]
    assert rig.value("queue_wait_seconds_count", task="several", **waited) == 1
    assert rig.value("encode_batch_tokens_sum") == 120
    assert rig.value("padding_ratio_sum") == pytest.approx(10 / 120)
    assert rig.value("decode_batch_rows_sum") == rig.value("decode_step_seconds_count")
    assert rig.value("kv_slots_total") == 32
