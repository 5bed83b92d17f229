"""Text requests → text results, through the engine. Knows tokens and chunks, nothing of HTTP.

A long text is several chunks, and their results become one:

- summary: the chunks' summaries in order, joined by a space. Nothing is summarized twice, so no error of one
  summary is carried into another; a long text has a long summary, and `chunks` says why. With `on_long` "reduce" the
  joined summaries are a text that is summarized like the first, in rounds, until it is short enough; no sentence is
  in it twice.
- a head's probabilities: as `model.probabilities.joined` says for its kind.
"""

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from app.answers import ChunkDetail, SummaryAnswer, TextResult
from app.chunks import tokenizing_cost
from app.engine.admission import half_of
from app.engine.engine import Engine
from app.engine.request import DeadlineExceeded, EngineResult, EngineStopped, Overloaded
from app.metrics import Metrics
from app.planning import Plan, PlanCancelled, Planner, TextRequest
from app.settings import Settings
from app.support import support_of
from app.telemetry import stage
from app.thresholds import ranked
from app.warnings import label_warnings
from model.inference.decoding.options import DecodingResult
from model.probabilities import joined, mean_by_tokens
from model.storage.checkpoint import Checkpoint
from model.support import folded, sentence_spans
from model.tokenizer import IncrementalDecoder

# What costs more (see `tokenizing_cost`) is tokenized in a thread; the rest delays the event loop by 3 ms at most.
_INLINE_COST = 8_000
_STOPPED = "the service stopped before the text was tokenized; ask again"
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How many of the chunks of a round are summarized; rounds count from 1."""

    round: int
    done: int
    chunks: int


Piece = str | Progress | TextResult


class Documents:
    """Runs text requests on one checkpoint through one engine.

    Raises:
        CheckpointError: as `Planner`.
    """

    def __init__(self, checkpoint: Checkpoint, engine: Engine, metrics: Metrics, settings: Settings) -> None:
        self._name = checkpoint.name
        self._tokenizer = checkpoint.tokenizer
        self._heads = {head.name: head for head in checkpoint.tasks.heads}
        self._planner = Planner(checkpoint, half_of(settings.max_queued_tokens))
        self._engine = engine
        self._executor = ThreadPoolExecutor(1, "leximind-tokenizer")  # several would only slow the event loop
        self._is_closed = threading.Event()
        self._max_waiting_bytes = settings.max_tokenizer_bytes
        self._waiting = engine.backlog.add_stage()  # bytes
        waiting = self._waiting  # without the rest, so that it can go
        metrics.tokenizer_waiting_bytes.set_function(lambda: waiting.amount)
        metrics.tokenizer_waiting_bytes_limit.set(self._max_waiting_bytes)

    async def plan(self, texts: Sequence[str], request: TextRequest, deadline: float) -> list[Plan]:
        """`request` for each of `texts` as engine requests, due at `deadline` on the engine's clock.

        Raises:
            TextError, UnsupportedTask: as `Planner.plan`.
            Overloaded: too much text waits for the tokenizer, or the queue is too full for as many texts.
            DeadlineExceeded: `deadline` passed before the texts were tokenized.
            EngineStopped: the service ends.
        """
        # Tokenizing what is refused afterwards took more than half of the cost of a refusal.
        self._engine.check_room(len(texts), request.priority)
        with stage("tokenize") as counts:
            plans = await self._plan(texts, request, deadline)
            counts |= {"texts": len(texts), "tokens": sum(plan.num_tokens for plan in plans)}
        return plans

    async def _plan(self, texts: Sequence[str], request: TextRequest, deadline: float) -> list[Plan]:
        if sum(map(tokenizing_cost, texts)) <= _INLINE_COST and not request.options.grounded:
            return self._planner.plan(texts, request, deadline)
        num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if self._waiting.amount and self._waiting.amount + num_bytes > self._max_waiting_bytes:
            retry_after_s = self._engine.backlog.retry_after_s()
            raise Overloaded(
                f"the tokenizer is busy: with this request {self._waiting.amount + num_bytes} bytes of text, "
                f"{self._max_waiting_bytes} are allowed; retry in {retry_after_s} s",
                retry_after_s,
                "tokenizer",
            )
        if self._is_closed.is_set():
            raise EngineStopped(_STOPPED)
        self._waiting.accept(num_bytes)

        def plan(is_wanted: Callable[[], bool]) -> list[Plan]:
            return self._planner.plan(texts, request, deadline, lambda: is_wanted() and not self._is_closed.is_set())

        # Its bytes count until the thread is done with it, which is later than its client's leaving.
        return await self._in_thread(plan, deadline, "tokenized", lambda: self._waiting.finish(num_bytes))

    async def _in_thread(
        self,
        work: Callable[[Callable[[], bool]], T],
        deadline: float,
        what: str,
        on_end: Callable[[], None] = lambda: None,
    ) -> T:
        """`work` in the thread, which is given whether its caller still waits for it; `on_end` follows it."""
        has_left = threading.Event()

        def is_wanted() -> bool:
            return not has_left.is_set()

        working = self._executor.submit(work, is_wanted)
        loop = asyncio.get_running_loop()
        working.add_done_callback(lambda _: _call(loop, on_end))
        try:
            async with asyncio.timeout(deadline - self._engine.clock() if math.isfinite(deadline) else None):
                return await asyncio.wrap_future(working)
        except TimeoutError:
            raise DeadlineExceeded(f"the deadline passed before the text was {what}") from None
        except PlanCancelled:
            raise EngineStopped(_STOPPED) from None
        finally:
            has_left.set()

    async def close(self) -> None:
        """Fail what waits for the tokenizer and end its thread, which takes a block's time."""
        self._is_closed.set()
        await asyncio.to_thread(self._executor.shutdown)

    async def run(
        self, plans: Sequence[Plan], on_progress: Callable[[Progress], None] = lambda _: None
    ) -> list[TextResult]:
        """The results, in order; all plans are admitted together or none.

        `on_progress` is called with what is done of the plans' chunks, then of each further round of a plan.

        Raises:
            EngineError: refused, late or failed.
        """
        with self._engine.hold():
            requests = [request for plan in plans for request in plan.requests]
            results = iter(
                await self._engine.run_all(
                    requests, on_result=lambda done: on_progress(Progress(1, done, len(requests)))
                )
            )
            joined = [self._join(plan, [next(results) for _ in plan.requests]) for plan in plans]
            if any(plan.reduction for plan in plans):
                joined = await self._last_rounds(plans, joined, on_progress)
            return await self._with_support(plans, joined)

    async def _last_rounds(
        self, plans: Sequence[Plan], first: Sequence[TextResult], on_progress: Callable[[Progress], None]
    ) -> list[TextResult]:
        try:
            async with asyncio.TaskGroup() as group:
                rounds = [
                    group.create_task(self._last_round(plan, result, on_progress))
                    for plan, result in zip(plans, first, strict=True)
                ]
        except BaseExceptionGroup as failures:  # the first has cancelled the others
            raise failures.exceptions[0] from None
        return [one.result() for one in rounds]

    async def _last_round(self, plan: Plan, first: TextResult, on_progress: Callable[[Progress], None]) -> TextResult:
        result = first
        async for item in self._further_rounds(plan, first):
            if isinstance(item, TextResult):
                result = item
            else:
                on_progress(item)
        return result

    async def _further_rounds(self, plan: Plan, first: TextResult) -> AsyncGenerator["Progress | TextResult", None]:
        """What is done of each round after the first, then its result; nothing where none is needed."""
        reduction, result, deadline = plan.reduction, first, plan.requests[0].deadline
        while reduction is not None and result.summary and result.summary.output_tokens > reduction.target_tokens:
            summary = result.summary
            next_round = partial(self._planner.next_round, summary.summary, reduction, deadline)
            with stage("tokenize"):
                requests = await self._in_thread(next_round, deadline, "tokenized")
            if not requests:
                return
            assert summary.rounds is not None
            rounds, done = summary.rounds + 1, dict[int, EngineResult]()
            async with aclosing(self._engine.stream(requests, goes_on=True)) as items:
                async for number, item in items:
                    if isinstance(item, EngineResult):
                        done[number] = item
                        yield Progress(rounds, len(done), len(requests))
            found = [one for number in range(len(requests)) if (one := done[number].summary)]
            update = {**self._text_of(found, without_repeats=True), "rounds": rounds}
            result = replace(result, summary=summary.model_copy(update=update))
            yield result

    def stream(self, plan: Plan) -> AsyncGenerator["Piece", None]:
        """As `run`, of one plan; before the result what it is made of, as it comes.

        Raises:
            EngineError: refused, late or failed, possibly after some pieces.
        """
        return self._rounds(plan) if plan.reduction else self._chunks(plan)

    async def _rounds(self, plan: Plan) -> AsyncGenerator["Piece", None]:
        """What is done of each round, then the summary in sentences, and the result."""
        with self._engine.hold():
            done: dict[int, EngineResult] = {}
            async with aclosing(self._engine.stream(plan.requests)) as items:
                async for number, item in items:
                    if isinstance(item, EngineResult):
                        done[number] = item
                        yield Progress(1, len(done), len(plan.requests))
            result = self._join(plan, [done[number] for number in range(len(plan.requests))])
            async with aclosing(self._further_rounds(plan, result)) as rounds:
                async for piece in rounds:
                    if isinstance(piece, TextResult):
                        result = piece
                    else:
                        yield piece
            [result] = await self._with_support([plan], [result])
            text, start = result.summary.summary if result.summary else "", 0
            for span in sentence_spans(text):
                yield text[start : span.end]
                start = span.end
            yield result

    async def _chunks(self, plan: Plan) -> AsyncGenerator["Piece", None]:
        """The summary as it is decoded, chunk after chunk, then the result, whose text the pieces add up to.

        All chunks are admitted together, and decoded at once.
        """
        decoders = [IncrementalDecoder(self._tokenizer) for _ in plan.requests]
        pending = [""] * len(decoders)  # of each chunk, and not yielded yet
        results: dict[int, EngineResult] = {}
        current, has_text, separator = 0, False, ""
        async with aclosing(self._engine.stream(plan.requests)) as items:
            async for number, item in items:
                if isinstance(item, EngineResult):
                    results[number] = item
                else:
                    pending[number] += decoders[number].push(item)
                while current < len(pending):
                    if pending[current]:
                        yield separator + pending[current]
                        pending[current], has_text, separator = "", True, ""
                    if current not in results:
                        break
                    current, separator = current + 1, " " if has_text else ""
        joined = self._join(plan, [results[number] for number in range(len(decoders))])
        yield (await self._with_support([plan], [joined]))[0]

    async def _with_support(self, plans: Sequence[Plan], results: list[TextResult]) -> list[TextResult]:
        """`results` with what backs their summaries, where that is wanted: found in the thread, as it takes a while.

        A service that ends finishes it: these requests were accepted.
        """
        if all(plan.supporting_text is None for plan in plans):
            return results

        def find(is_wanted: Callable[[], bool]) -> list[TextResult]:
            return [_with_support(plan, result, is_wanted) for plan, result in zip(plans, results, strict=True)]

        return await self._in_thread(find, plans[0].requests[0].deadline, "compared with its summary")

    def _join(self, plan: Plan, results: Sequence[EngineResult]) -> TextResult:
        lengths = [len(request.input_ids) for request in plan.requests]
        pairs = list(zip(lengths, results, strict=True))
        scores: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
        energies: dict[str, list[tuple[int, float]]] = {}
        for length, result in pairs:
            for name, values in result.scores.items():
                scores.setdefault(name, []).append((length, values))
            for name, value in result.energies.items():
                energies.setdefault(name, []).append((length, value))
        summaries = [(length, result.summary) for length, result in pairs if result.summary is not None]
        return TextResult(
            summary=self._summary(summaries, plan.reduction is not None) if summaries else None,
            details=None
            if plan.spans is None
            else tuple(self._detail(*pair) for pair in zip(plan.spans, results, strict=True)),
            scores={name: joined(chunks, self._heads[name].kind) for name, chunks in scores.items()},
            warnings=plan.warnings,
            head_warnings={
                name: label_warnings(self._heads[name], mean_by_tokens(chunks)) for name, chunks in energies.items()
            },
        )

    def _summary(self, summaries: Sequence[tuple[int, DecodingResult]], is_reduced: bool) -> SummaryAnswer:
        return SummaryAnswer(
            **self._text_of([result for _, result in summaries], without_repeats=is_reduced),
            input_tokens=sum(length for length, _ in summaries),
            chunks=len(summaries),
            model=self._name,
            rounds=1 if is_reduced else None,
        )

    def _text_of(self, results: Sequence[DecodingResult], *, without_repeats: bool) -> dict[str, Any]:
        """The members of a summary that its decoding decides."""
        text = " ".join(text for result in results if (text := self._tokenizer.decode(result.token_ids)))
        return {
            "summary": _without_repeats(text) if without_repeats else text,
            "finish_reason": "length" if any(result.finish_reason == "length" for result in results) else "stop",
            "output_tokens": sum(len(result.token_ids) for result in results),
        }

    def _detail(self, span: tuple[int, int], result: EngineResult) -> ChunkDetail:
        scores = {name: ranked(self._heads[name].labels, values) for name, values in result.scores.items()}
        summary = None if result.summary is None else self._tokenizer.decode(result.summary.token_ids)
        return ChunkDetail(start=span[0], end=span[1], summary=summary, scores=scores or None)


def _without_repeats(text: str) -> str:
    """`text` without the sentences that it has before."""
    sentences = [text[span.start : span.end] for span in sentence_spans(text)]
    kept: dict[str, str] = {}
    for sentence in sentences:
        kept.setdefault(" ".join(folded(sentence).split()), sentence)
    return text if len(kept) == len(sentences) else " ".join(kept.values())


def _with_support(plan: Plan, result: TextResult, is_wanted: Callable[[], bool]) -> TextResult:
    if plan.supporting_text is None or result.summary is None:
        return result

    def stop_unless_wanted() -> None:
        if not is_wanted():
            raise PlanCancelled

    support = support_of(result.summary.summary, plan.supporting_text, stop_unless_wanted)
    return replace(result, summary=result.summary.model_copy(update={"support": support}))


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed, and nothing is counted any more
        loop.call_soon_threadsafe(function)
