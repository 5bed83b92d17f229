"""The loop of the thread that owns the model: takes orders, asks the scheduler, drives the runner, tells the news.

Knows no asyncio: orders come through a thread-safe queue, news leave through a callback.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from app.engine.heap import Heap
from app.engine.request import DeadlineExceeded, EngineAnswer, EngineError, EngineRequest, News
from app.engine.runner import Runner
from app.engine.scheduler import Encode, Idle, Job, Scheduler, Step
from app.metrics import Metrics
from model.tasks import SUMMARIZE

logger = logging.getLogger(__name__)

_TRIM_EVERY_S = 10.0
_REST_S = 2.0  # without work, after which what is left to tidy up is


@dataclass(frozen=True)
class Work:
    """One accepted request. Keys grow with arrival; `streams` asks for news of every token, not of the end alone.

    `place` is that among the requests that were accepted together.
    """

    key: int
    request: EngineRequest
    accepted_at: float
    streams: bool
    place: int


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for these any more."""

    keys: tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """Leave everything and end."""


Order = tuple[Work, ...] | Cancel | Stop


class Worker:
    """Does what is ordered until told to stop; `tell` is called with the news as they come, a turn's together."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        metrics: Metrics,
        clock: Callable[[], float],
        tell: Callable[[list[News]], None],
    ) -> None:
        self.orders: SimpleQueue[Order] = SimpleQueue()
        self._scheduler = scheduler
        self._runner = runner
        self._metrics = metrics
        self._clock = clock
        self._tell = tell
        self._work: dict[int, Work] = {}
        self._first_token_at: dict[int, float] = {}
        self._heap = Heap(clock, _TRIM_EVERY_S)
        self._shown_rows = 0
        self.busy_since: float | None = None  # when the model began what it is at; read by other threads

    @property
    def num_rows(self) -> int:
        """Decoder rows in flight."""
        return self._scheduler.num_rows

    def show_rows(self, num_rows: int) -> None:
        """Rows in flight, as far as they are this worker's: another checkpoint's may work beside it for a while."""
        self._metrics.kv_slots_used.inc(num_rows - self._shown_rows)
        self._shown_rows = num_rows

    def run(self) -> None:
        """Work until a `Stop` comes. A model that fails at one batch fails that batch's requests, no others.

        Raises:
            Exception: what the model raised at a minimal request, after it had failed at others.
        """
        has_work = False
        while self._take_orders(wait=not has_work):
            has_work = self._turn()
            self._heap.give_back()

    def _take_orders(self, wait: bool) -> bool:
        """Obey every order at hand, the first of them waited for if `wait`; False when it is time to stop."""
        try:
            while True:
                order = self.orders.get(block=wait, timeout=_REST_S)
                wait = False
                if isinstance(order, Stop):
                    return False
                if isinstance(order, Cancel):
                    self._drop(order.keys)
                else:
                    for work in order:
                        self._queue(work)
        except Empty:
            return True

    def _queue(self, work: Work) -> None:
        request = work.request
        self._work[work.key] = work
        self._scheduler.add(
            Job(
                key=work.key,
                source=hash(request.input_ids),
                num_tokens=self._runner.padded_length(len(request.input_ids)),
                num_rows=request.options.num_beams if request.options else 0,
                deadline=request.deadline,
                place=work.place,
            )
        )

    def _turn(self) -> bool:
        """Carry out one decision; False when there is nothing left to do."""
        if late := self._scheduler.expired(self._clock()):
            self._fail(late, DeadlineExceeded, "the deadline passed before the answer was complete")
        decision = self._scheduler.decide()
        self.busy_since = self._clock()
        if isinstance(decision, Encode):
            self._encode(decision.keys)
        elif isinstance(decision, Step):
            self._step()
        self.busy_since = None
        return not isinstance(decision, Idle)

    def _encode(self, keys: tuple[int, ...]) -> None:
        self.show_rows(self._scheduler.num_rows)
        self._tell([News(key) for key in keys])
        started_at = self._clock()
        for work in map(self._work.__getitem__, keys):
            self._metrics.queue_wait_seconds.labels(_task(work.request)).observe(started_at - work.accepted_at)
        try:
            encoded = self._runner.encode({key: self._work[key].request for key in keys})
        except Exception:  # a model can raise anything; what decodes is untouched
            self._recover(keys, "encoding")
            return
        seconds = self._clock() - started_at
        self._scheduler.encoded(encoded.padded_tokens, seconds)
        self._metrics.encode_seconds.observe(seconds)
        self._metrics.encode_batch_tokens.observe(encoded.padded_tokens)
        self._metrics.padding_ratio.observe(1 - encoded.num_tokens / encoded.padded_tokens)
        try:
            news = self._runner.join(encoded)
        except Exception:
            self._recover({*keys, *self._scheduler.decoding}, "joining")
            return
        self._report(news)

    def _step(self) -> None:
        started_at, num_rows = self._clock(), self._scheduler.num_rows
        try:
            news = self._runner.step()
        except Exception:
            self._recover(self._scheduler.decoding, "decoding")
            return
        self._metrics.decode_step_seconds.observe(self._clock() - started_at)
        self._metrics.decode_batch_rows.observe(num_rows)
        self._report(news)

    def _recover(self, keys: Collection[int], doing: str) -> None:
        """Fail `keys` and go on with the others, if the model still answers at all."""
        logger.exception("%s failed; %d requests are lost", doing, len(keys))
        if doing != "encoding":
            self._runner.reset()
        self._fail(keys, EngineError, f"the model failed while {doing}; the request may be tried again")
        self._runner.check()

    def _report(self, news: list[News]) -> None:
        now = self._clock()
        for item in news:
            work = self._work[item.key]
            if work.request.options is not None:
                self._observe_summary(work, item, now)
            if item.answer is not None:
                self._drop((item.key,))
        if told := [item for item in news if item.answer is not None or self._work[item.key].streams]:
            self._tell(told)

    def _observe_summary(self, work: Work, item: News, now: float) -> None:
        is_end = isinstance(item.answer, EngineAnswer)
        if (item.token_ids or is_end) and work.key not in self._first_token_at:
            self._first_token_at[work.key] = now
            self._metrics.time_to_first_token_seconds.observe(now - work.accepted_at)
        if isinstance(item.answer, EngineAnswer) and item.answer.summary is not None:
            num_tokens = len(item.answer.summary.token_ids)
            self._metrics.output_tokens.observe(num_tokens)
            if num_tokens > max(1, len(item.token_ids)):  # beams come all at once and have no gaps, nor has one token
                gap_s = (now - self._first_token_at[work.key]) / (num_tokens - 1)
                self._metrics.time_per_output_token_seconds.observe(gap_s)

    def _fail(self, keys: Collection[int], kind: type[EngineError], message: str) -> None:
        keys = tuple(keys)
        self._drop(keys)
        self._tell([News(key, answer=kind(message)) for key in keys])

    def _drop(self, keys: Collection[int]) -> None:
        self._runner.remove(keys)
        for key in keys:
            self._scheduler.remove(key)
            self._work.pop(key, None)
            self._first_token_at.pop(key, None)
        self.show_rows(self._scheduler.num_rows)


def _task(request: EngineRequest) -> str:
    """The `task` label of the metrics."""
    names = (*([SUMMARIZE] if request.options is not None else ()), *request.heads)
    return names[0] if len(names) == 1 else "several"
