import asyncio
import math
import time
from collections.abc import AsyncIterator

import pytest

from app.documents import Answer, Documents
from app.engine.engine import Engine, EngineLimits
from app.engine.request import DeadlineExceeded, Overloaded
from app.metrics import Metrics
from app.planning import Plan, Question
from model.checkpoint import Checkpoint
from model.decoding.options import DecodingOptions

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
SENTENCES = [f"{NEWS} That was number {number} of all the records." for number in range(8)]
SHORT = DecodingOptions(max_new_tokens=6)


@pytest.fixture
async def documents(checkpoint: Checkpoint) -> AsyncIterator[Documents]:
    engine = Engine(checkpoint, EngineLimits(), Metrics())
    await engine.start()
    yield Documents(checkpoint, engine)
    await engine.drain(1.0)


async def ask(documents: Documents, *texts: str, question: Question) -> list[Answer]:
    return await documents.answer(await documents.plan(texts, question, math.inf))


async def test_long_text_joins_the_answers_of_its_chunks(documents: Documents, checkpoint: Checkpoint) -> None:
    everything = Question(("summarize", "emotions", "topic"), SHORT)
    [plan] = await documents.plan([" ".join(SENTENCES)], everything, math.inf)
    chunks = [checkpoint.tokenizer.decode(one.input_ids).removeprefix("summarize: ") for one in plan.requests]
    assert len(chunks) > 2
    [whole] = await documents.answer([plan])
    parts = await ask(documents, *chunks, question=everything)

    summaries = [part.summary for part in parts if part.summary]
    assert whole.summary is not None
    assert whole.summary.text == " ".join(summary.text for summary in summaries)
    assert whole.summary.chunks == len(chunks)
    assert whole.summary.input_tokens == sum(summary.input_tokens for summary in summaries)
    assert whole.summary.output_tokens == sum(summary.output_tokens for summary in summaries)

    emotions = [part.emotions for part in parts if part.emotions]
    assert whole.emotions == pytest.approx([max(of_label) for of_label in zip(*emotions, strict=True)], abs=1e-6)

    weights = [len(one.input_ids) for one in plan.requests]
    topics = [part.topic for part in parts if part.topic]
    means = [
        sum(w * p for w, p in zip(weights, column, strict=True)) / sum(weights) for column in zip(*topics, strict=True)
    ]
    assert whole.topic == pytest.approx(means, abs=1e-6)
    assert sum(whole.topic or ()) == pytest.approx(1.0, abs=1e-6)


async def test_topic_of_a_long_text_is_what_most_of_it_is_about(documents: Documents) -> None:
    question = Question(("topic",))
    short, long = await documents.plan(["Rain.", " ".join(SENTENCES[:2])], question, math.inf)
    parts = await documents.answer([short, long])
    weights = [plan.num_tokens for plan in (short, long)]
    assert weights[1] > 4 * weights[0]
    [whole] = await documents.answer([Plan((*short.requests, *long.requests))])
    columns = zip(*(part.topic for part in parts if part.topic), strict=True)
    means = [sum(w * p for w, p in zip(weights, column, strict=True)) / sum(weights) for column in columns]
    assert whole.topic == pytest.approx(means, abs=1e-6)


async def test_pieces_of_a_stream_add_up_to_its_answer(documents: Documents) -> None:
    for text in (NEWS, " ".join(SENTENCES)):
        [plan] = await documents.plan([text], Question(("summarize",), SHORT), math.inf)
        *pieces, last = [piece async for piece in documents.stream(plan)]
        assert [last] == await documents.answer([plan])
        assert isinstance(last, Answer)
        assert last.summary is not None
        assert "".join(map(str, pieces)) == last.summary.text


async def test_long_texts_are_planned_beside_the_event_loop(documents: Documents) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await documents.plan(["word. " * 30_000], Question(("topic",)), math.inf)
    ticking.cancel()
    assert ticks > 3


async def test_text_that_waits_for_the_tokenizer_is_bounded_and_due(documents: Documents) -> None:
    question = Question(("topic",))
    text = "word. " * 66_000
    waiting = [asyncio.create_task(documents.plan([text], question, math.inf)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(
        Overloaded, match="the tokenizer is busy: with this request 1188000 characters, 1000000"
    ) as told:
        await documents.plan([text], question, math.inf)
    assert told.value.retry_after_s == 1
    for one in waiting[1:]:  # who leaves makes room
        one.cancel()
    await asyncio.wait(waiting[1:])
    with pytest.raises(DeadlineExceeded, match="before the text was tokenized"):
        await documents.plan(["word. " * 2_000], question, time.monotonic() + 0.01)
    assert len(await waiting[0]) == 1
    assert len(await documents.plan([text], question, math.inf)) == 1
