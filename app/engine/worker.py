"""The loop of the thread that owns the model: reads commands, follows the scheduler, runs the model, publishes updates.

Knows no asyncio: commands come through a thread-safe queue, updates leave through a callback.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from app.engine.heap import Heap
from app.engine.request import DeadlineExceeded, DoesNotFit, EngineError, EngineRequest, EngineResult, Job, Update
from app.engine.runner import OutOfMemory, Runner
from app.engine.scheduler import Decode, Encode, Idle, Retry, Scheduler
from app.metrics import Metrics
from model.tasks import SUMMARIZE

logger = logging.getLogger(__name__)

_TRIM_EVERY_S = 10.0
_IDLE_TRIM_S = 2.0  # without work, after which freed memory is given back


@dataclass(frozen=True)
class Cancel:
    """Drop these jobs; their callers have left."""

    keys: tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """Drop everything and end."""


Command = tuple[Job, ...] | Cancel | Stop


class Worker:
    """Follows commands until a `Stop`; `publish` is called with the updates, those of one iteration together."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        metrics: Metrics,
        clock: Callable[[], float],
        publish: Callable[[list[Update]], None],
    ) -> None:
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self._scheduler = scheduler
        self._runner = runner
        self._metrics = metrics
        self._clock = clock
        self._publish = publish
        self._jobs: dict[int, Job] = {}
        self._first_token_at: dict[int, float] = {}
        self._heap = Heap(clock, _TRIM_EVERY_S)
        self._published_rows = 0
        self.busy_since: float | None = None  # when the present batch or step began; read by other threads

    def publish_rows(self, num_rows: int) -> None:
        """Set this worker's part of the gauge: during a reload another checkpoint's worker adds its own."""
        self._metrics.kv_slots_used.inc(num_rows - self._published_rows)
        self._published_rows = num_rows

    def run(self) -> None:
        """Run until a `Stop` comes. A model that fails at one batch fails that batch's requests, no others; where it is
        memory that does not suffice, the batch is tried again in parts, and fails what does not fit alone.

        Raises:
            Exception: what the model raised at a minimal request, after it had failed at others.
        """
        has_work = False
        while self._read_commands(wait=not has_work):
            has_work = self._iterate()
            self._heap.trim()

    def _read_commands(self, wait: bool) -> bool:
        """Execute every command in the queue, waiting for the first if `wait`; False after a `Stop`."""
        try:
            while True:
                command = self.commands.get(block=wait, timeout=_IDLE_TRIM_S)
                wait = False
                if isinstance(command, Stop):
                    return False
                if isinstance(command, Cancel):
                    self._drop(command.keys)
                else:
                    for job in command:
                        self._jobs[job.key] = job
                        self._scheduler.add(job)
        except Empty:
            return True

    def _iterate(self) -> bool:
        """Carry out one decision; False when there is nothing left to do."""
        now = self._clock()
        if late := self._scheduler.expired(now):
            self._fail(late, DeadlineExceeded, "the deadline passed before the answer was complete")
        decision = self._scheduler.decide(now)
        self.busy_since = self._clock()
        if isinstance(decision, Encode):
            self._encode(decision.keys)
        elif isinstance(decision, Decode):
            self._step()
        self.busy_since = None
        return not isinstance(decision, Idle)

    def _encode(self, keys: tuple[int, ...]) -> None:
        self.publish_rows(self._scheduler.num_rows)
        self._publish([Update(key) for key in keys])
        started_at = self._clock()
        for job in map(self._jobs.__getitem__, keys):
            labels = (_task(job.request), job.request.priority)
            if not self._scheduler.is_retried(job.key):
                self._metrics.queue_wait_seconds.labels(*labels).observe(started_at - job.accepted_at)
            if job.stages is not None:
                job.stages.enter("encode", batch_sources=len(keys))
        try:
            encoded = self._runner.encode({key: self._jobs[key].request for key in keys})
        except OutOfMemory as error:
            self._retry_encoding(keys, error)
            return
        except Exception:  # a model can raise anything; what decodes is unaffected
            self._recover(keys, "encoding")
            return
        seconds = self._clock() - started_at
        self._scheduler.record_encoding(encoded.padded_tokens, seconds)
        self._metrics.encode_seconds.observe(seconds)
        self._metrics.encode_batch_tokens.observe(encoded.padded_tokens)
        self._metrics.padding_ratio.observe(1 - encoded.num_tokens / encoded.padded_tokens)
        try:
            updates = self._runner.join(encoded)
        except OutOfMemory as error:
            self._retry_decoding({*keys, *self._scheduler.decoding}, error)
            return
        except Exception:
            self._recover({*keys, *self._scheduler.decoding}, "joining")
            return
        for job in map(self._jobs.__getitem__, keys):
            if job.stages is not None and job.num_rows:
                job.stages.enter("decode", batch_rows=self._scheduler.num_rows)
        self._report(updates)

    def _step(self) -> None:
        started_at, num_rows = self._clock(), self._scheduler.num_rows
        try:
            updates = self._runner.step()
        except OutOfMemory as error:
            self._retry_decoding(self._scheduler.decoding, error)
            return
        except Exception:
            self._recover(self._scheduler.decoding, "decoding")
            return
        self._metrics.decode_step_seconds.observe(self._clock() - started_at)
        self._metrics.decode_batch_rows.observe(num_rows)
        self._metrics.draft_tokens_proposed_total.inc(self._runner.num_drafted)
        self._metrics.draft_tokens_accepted_total.inc(self._runner.num_accepted)
        self._report(updates)

    def _retry_encoding(self, keys: Collection[int], error: OutOfMemory) -> None:
        num_sources = len({self._jobs[key].source for key in keys})
        if num_sources > 1:
            self._retry(keys, Retry(num_sources=num_sources // 2), error)
        else:
            self._retry(keys, Retry(alone=True), error, is_alone=not set(self._scheduler.decoding) - {*keys})

    def _retry_decoding(self, keys: Collection[int], error: OutOfMemory) -> None:
        """Begin anew with `keys`, which are all that is in flight: what grew when memory ended cannot be used."""
        self._runner.reset()
        num_rows = self._scheduler.num_rows
        self._retry(keys, Retry(num_rows=max(1, num_rows // 2)), error, is_alone=len(keys) == 1)

    def _retry(self, keys: Collection[int], bounds: Retry, error: OutOfMemory, *, is_alone: bool = False) -> None:
        jobs = [self._jobs[key] for key in keys]
        if not is_alone:
            logger.warning("memory does not suffice for %d requests at once; in parts: %s", len(jobs), error)
            self._scheduler.retry(jobs, bounds)
            for job in jobs:
                if job.stages is not None:
                    job.stages.enter("queue")
            self.publish_rows(self._scheduler.num_rows)
            return
        logger.error("memory does not suffice for one source alone: %s", error)
        for job in jobs:  # equal ones
            self._fail((job.key,), DoesNotFit, _size_of(job.request))

    def _recover(self, keys: Collection[int], doing: str) -> None:
        """Fail `keys` and go on with the others, if the model still answers at all."""
        logger.exception("%s failed; %d requests are lost", doing, len(keys))
        if doing != "encoding":
            self._runner.reset()
        self._fail(keys, EngineError, f"the model failed while {doing}; the request may be tried again")
        self._runner.check()

    def _report(self, updates: list[Update]) -> None:
        now = self._clock()
        # A job may have several updates, the last of which ends it: chosen before it is dropped.
        wanted = [update for update in updates if update.end is not None or self._jobs[update.key].streams]
        for update in updates:
            job = self._jobs[update.key]
            if job.request.options is not None:
                self._observe_summary(job, update, now)
            if update.end is not None:
                self._drop((update.key,))
        if wanted:
            self._publish(wanted)
        if failed := [str(update.end) for update in updates if isinstance(update.end, EngineError)]:
            logger.error("%s; so ended %d requests", failed[0], len(failed))
            self._runner.check()

    def _observe_summary(self, job: Job, update: Update, now: float) -> None:
        is_end = isinstance(update.end, EngineResult)
        if (update.token_ids or is_end) and job.key not in self._first_token_at:
            self._first_token_at[job.key] = now
            self._metrics.time_to_first_token_seconds.observe(now - job.accepted_at)
        if isinstance(update.end, EngineResult) and update.end.summary is not None:
            num_tokens = len(update.end.summary.token_ids)
            self._metrics.output_tokens.observe(num_tokens)
            if num_tokens > max(1, len(update.token_ids)):  # beams come all at once and have no gaps, nor has one token
                gap_s = (now - self._first_token_at[job.key]) / (num_tokens - 1)
                self._metrics.time_per_output_token_seconds.observe(gap_s)

    def _fail(self, keys: Collection[int], kind: type[EngineError], message: str) -> None:
        keys = tuple(keys)
        self._drop(keys)
        self._publish([Update(key, end=kind(message)) for key in keys])

    def _drop(self, keys: Collection[int]) -> None:
        self._runner.remove(keys)
        for key in keys:
            self._scheduler.remove(key)
            self._jobs.pop(key, None)
            self._first_token_at.pop(key, None)
        self.publish_rows(self._scheduler.num_rows)


def _size_of(request: EngineRequest) -> str:
    size, remedy = f"{len(request.input_ids)} tokens to read", "send a shorter text"
    if options := request.options:
        size += f", {options.num_beams} x {options.max_new_tokens} tokens to write (num_beams x max_new_tokens)"
        remedy += ", or ask for fewer beams or new tokens"
    return f"the request takes more memory than this server has, even alone: {size}; {remedy}"


def _task(request: EngineRequest) -> str:
    """The `task` label of the metrics."""
    names = (*([SUMMARIZE] if request.options is not None else ()), *request.heads)
    return names[0] if len(names) == 1 else "several"
