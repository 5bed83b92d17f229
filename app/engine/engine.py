"""The engine as the event loop sees it: admission, answers, streams, cancellation, draining.

Owns the one thread that may touch the model. Everything here runs on the loop that called `start`; orders go to
the thread through a queue, and its news come back in one call a turn, so that no lock is held anywhere.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from app.engine.admission import Admission
from app.engine.backlog import Backlog
from app.engine.request import EngineAnswer, EngineError, EngineRequest, EngineStopped, News
from app.engine.runner import Runner
from app.engine.scheduler import Scheduler
from app.engine.worker import Cancel, Stop, Work, Worker
from app.metrics import Metrics
from model.storage.checkpoint import ServedCheckpoint

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "draining", "failed"]
_PREPARED_TOKENS = 256  # of a summary; the first that asks for more has every graph recorded anew
_JOIN_S = 5.0  # longer than a decode step, shorter than an orchestrator's patience


@dataclass(frozen=True)
class EngineLimits:
    """How much the engine takes on.

    Of what is accepted and not yet encoded: `max_queued_requests` and `max_queued_tokens`, beyond which a request
    is refused. Of a batch: see `Scheduler`.
    """

    max_queued_requests: int = 1024
    max_queued_tokens: int = 262_144
    max_batch_tokens: int = 8192
    max_decode_rows: int = 64
    max_stall_s: float = 0.25


# What one caller listens to: (key, token or end) of each of its requests; bounded by their max_new_tokens.
_Channel = asyncio.Queue[tuple[int, int | EngineAnswer | EngineError]]


@dataclass
class _Ticket:
    """An accepted request that has no answer yet."""

    work: Work
    channel: _Channel
    is_queued: bool = True


class Engine:
    """Answers requests with one checkpoint's model, batching whatever is at hand.

    Use it from one event loop: `start`, then any number of `answer`, `answer_all` and `stream` at once, then
    `drain`. Each accepted request gets one answer or one `EngineError`, unless its caller has left. `state` is
    for health checks, `clock` is the one that deadlines are on, `backlog` tells who is refused when to come back.
    `on_failure` is called if it fails once it was ready.
    """

    def __init__(
        self,
        checkpoint: ServedCheckpoint,
        limits: EngineLimits,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.state: State = "loading"
        self.on_failure = on_failure
        self.clock = clock
        self._checkpoint = checkpoint
        self._limits = limits
        self._metrics = metrics
        self._runner = Runner(checkpoint.backend, checkpoint.tasks.heads)
        scheduler = Scheduler(
            max_batch_tokens=limits.max_batch_tokens,
            max_decode_rows=limits.max_decode_rows,
            max_stall_s=limits.max_stall_s,
        )
        self._worker = Worker(scheduler, self._runner, metrics, clock, self._tell)
        self._thread = threading.Thread(target=self._run, name="leximind-model", daemon=True)
        self._live: dict[int, _Ticket] = {}
        self._next_key = 0
        self.backlog = Backlog(clock)
        self._unanswered = self.backlog.add_stage()
        self._admission = Admission(
            max_requests=limits.max_queued_requests,
            max_tokens=limits.max_queued_tokens,
            metrics=metrics,
            retry_after_s=self.backlog.retry_after_s,
        )

    async def start(self) -> None:
        """Start the thread and warm the model up; afterwards the engine is ready.

        Raises:
            EngineError: the model cannot answer a minimal request.
        """
        self._loop = asyncio.get_running_loop()
        self._warm = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._publish_facts()
        self._thread.start()
        await self._warm.wait()
        if self.state == "failed":
            raise EngineError("the model fails at a minimal request; the log has its traceback")

    @property
    def busy_s(self) -> float:
        """How long the model has been at its present batch or step; 0.0 between two, and while it warms up."""
        since = self._worker.busy_since
        return 0.0 if since is None else self.clock() - since

    async def drain(self, timeout_s: float) -> None:
        """Refuse what is new, finish what is accepted within `timeout_s`, fail the rest and stop. Call it once."""
        if not self._thread.is_alive():
            return
        self.state = "draining"
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            logger.warning("stopping with %d requests unanswered", len(self._live))
        self._worker.orders.put(Stop())
        await asyncio.to_thread(self._thread.join, _JOIN_S)
        self._fail_all(EngineStopped("the engine stopped before the answer was complete; ask again"))

    async def answer(self, request: EngineRequest) -> EngineAnswer:
        """The answer to `request`. Cancelling the awaiting task cancels the work.

        Raises:
            Overloaded: the queue is full; nothing was started.
            DeadlineExceeded: `request.deadline` passed first.
            EngineStopped: the engine is not started, is draining, or failed.
            EngineError: the model failed at it.
        """
        return (await self.answer_all([request]))[0]

    async def answer_all(self, requests: Sequence[EngineRequest]) -> list[EngineAnswer]:
        """The answers to `requests`, in order: all are accepted or none, and the first failure cancels the others.

        Raises:
            EngineError: as `answer`.
        """
        channel, keys = self._admit(requests, streams=False)
        answers: dict[int, EngineAnswer] = {}
        try:
            while len(answers) < len(keys):
                key, item = await channel.get()
                if isinstance(item, EngineError):
                    raise item
                if isinstance(item, EngineAnswer):
                    answers[key] = item
            return [answers[key] for key in keys]
        finally:
            self._withdraw(keys)

    def stream(self, requests: Sequence[EngineRequest]) -> AsyncGenerator[tuple[int, int | EngineAnswer], None]:
        """Accepts all of `requests` at once or none; the generator gives their tokens as they are made, then the answer
        of each, every one with the request's place.

        Tokens wait for a slow reader and hold nobody up. Beams give their tokens at the end. Closing the
        generator cancels the work (`contextlib.aclosing`); one that is never begun runs to its end unheard.

        Raises:
            EngineError: as `answer`; what follows acceptance is raised while iterating.
        """
        return self._follow(*self._admit(requests, streams=True))

    async def _follow(
        self, channel: _Channel, keys: Sequence[int]
    ) -> AsyncGenerator[tuple[int, int | EngineAnswer], None]:
        try:
            num_open = len(keys)
            while num_open:
                key, item = await channel.get()
                if isinstance(item, EngineError):
                    raise item
                num_open -= isinstance(item, EngineAnswer)
                yield key - keys[0], item
        finally:
            self._withdraw(keys)

    def _admit(self, requests: Sequence[EngineRequest], *, streams: bool) -> tuple[_Channel, list[int]]:
        if self.state != "ready":
            raise EngineStopped(f"the engine is {self.state}; ask again when it is ready")
        num_tokens = sum(len(request.input_ids) for request in requests)
        self._admission.check(len(requests), num_tokens)
        channel: _Channel = asyncio.Queue()
        now = self.clock()
        works = tuple(
            Work(self._next_key + place, request, now, streams, place) for place, request in enumerate(requests)
        )
        self._next_key += len(works)
        self._unanswered.accept(len(works))
        self._live |= {work.key: _Ticket(work, channel) for work in works}
        self._quiet.clear()
        self._admission.enter(len(works), num_tokens)
        for request in requests:
            self._metrics.input_tokens.observe(len(request.input_ids))
        self._worker.orders.put(works)
        return channel, [work.key for work in works]

    def _deliver(self, news: list[News]) -> None:
        for item in news:
            if (ticket := self._live.get(item.key)) is None:  # its caller has left
                continue
            self._leave_queue(ticket)
            if ticket.work.streams:
                for token_id in item.token_ids:
                    ticket.channel.put_nowait((item.key, token_id))
            if item.answer is not None:
                self._unanswered.finish(1)
                ticket.channel.put_nowait((item.key, item.answer))
                self._forget(ticket)

    def _withdraw(self, keys: Sequence[int]) -> None:
        """Cancel what of `keys` has no answer yet."""
        if tickets := [self._live[key] for key in keys if key in self._live]:
            self._unanswered.drop(len(tickets))
            for ticket in tickets:
                self._forget(ticket)
            self._worker.orders.put(Cancel(tuple(ticket.work.key for ticket in tickets)))

    def _fail_all(self, error: EngineError) -> None:
        self._unanswered.drop(len(self._live))
        for ticket in list(self._live.values()):
            ticket.channel.put_nowait((ticket.work.key, type(error)(*error.args)))
            self._forget(ticket)

    def _forget(self, ticket: _Ticket) -> None:
        self._leave_queue(ticket)
        del self._live[ticket.work.key]
        if not self._live:
            self._quiet.set()

    def _leave_queue(self, ticket: _Ticket) -> None:
        if ticket.is_queued:
            ticket.is_queued = False
            self._admission.leave(len(ticket.work.request.input_ids))

    def _publish_facts(self) -> None:
        metrics, max_rows = self._metrics, self._limits.max_decode_rows
        metrics.kv_slots_total.set(max_rows)
        metrics.num_requests_waiting.set_function(lambda: self._admission.num_requests)
        metrics.num_requests_running.set_function(lambda: len(self._live) - self._admission.num_requests)
        metrics.kv_cache_usage_perc.set_function(lambda: self._worker.num_rows / max_rows)
        for kind in ("allocated", "reserved", "total") if self._runner.on_gpu else ():
            metrics.gpu_memory_bytes.labels(kind).set_function(partial(self._runner.memory_bytes, kind))

    # The thread's side: `_run`, and what it calls to be heard on the loop.

    def _run(self) -> None:
        has_failed = False
        try:
            if self._runner.on_gpu:
                source_length = self._checkpoint.tasks.max_source_tokens
                self._runner.prepare(self._limits.max_decode_rows, source_length, _PREPARED_TOKENS)
            self._runner.check()
            self._call(self._become_ready)
            self._worker.run()
        except Exception:
            logger.exception("the model thread ends")
            has_failed = True
        self._worker.show_rows(0)
        if has_failed:
            self._call(self._become_failed)

    def _tell(self, news: list[News]) -> None:
        self._call(self._deliver, news)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed without draining: nobody is left to hear
            self._worker.orders.put(Stop())

    def _become_ready(self) -> None:
        if self.state == "loading":
            self.state = "ready"
        self._warm.set()

    def _become_failed(self) -> None:
        was_serving = self.state != "loading"
        self.state = "failed"
        self._fail_all(EngineStopped("the model failed and the engine stopped; the service must be restarted"))
        self._warm.set()
        if was_serving:
            self.on_failure()
