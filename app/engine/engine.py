"""The engine as the event loop sees it: admission, results, streams, cancellation, draining.

Owns the one thread that may use the model. Everything here runs on the loop that called `start`; commands go to the
thread through a queue, and its updates come back in one call an iteration, so that no lock is needed.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

from app.engine.admission import Admission
from app.engine.backlog import Backlog
from app.engine.request import EngineError, EngineRequest, EngineResult, EngineStopped, Job, Priority, Update
from app.engine.runner import Runner, gpu_memory_bytes
from app.engine.scheduler import Scheduler
from app.engine.worker import Cancel, Stop, Worker
from app.metrics import Metrics
from app.telemetry import trace_var
from model.storage.checkpoint import ServedCheckpoint

if TYPE_CHECKING:  # it runs without pydantic, too
    from app.settings import Settings

logger = logging.getLogger(__name__)

State = Literal["loading", "ready", "draining", "failed"]
_PREPARED_TOKENS = 256  # of a summary; the first that needs more has every graph recorded anew
_JOIN_S = 5.0  # longer than a decode step, shorter than an orchestrator's patience


# What one caller reads: (key, token or end) of each of its jobs; bounded by their max_new_tokens.
_Channel = asyncio.Queue[tuple[int, int | EngineResult | EngineError]]


class Engine:
    """Runs requests on one checkpoint's model, batching whatever is queued, within the limits of `settings`.

    Use it from one event loop: `start`, then any number of `run`, `run_all` and `stream` at once, then `drain`. Each
    accepted request gets one result or one `EngineError`, unless its caller has left. `state` is for health checks,
    `clock` is the one that deadlines are on, `backlog` estimates when a refused request may be retried. `on_failure`
    is called if it fails once it was ready.
    """

    def __init__(
        self,
        checkpoint: ServedCheckpoint,
        settings: "Settings",
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.state: State = "loading"
        self.on_failure = on_failure
        self.clock = clock
        self._checkpoint = checkpoint
        self._settings = settings
        self._metrics = metrics
        self._runner = Runner(checkpoint.backend, checkpoint.tasks.heads, drafts=settings.drafts)
        self._scheduler = Scheduler(
            max_batch_tokens=settings.max_batch_tokens,
            max_decode_rows=settings.max_decode_rows,
            max_stall_s=settings.max_stall_s,
            max_batch_work_rows=settings.max_batch_work_rows,
        )
        self._worker = Worker(self._scheduler, self._runner, metrics, clock, self._publish)
        self._thread = threading.Thread(target=self._run, name="leximind-model", daemon=True)
        self._jobs: dict[int, tuple[Job, _Channel]] = {}  # accepted and not ended
        self._queued: set[int] = set()  # keys of those that are not encoded yet
        self._next_key = 0
        self._num_holds = 0
        self.backlog = Backlog(clock)
        self._unanswered = self.backlog.add_stage()
        self._admission = Admission(
            max_requests=settings.max_queued_requests,
            max_tokens=settings.max_queued_tokens,
            metrics=metrics,
            retry_after_s=self.backlog.retry_after_s,
        )

    async def start(self) -> None:
        """Start the thread and warm the model up; afterwards the engine is ready.

        Raises:
            EngineError: the model fails at a minimal request.
        """
        self._loop = asyncio.get_running_loop()
        self._is_warm = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._set_gauges()
        self._thread.start()
        await self._is_warm.wait()
        if self.state == "failed":
            await asyncio.to_thread(self._thread.join, _JOIN_S)  # which holds the weights
            raise EngineError("the model fails at a minimal request; the log has its traceback")

    @property
    def busy_s(self) -> float:
        """Seconds since the present batch or step began; 0.0 between two, and while the model warms up."""
        since = self._worker.busy_since
        return 0.0 if since is None else self.clock() - since

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, finish what is accepted within `timeout_s`, fail the rest and stop. Call it once."""
        if not self._thread.is_alive():
            return
        self.state = "draining"
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_idle.wait()
        except TimeoutError:
            logger.warning("stopping with %d requests unanswered", len(self._jobs))
        self._worker.commands.put(Stop())
        await asyncio.to_thread(self._thread.join, _JOIN_S)
        self._fail_all(EngineStopped("the engine stopped before the answer was complete; ask again"))

    def check_room(self, num_requests: int, priority: Priority) -> None:
        """Refuse at once what will be as many requests at least, and is not worth preparing.

        Raises:
            Overloaded: the queue is too full for them, whatever their lengths.
        """
        self._admission.check(num_requests, num_requests, priority)

    async def run(self, request: EngineRequest) -> EngineResult:
        """The result of `request`. Cancelling the awaiting task cancels the request.

        Raises:
            Overloaded: the queue is full; nothing was started.
            DeadlineExceeded: `request.deadline` passed first.
            EngineStopped: the engine is not started, is draining, or failed.
            EngineError: the model failed at it.
        """
        return (await self.run_all([request]))[0]

    async def run_all(
        self,
        requests: Sequence[EngineRequest],
        *,
        goes_on: bool = False,
        on_result: Callable[[int], None] = lambda _: None,
    ) -> list[EngineResult]:
        """The results of `requests`, in order: all are accepted or none, and the first failure cancels the others.

        `goes_on` as in `stream`. `on_result` is called after each with how many there are.

        Raises:
            EngineError: as `run`.
        """
        channel, keys = self._admit(requests, streams=False, goes_on=goes_on)
        results: dict[int, EngineResult] = {}
        try:
            while len(results) < len(keys):
                key, item = await channel.get()
                if isinstance(item, EngineError):
                    raise item
                if isinstance(item, EngineResult):
                    results[key] = item
                    on_result(len(results))
            return [results[key] for key in keys]
        finally:
            self._cancel(keys)

    def stream(
        self, requests: Sequence[EngineRequest], *, goes_on: bool = False
    ) -> AsyncGenerator[tuple[int, int | EngineResult], None]:
        """Accepts all of `requests` at once or none; the generator yields their tokens as they are decoded, then the
        result of each, every one with the request's position.

        Tokens are buffered for a slow reader, who delays no other. Beams yield their tokens at the end. Closing the
        generator cancels the requests (`contextlib.aclosing`); one that is never iterated runs to its end unread. With
        `goes_on` they are a further round of what was accepted before (see `hold`), and no limit refuses them.

        Raises:
            EngineError: as `run`; what follows acceptance is raised while iterating.
        """
        return self._follow(*self._admit(requests, streams=True, goes_on=goes_on))

    async def _follow(
        self, channel: _Channel, keys: Sequence[int]
    ) -> AsyncGenerator[tuple[int, int | EngineResult], None]:
        try:
            num_open = len(keys)
            while num_open:
                key, item = await channel.get()
                if isinstance(item, EngineError):
                    raise item
                num_open -= isinstance(item, EngineResult)
                yield key - keys[0], item
        finally:
            self._cancel(keys)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """For work of several rounds: until its end the engine is not idle, so that a drain waits for the next round,
        which is accepted with `goes_on`."""
        self._num_holds += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._num_holds -= 1
            self._set_idle()

    def _admit(
        self, requests: Sequence[EngineRequest], *, streams: bool, goes_on: bool = False
    ) -> tuple[_Channel, list[int]]:
        if self.state != "ready" and not (goes_on and self.state == "draining"):
            raise EngineStopped(f"the engine is {self.state}; ask again when it is ready")
        num_tokens = sum(len(request.input_ids) for request in requests)
        priority = requests[0].priority  # one caller's are all of one
        if not goes_on:
            self._admission.check(len(requests), num_tokens, priority)
        channel: _Channel = asyncio.Queue()
        now, trace = self.clock(), trace_var.get()
        jobs = tuple(
            Job(
                key=self._next_key + place,
                request=request,
                num_tokens=self._runner.padded_length(len(request.input_ids)),
                accepted_at=now,
                place=place,
                streams=streams,
                stages=None if trace is None else trace.begin("queue", place=place, tokens=len(request.input_ids)),
            )
            for place, request in enumerate(requests)
        )
        keys = [job.key for job in jobs]
        self._next_key += len(jobs)
        self._unanswered.accept(len(jobs))
        self._jobs |= {job.key: (job, channel) for job in jobs}
        self._queued |= set(keys)
        self._is_idle.clear()
        self._admission.enter(len(jobs), num_tokens, priority)
        for request in requests:
            self._metrics.input_tokens.observe(len(request.input_ids))
        self._worker.commands.put(jobs)
        return channel, keys

    def _deliver(self, updates: list[Update]) -> None:
        for update in updates:
            if update.key not in self._jobs:  # its caller has left
                continue
            job, channel = self._jobs[update.key]
            self._leave_queue(job)
            if job.streams:
                for token_id in update.token_ids:
                    channel.put_nowait((update.key, token_id))
            if update.end is not None:
                self._unanswered.finish(1)
                channel.put_nowait((update.key, update.end))
                self._forget(job)

    def _cancel(self, keys: Sequence[int]) -> None:
        """Drop those of `keys` that have not ended."""
        if jobs := [self._jobs[key][0] for key in keys if key in self._jobs]:
            self._unanswered.drop(len(jobs))
            for job in jobs:
                self._forget(job)
            self._worker.commands.put(Cancel(tuple(job.key for job in jobs)))

    def _fail_all(self, error: EngineError) -> None:
        self._unanswered.drop(len(self._jobs))
        for job, channel in list(self._jobs.values()):
            channel.put_nowait((job.key, type(error)(*error.args)))
            self._forget(job)

    def _forget(self, job: Job) -> None:
        self._leave_queue(job)
        if job.stages is not None:
            job.stages.end()
        del self._jobs[job.key]
        self._set_idle()

    def _set_idle(self) -> None:
        if not self._jobs and not self._num_holds:
            self._is_idle.set()

    def _leave_queue(self, job: Job) -> None:
        if job.key in self._queued:
            self._queued.remove(job.key)
            self._admission.leave(len(job.request.input_ids), job.request.priority)

    def _set_gauges(self) -> None:
        """The functions hold counts alone: those of an engine that has ended keep none of its weights."""
        metrics, max_rows = self._metrics, self._settings.max_decode_rows
        admission, jobs, scheduler = self._admission, self._jobs, self._scheduler
        metrics.kv_slots_total.set(max_rows)
        metrics.num_requests_waiting.set_function(lambda: admission.num_requests)
        metrics.num_requests_running.set_function(lambda: len(jobs) - admission.num_requests)
        metrics.kv_cache_usage_perc.set_function(lambda: scheduler.num_rows / max_rows)
        for kind in ("allocated", "reserved", "total") if self._runner.on_gpu else ():
            device = self._checkpoint.backend.device
            metrics.gpu_memory_bytes.labels(kind).set_function(partial(gpu_memory_bytes, device, kind))

    # The thread's side: `_run`, and what it calls to be scheduled on the loop.

    def _run(self) -> None:
        has_failed = False
        try:
            if self._runner.on_gpu:
                source_length = self._checkpoint.tasks.max_source_tokens
                self._runner.prepare(self._settings.max_decode_rows, source_length, _PREPARED_TOKENS)
            self._runner.check()
            self._call(self._become_ready)
            self._worker.run()
        except Exception:
            logger.exception("the model thread ends")
            has_failed = True
        self._worker.publish_rows(0)
        if has_failed:
            self._call(self._become_failed)

    def _publish(self, updates: list[Update]) -> None:
        self._call(self._deliver, updates)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed without draining: no caller is left
            self._worker.commands.put(Stop())

    def _become_ready(self) -> None:
        if self.state == "loading":
            self.state = "ready"
        self._is_warm.set()

    def _become_failed(self) -> None:
        was_serving = self.state != "loading"
        self.state = "failed"
        self._fail_all(EngineStopped("the model failed and the engine stopped; the service must be restarted"))
        self._is_warm.set()
        if was_serving:
            self.on_failure()
