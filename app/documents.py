"""Questions about texts → answers, through the engine. Knows tokens and chunks, nothing of HTTP.

A long text is several chunks, and their answers become one:

- summary: the chunks' summaries in order, joined by a space. Nothing is summarised twice, so nothing is made up
  from what was already made up; a long text has a long summary, and `chunks` says why.
- a head's probabilities: as `model.probabilities.joined` says for its kind.
"""

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass

from app.chunks import work_of
from app.engine.engine import Engine
from app.engine.request import DeadlineExceeded, EngineAnswer, Overloaded
from app.metrics import Metrics
from app.planning import Plan, Planner, Question
from model.inference.decoding.options import DecodingResult, FinishReason
from model.probabilities import joined
from model.storage.checkpoint import Checkpoint
from model.tokenizer import IncrementalDecoder

# What takes longer (see `work_of`) is tokenized beside the event loop, which the rest holds up for three milliseconds.
_INLINE_WORK = 8_000
_MAX_WAITING_BYTES = 1_000_000  # of those texts: a second's work or less


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
    """What was asked of one text: a summary or None, and of each head the probabilities in the order of its labels."""

    summary: Summary | None
    scores: Mapping[str, tuple[float, ...]]


class Documents:
    """Answers questions about texts with one checkpoint through one engine.

    Raises:
        CheckpointError: as `Planner`.
    """

    def __init__(self, checkpoint: Checkpoint, engine: Engine, metrics: Metrics, max_tokens: int) -> None:
        """`max_tokens` as of `Planner`."""
        self._tokenizer = checkpoint.tokenizer
        self._kinds = {head.name: head.kind for head in checkpoint.tasks.heads}
        self._planner = Planner(checkpoint, max_tokens)
        self._engine = engine
        self._beside = ThreadPoolExecutor(1, "leximind-tokenizer")  # several would only slow the event loop
        self._waiting = engine.backlog.add_stage()  # bytes
        metrics.tokenizer_waiting_bytes.set_function(lambda: self._waiting.amount)
        metrics.tokenizer_waiting_bytes_limit.set(_MAX_WAITING_BYTES)

    async def plan(self, texts: Sequence[str], question: Question, deadline: float) -> list[Plan]:
        """`question` about each of `texts` as engine requests, due at `deadline` on the engine's clock.

        Raises:
            TextError, UnsupportedTask: as `Planner.plan`.
            Overloaded: too much text waits for the tokenizer.
            DeadlineExceeded: `deadline` passed before the tokenizer came to it.
        """
        if sum(map(work_of, texts)) <= _INLINE_WORK:
            return self._planner.plan(texts, question, deadline)
        num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if self._waiting.amount and self._waiting.amount + num_bytes > _MAX_WAITING_BYTES:
            retry_after_s = self._engine.backlog.retry_after_s()
            raise Overloaded(
                f"the tokenizer is busy: with this request {self._waiting.amount + num_bytes} bytes of text, "
                f"{_MAX_WAITING_BYTES} are allowed; retry in {retry_after_s} s",
                retry_after_s,
                "tokenizer",
            )
        self._waiting.accept(num_bytes)
        has_left = threading.Event()
        planning = self._beside.submit(self._planner.plan, texts, question, deadline, lambda: not has_left.is_set())
        loop = asyncio.get_running_loop()
        # Its bytes count until the work ends, which is later than its client's leaving.
        planning.add_done_callback(lambda _: _call(loop, self._waiting.finish, num_bytes))
        try:
            async with asyncio.timeout(deadline - self._engine.clock() if math.isfinite(deadline) else None):
                return await asyncio.wrap_future(planning)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the text was tokenized") from None
        finally:
            has_left.set()

    def close(self) -> None:
        """End the threads that tokenize; what they are at is finished."""
        self._beside.shutdown(wait=False)

    async def answer(self, plans: Sequence[Plan]) -> list[Answer]:
        """The answers, in order; all plans are admitted together or none.

        Raises:
            EngineError: refused, late or failed.
        """
        answers = iter(await self._engine.answer_all([request for plan in plans for request in plan.requests]))
        return [self._join(plan, [next(answers) for _ in plan.requests]) for plan in plans]

    async def stream(self, plan: Plan) -> AsyncGenerator[str | Answer, None]:
        """The summary in pieces as it is made, chunk after chunk, then the answer, whose text the pieces add up to.

        All chunks are admitted together, and made at once.

        Raises:
            EngineError: refused, late or failed, possibly after some pieces.
        """
        decoders = [IncrementalDecoder(self._tokenizer) for _ in plan.requests]
        made = [""] * len(decoders)  # of each chunk, and not told yet
        answers: dict[int, EngineAnswer] = {}
        current, has_text, separator = 0, False, ""
        async with aclosing(self._engine.stream(plan.requests)) as items:
            async for number, item in items:
                if isinstance(item, EngineAnswer):
                    answers[number] = item
                else:
                    made[number] += decoders[number].push(item)
                while current < len(made):
                    if made[current]:
                        yield separator + made[current]
                        made[current], has_text, separator = "", True, ""
                    if current not in answers:
                        break
                    current, separator = current + 1, " " if has_text else ""
        yield self._join(plan, [answers[number] for number in range(len(decoders))])

    def _join(self, plan: Plan, answers: Sequence[EngineAnswer]) -> Answer:
        lengths = [len(request.input_ids) for request in plan.requests]
        pairs = list(zip(lengths, answers, strict=True))
        scores: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
        for length, answer in pairs:
            for name, values in answer.scores.items():
                scores.setdefault(name, []).append((length, values))
        summaries = [(length, answer.summary) for length, answer in pairs if answer.summary is not None]
        return Answer(
            summary=self._summary(summaries) if summaries else None,
            scores={name: joined(chunks, self._kinds[name]) for name, chunks in scores.items()},
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


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[int], None], amount: int) -> None:
    with suppress(RuntimeError):  # the loop is closed, and nobody counts
        loop.call_soon_threadsafe(function, amount)
