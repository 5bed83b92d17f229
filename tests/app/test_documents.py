import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator

import pytest
import torch

from app.answers import TextResult
from app.documents import Documents
from app.engine.engine import Engine
from app.engine.request import DeadlineExceeded, EngineStopped, Overloaded
from app.metrics import Metrics
from app.planning import Plan, TextError
from app.settings import Settings
from app.text_request import TextRequest
from model.inference.decoding.options import DecodingOptions
from model.storage.checkpoint import Checkpoint, load_served
from model.tokenizer import Tokenizer
from support.waiting import until

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
SENTENCES = [f"{NEWS} That was number {number} of all the records." for number in range(8)]
SHORT = DecodingOptions(max_new_tokens=6)


@pytest.fixture
async def documents(checkpoint: Checkpoint) -> AsyncIterator[Documents]:
    metrics = Metrics()
    served = load_served(checkpoint.folder, torch.device("cpu"), "float32")
    engine = Engine(served, Settings(), metrics)
    await engine.start()
    documents = Documents(checkpoint, engine, metrics, Settings(max_queued_tokens=2_000_000))
    yield documents
    await documents.close()
    await engine.drain(1.0)


async def ask(documents: Documents, *texts: str, request: TextRequest) -> list[TextResult]:
    return await documents.run(await documents.plan(texts, request, math.inf))


async def test_long_text_joins_the_answers_of_its_chunks(documents: Documents, checkpoint: Checkpoint) -> None:
    everything = TextRequest(("summarize", "emotions", "topic"), SHORT)
    [plan] = await documents.plan([" ".join(SENTENCES)], everything, math.inf)
    chunks = [checkpoint.tokenizer.decode(one.input_ids).removeprefix("summarize: ") for one in plan.requests]
    assert len(chunks) > 2
    [whole] = await documents.run([plan])
    parts = await ask(documents, *chunks, request=everything)

    summaries = [part.summary for part in parts if part.summary]
    assert whole.summary is not None
    assert whole.summary.summary == " ".join(summary.summary for summary in summaries)
    assert whole.summary.chunks == len(chunks)
    assert whole.summary.input_tokens == sum(summary.input_tokens for summary in summaries)
    assert whole.summary.output_tokens == sum(summary.output_tokens for summary in summaries)

    emotions = [part.scores["emotions"] for part in parts]
    highest = [max(of_label) for of_label in zip(*emotions, strict=True)]
    assert whole.scores["emotions"] == pytest.approx(highest, abs=1e-6)

    weights = [len(one.input_ids) for one in plan.requests]
    topics = [part.scores["topic"] for part in parts]
    means = [
        sum(w * p for w, p in zip(weights, column, strict=True)) / sum(weights) for column in zip(*topics, strict=True)
    ]
    assert whole.scores["topic"] == pytest.approx(means, abs=1e-6)
    assert sum(whole.scores["topic"]) == pytest.approx(1.0, abs=1e-6)


async def test_topic_of_a_long_text_is_what_most_of_it_is_about(documents: Documents) -> None:
    request = TextRequest(("topic",))
    short, long = await documents.plan(["Rain.", " ".join(SENTENCES[:2])], request, math.inf)
    parts = await documents.run([short, long])
    weights = [plan.num_tokens for plan in (short, long)]
    assert weights[1] > 4 * weights[0]
    [whole] = await documents.run([Plan((*short.requests, *long.requests))])
    columns = zip(*(part.scores["topic"] for part in parts), strict=True)
    means = [sum(w * p for w, p in zip(weights, column, strict=True)) / sum(weights) for column in columns]
    assert whole.scores["topic"] == pytest.approx(means, abs=1e-6)


async def test_pieces_of_a_stream_add_up_to_its_answer(documents: Documents) -> None:
    for text in (NEWS, " ".join(SENTENCES)):
        [plan] = await documents.plan([text], TextRequest(("summarize",), SHORT), math.inf)
        *pieces, last = [piece async for piece in documents.stream(plan)]
        assert [last] == await documents.run([plan])
        assert isinstance(last, TextResult)
        assert last.summary is not None
        assert "".join(map(str, pieces)) == last.summary.summary


async def test_long_texts_are_planned_off_the_event_loop(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    planning = asyncio.create_task(documents.plan(["word. " * 30_000], TextRequest(("topic",)), math.inf))
    assert await asyncio.to_thread(held.reached.wait, 30)
    assert not planning.done(), "the loop goes on while the text is tokenized"
    held.released.set()
    assert len(await planning) == 1


async def test_text_that_waits_for_the_tokenizer_is_bounded_and_due(documents: Documents) -> None:
    request = TextRequest(("topic",))
    text = "word. " * 66_000
    waiting = [asyncio.create_task(documents.plan([text], request, math.inf)) for _ in range(2)]
    await until(lambda: documents._waiting.amount == 2 * len(text))
    with pytest.raises(
        Overloaded, match="the tokenizer is busy: with this request 1188000 bytes of text, 1000000"
    ) as refused:
        await documents.plan([text], request, math.inf)
    assert refused.value.retry_after_s >= 1
    assert refused.value.place == "tokenizer"
    with pytest.raises(DeadlineExceeded, match="before the text was tokenized"):
        await documents.plan(["word. " * 2_000], request, time.monotonic() + 0.01)
    assert [len(await one) for one in waiting] == [1, 1]
    assert len(await documents.plan([text], request, math.inf)) == 1


async def test_tokenizer_s_thread_ends_with_the_service_and_fails_what_it_was_at(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, text = TextRequest(("topic",)), "word. " * 66_000
    held = Held(monkeypatch)
    running, queued = (asyncio.create_task(documents.plan([text], request, math.inf)) for _ in range(2))
    assert await asyncio.to_thread(held.reached.wait, 30)
    closing = asyncio.create_task(documents.close())
    assert await asyncio.to_thread(documents._is_closed.wait, 30)
    held.released.set()
    await closing
    for task in (running, queued):
        with pytest.raises(EngineStopped, match="the service stopped before the text was tokenized"):
            await task
    assert held.num_blocks <= 3, "it did not go on to the end of the text"
    assert not any(thread.is_alive() for thread in documents._executor._threads)
    with pytest.raises(EngineStopped):
        await documents.plan([text], request, math.inf)


class Held:
    """Stops the tokenizer at its next block until released, and counts its blocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.released, self.num_blocks = threading.Event(), threading.Event(), 0
        encode = Tokenizer.encode

        def held(tokenizer: Tokenizer, text: str) -> list[int]:
            self.num_blocks += 1
            self.reached.set()
            assert self.released.wait(30)
            return encode(tokenizer, text)

        monkeypatch.setattr(Tokenizer, "encode", held)


async def test_work_counts_until_it_ends_and_ends_when_its_client_has_left(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, text = TextRequest(("topic",)), "word. " * 66_000
    held = Held(monkeypatch)
    running, queued = (asyncio.create_task(documents.plan([text], request, math.inf)) for _ in range(2))
    assert await asyncio.to_thread(held.reached.wait, 30)
    for task in (running, queued):
        task.cancel()
    await asyncio.wait([running, queued])
    await until(lambda: documents._waiting.amount == len(text))  # what has begun still counts
    held.released.set()
    await until(lambda: not documents._waiting.amount)
    assert held.num_blocks <= 3, "the prompt, and the block that it was at"


async def test_event_loop_is_not_held_up_by_characters_of_many_tokens(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U+FDFA is three bytes and 33 tokens."""
    on_loop = threading.current_thread()
    longest = {True: 0, False: 0}
    encode = Tokenizer.encode

    def measured(tokenizer: Tokenizer, text: str) -> list[int]:
        token_ids = encode(tokenizer, text)
        is_inline = threading.current_thread() is on_loop
        longest[is_inline] = max(longest[is_inline], len(token_ids))
        return token_ids

    monkeypatch.setattr(Tokenizer, "encode", measured)
    for count in (100, 1_000, 5_000):
        await documents.plan(["\ufdfa" * count], TextRequest(("topic",)), math.inf)
    assert 0 < longest[True] < 12_000
    assert 0 < longest[False] < 4_000, "nor by the thread, a block at a time"


async def test_text_of_too_many_tokens_is_refused_before_it_is_read(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_tokens = 0
    encode = Tokenizer.encode

    def counted(tokenizer: Tokenizer, text: str) -> list[int]:
        nonlocal num_tokens
        token_ids = encode(tokenizer, text)
        num_tokens += len(token_ids)
        return token_ids

    monkeypatch.setattr(Tokenizer, "encode", counted)
    monkeypatch.setattr(documents._planner, "_max_tokens", 200_000)
    with pytest.raises(TextError, match="more than 200000 tokens in all") as refused:
        await documents.plan(["\ufdfa" * 200_000] * 3, TextRequest(("topic",)), math.inf)
    assert refused.value.index == 0
    assert num_tokens < 210_000, "of twenty million"
    num_tokens = 0
    request = TextRequest(("topic",), on_long="truncate")
    [plan] = await documents.plan(["\ufdfa" * 200_000], request, math.inf)
    assert plan.num_tokens == 64
    assert num_tokens < 10_000
