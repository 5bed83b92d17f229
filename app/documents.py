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
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from app.answers import ChunkDetail, SummaryAnswer, TextResult
from app.chunks import tokenizing_cost
from app.engine.admission import half_of
from app.engine.engine import Engine
from app.engine.request import DeadlineExceeded, EngineRequest, EngineResult, EngineStopped, Overloaded
from app.metrics import Metrics
from app.pieces import DistinctSentences, JoinedText, distinct_sentences
from app.planning import Plan, PlanCancelled, Planner
from app.settings import Settings
from app.support import support_of
from app.telemetry import stage
from app.text_request import TextRequest
from app.thresholds import ranked
from app.warnings import label_warnings
from model.inference.decoding.options import DecodingResult
from model.probabilities import joined, mean_by_tokens
from model.storage.checkpoint import Checkpoint

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
        async for piece in self._further_rounds(plan, first):
            if isinstance(piece, TextResult):
                result = piece
            elif isinstance(piece, Progress):
                on_progress(piece)
        return result

    async def _further_rounds(self, plan: Plan, first: TextResult) -> AsyncGenerator["Piece", None]:
        """The pieces of each round after the first and then its result; nothing where none is needed."""
        reduction, result, deadline = plan.reduction, first, plan.requests[0].deadline
        while reduction is not None and result.summary and result.summary.output_tokens > reduction.target_tokens:
            summary = result.summary
            next_round = partial(self._planner.next_round, summary.summary, reduction, deadline)
            with stage("tokenize"):
                requests = await self._in_thread(next_round, deadline, "tokenized")
            if not requests:
                return
            assert summary.rounds is not None
            rounds = summary.rounds + 1
            async with aclosing(self._round(requests, rounds, reduction.target_tokens)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, list):
                        found = [one.summary for one in piece if one.summary]
                        update = {**self._text_of(found, without_repeats=True), "rounds": rounds}
                        result = replace(result, summary=summary.model_copy(update=update))
                        yield result
                    else:
                        yield piece

    async def _round(
        self, requests: Sequence[EngineRequest], number: int, target_tokens: int
    ) -> AsyncGenerator["str | Progress | list[EngineResult]", None]:
        """What is done of a round, then its results.

        Once it is certain to be the last, because it cannot have more than `target_tokens` any more, its text comes
        instead as it is decoded.
        """
        text, sentences = JoinedText(self._tokenizer, len(requests)), DistinctSentences()
        unread: list[tuple[int, int | EngineResult]] = []  # as long as it is not certain
        done: dict[int, EngineResult] = {}
        is_last = _most_tokens(requests, done) <= target_tokens
        async with aclosing(self._engine.stream(requests, goes_on=number > 1)) as items:
            async for part, item in items:
                unread.append((part, item))
                if isinstance(item, EngineResult):
                    done[part] = item
                    is_last = is_last or _most_tokens(requests, done) <= target_tokens
                if is_last:
                    if new := sentences.push("".join(text.take(*one) for one in unread)):
                        yield new
                    unread = []
                elif isinstance(item, EngineResult):
                    yield Progress(number, len(done), len(requests))
        if is_last and (new := sentences.end()):
            yield new
        yield [done[part] for part in range(len(requests))]

    def stream(self, plan: Plan) -> AsyncGenerator["Piece", None]:
        """As `run`, of one plan; before the result what it is made of, as it comes.

        Raises:
            EngineError: refused, late or failed, possibly after some pieces.
        """
        return self._rounds(plan, plan.reduction.target_tokens) if plan.reduction else self._chunks(plan)

    async def _rounds(self, plan: Plan, target_tokens: int) -> AsyncGenerator["Piece", None]:
        """What is done of each round, of the last the summary as it is decoded, then the result."""
        result: TextResult | None = None
        is_written = False
        with self._engine.hold():
            async with aclosing(self._round(plan.requests, 1, target_tokens)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, list):
                        result = self._join(plan, piece)
                        continue
                    is_written = is_written or isinstance(piece, str)
                    yield piece
            assert result is not None
            async with aclosing(self._further_rounds(plan, result)) as further:
                async for item in further:
                    if isinstance(item, TextResult):
                        result = item
                        continue
                    is_written = is_written or isinstance(item, str)
                    yield item
            [result] = await self._with_support([plan], [result])
            if not is_written and result.summary and result.summary.summary:
                yield result.summary.summary  # there was nothing to make it shorter from
            yield result

    async def _chunks(self, plan: Plan) -> AsyncGenerator["Piece", None]:
        """The summary as it is decoded, chunk after chunk, then the result, whose text the pieces add up to.

        All chunks are admitted together, and decoded at once.
        """
        text = JoinedText(self._tokenizer, len(plan.requests))
        results: dict[int, EngineResult] = {}
        async with aclosing(self._engine.stream(plan.requests)) as items:
            async for part, item in items:
                if isinstance(item, EngineResult):
                    results[part] = item
                if new := text.take(part, item):
                    yield new
        joined = self._join(plan, [results[part] for part in range(len(plan.requests))])
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
            "summary": distinct_sentences(text) if without_repeats else text,
            "finish_reason": "length" if any(result.finish_reason == "length" for result in results) else "stop",
            "output_tokens": sum(len(result.token_ids) for result in results),
        }

    def _detail(self, span: tuple[int, int], result: EngineResult) -> ChunkDetail:
        scores = {name: ranked(self._heads[name].labels, values) for name, values in result.scores.items()}
        summary = None if result.summary is None else self._tokenizer.decode(result.summary.token_ids)
        return ChunkDetail(start=span[0], end=span[1], summary=summary, scores=scores or None)


def _most_tokens(requests: Sequence[EngineRequest], done: Mapping[int, EngineResult]) -> int:
    """How many tokens the summaries of `requests` can have in all, of which these are done."""
    most = 0
    for part, request in enumerate(requests):
        if part not in done:
            most += request.options.max_new_tokens if request.options else 0
        elif summary := done[part].summary:
            most += len(summary.token_ids)
    return most


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
