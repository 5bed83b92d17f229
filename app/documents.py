"""Questions about texts → answers, through the engine. Knows tokens and chunks, nothing of HTTP.

A long text is several chunks, and their answers become one:

- summary: the chunks' summaries in order, joined by a space. Nothing is summarised twice, so nothing is made up
  from what was already made up; a long text has a long summary, and `chunks` says why.
- emotions: per label the highest probability of any chunk. A text in which one passage is angry has anger in it,
  however calm the rest; a mean would drown it.
- topic: the mean of the chunks' probabilities, weighted by their tokens. A topic is what most of the text is about.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.engine.engine import Engine
from app.engine.request import EngineAnswer, EngineRequest
from app.planning import Plan, Planner, Question
from model.checkpoint import Checkpoint
from model.decoding.options import DecodingResult, FinishReason
from model.tokenizer import IncrementalDecoder

# Longer texts than this are tokenized beside the event loop; shorter ones cost less than the hop to a thread.
_INLINE_CHARS = 20_000


@dataclass(frozen=True)
class Summary:
    """`finish_reason` is `length` when any chunk's summary was cut.

    `input_tokens` counts prompts and end tokens too; `output_tokens` leaves end tokens out.
    """

    text: str
    finish_reason: FinishReason
    input_tokens: int
    output_tokens: int
    chunks: int


@dataclass(frozen=True)
class Answer:
    """What was asked of one text; the rest is None. Probabilities are in the order of the checkpoint's labels."""

    summary: Summary | None
    emotions: tuple[float, ...] | None
    topic: tuple[float, ...] | None


class Documents:
    """Answers questions about texts with one checkpoint through one engine.

    Raises:
        CheckpointError: as `Planner`.
    """

    def __init__(self, checkpoint: Checkpoint, engine: Engine) -> None:
        self._tokenizer = checkpoint.tokenizer
        self._planner = Planner(checkpoint)
        self._engine = engine

    async def plan(self, texts: Sequence[str], question: Question, deadline: float) -> list[Plan]:
        """`question` about each of `texts` as engine requests, due at `deadline` on the engine's clock.

        Raises:
            TextError, UnsupportedTask: as `Planner.plan`.
        """
        if sum(map(len, texts)) <= _INLINE_CHARS:
            return self._planner.plan(texts, question, deadline)
        return await asyncio.to_thread(self._planner.plan, texts, question, deadline)

    async def answer(self, plans: Sequence[Plan]) -> list[Answer]:
        """The answers, in order; all plans are admitted together or none.

        Raises:
            EngineError: refused, late or failed.
        """
        answers = iter(await self._engine.answer_all([request for plan in plans for request in plan.requests]))
        return [self._join(plan, [next(answers) for _ in plan.requests]) for plan in plans]

    async def stream(self, plan: Plan) -> AsyncGenerator[str | Answer, None]:
        """The summary in pieces as it is made, chunk after chunk, then the answer, whose text the pieces add up to.

        Raises:
            EngineError: refused, late or failed, possibly after some pieces.
        """
        answers: list[EngineAnswer] = []
        has_text, separator = False, ""
        for request in plan.requests:
            async with aclosing(self._stream_one(request)) as items:
                async for item in items:
                    if isinstance(item, EngineAnswer):
                        answers.append(item)
                    elif item:
                        yield separator + item
                        has_text, separator = True, ""
            separator = " " if has_text else ""
        yield self._join(plan, answers)

    async def _stream_one(self, request: EngineRequest) -> AsyncGenerator[str | EngineAnswer, None]:
        decoder = IncrementalDecoder(self._tokenizer)
        async with aclosing(self._engine.stream(request)) as items:
            async for item in items:
                if isinstance(item, EngineAnswer):
                    yield decoder.finish()
                    yield item
                else:
                    yield decoder.push(item)

    def _join(self, plan: Plan, answers: Sequence[EngineAnswer]) -> Answer:
        lengths = [len(request.input_ids) for request in plan.requests]
        pairs = list(zip(lengths, answers, strict=True))
        emotions = [answer.emotions for answer in answers if answer.emotions is not None]
        topics = [(length, answer.topic) for length, answer in pairs if answer.topic is not None]
        summaries = [(length, answer.summary) for length, answer in pairs if answer.summary is not None]
        return Answer(
            summary=self._summary(summaries) if summaries else None,
            emotions=tuple(map(max, zip(*emotions, strict=True))) if emotions else None,
            topic=_weighted_mean(topics) if topics else None,
        )

    def _summary(self, summaries: Sequence[tuple[int, DecodingResult]]) -> Summary:
        results = [result for _, result in summaries]
        texts = [self._tokenizer.decode(result.token_ids) for result in results]
        return Summary(
            text=" ".join(text for text in texts if text),
            finish_reason="length" if any(result.finish_reason == "length" for result in results) else "stop",
            input_tokens=sum(length for length, _ in summaries),
            output_tokens=sum(len(result.token_ids) for result in results),
            chunks=len(summaries),
        )


def _weighted_mean(weighted: Sequence[tuple[int, tuple[float, ...]]]) -> tuple[float, ...]:
    total = sum(weight for weight, _ in weighted)
    columns = zip(*(values for _, values in weighted), strict=True)
    return tuple(sum(n * p for (n, _), p in zip(weighted, column, strict=True)) / total for column in columns)
