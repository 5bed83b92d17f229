"""The life of what answers: load a checkpoint onto its device, start the engine, drain. Knows nothing of HTTP."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from app.cores import usable_cores
from app.documents import Documents
from app.engine.engine import Engine, EngineLimits, State
from app.engine.request import EngineError
from app.metrics import Metrics
from app.settings import Settings, most_of
from model.checkpoint import Checkpoint, load_packed
from model.errors import ModelError
from model.native.library import is_available
from model.precision import Precision
from model.tasks import Tasks

logger = logging.getLogger(__name__)


class DeviceError(Exception):
    """The device that was asked for is not there."""


class NotReady(Exception):
    """Nothing can be answered now; the message says why."""


@dataclass(frozen=True)
class Loaded:
    """What is there once loading has succeeded."""

    checkpoint: Checkpoint
    engine: Engine
    documents: Documents


class Service:
    """One checkpoint's engine from loading to draining.

    `failure` says in words why `state` is `failed`, `told_failure` the same to clients, who need not know this
    machine's folders; tracebacks are in the log only. `on_failure` is called when it has come to that, in loading or
    later (`has_served` tells which), and nothing will be answered any more. While `is_leaving` it answers as ever, and
    readiness alone says that it soon will not.
    """

    def __init__(self, settings: Settings, on_failure: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self._on_failure = on_failure
        self.metrics = Metrics()
        self.failure: str | None = None
        self.has_served = False
        self.is_leaving = False
        self._is_draining = False
        self._loaded: Loaded | None = None

    @property
    def state(self) -> State:
        """What a health check is told."""
        if self.failure is not None:
            return "failed"
        if self._is_draining:
            return "draining"
        return "loading" if self._loaded is None else self._loaded.engine.state

    @property
    def told_failure(self) -> str | None:
        """`failure` without the folder that the checkpoint is in."""
        return self.failure and self.failure.replace(f"{self.settings.checkpoint.parent}/", "")

    @property
    def loaded(self) -> Loaded:
        """What answers.

        Raises:
            NotReady: it is loading, draining or failed.
        """
        if self._loaded is None or self.state != "ready":
            raise NotReady(self.told_failure or f"the service is {self.state}; ask again when /health/ready says ready")
        return self._loaded

    @property
    def hang(self) -> str | None:
        """Why the process should be restarted though it answers this: a step that takes longer than `watchdog_s`."""
        seconds, limit_s = self._loaded.engine.busy_s if self._loaded else 0.0, self.settings.watchdog_s
        if seconds <= limit_s:
            return None
        return f"the model has been at one step for {seconds:.0f} s; {limit_s:g} are allowed (watchdog_s)"

    def retry_after_s(self) -> int:
        """When to come back after a refusal, whichever limit it was."""
        return 1 if self._loaded is None else self._loaded.engine.backlog.retry_after_s()

    @property
    def tasks(self) -> Tasks | None:
        """What the checkpoint can do; None as long as it is not loaded."""
        return None if self._loaded is None else self._loaded.checkpoint.tasks

    async def load(self) -> None:
        """Load, start and warm up. Never raises: a failure is told by `state` and `failure`."""
        started_at = time.monotonic()
        try:
            checkpoint = await asyncio.to_thread(_load, self.settings)
            engine = Engine(checkpoint, _engine_limits(self.settings), self.metrics, on_failure=self._end)
            documents = Documents(checkpoint, engine, self.metrics, most_of(self.settings.max_queued_tokens))
            await engine.start()
        except (ModelError, DeviceError, EngineError) as error:
            logger.error("cannot serve: %s", error)
            self._fail(str(error))
            return
        except Exception:
            logger.critical("cannot serve %s", self.settings.checkpoint, exc_info=True)
            self._fail("loading failed in an unforeseen way; the log has the traceback")
            return
        self._loaded = Loaded(checkpoint, engine, documents)
        self.has_served = True
        facts = {"device": str(checkpoint.model.device), "dtype": checkpoint.model.precision}
        seconds = round(time.monotonic() - started_at, 2)
        logger.info("ready", extra={"checkpoint": checkpoint.name, **facts, "seconds": seconds})

    def _end(self) -> None:
        self._fail("the model failed, and the service must be restarted; the log has the traceback")

    def _fail(self, failure: str) -> None:
        self.failure = failure
        self._on_failure()

    def begin_drain(self) -> None:
        """Take nothing new; what is accepted goes on."""
        self._is_draining = True

    async def drain(self, timeout_s: float) -> None:
        """Finish what is accepted within `timeout_s`, fail the rest, stop the engine."""
        self.begin_drain()
        if self._loaded is not None:
            await self._loaded.engine.drain(timeout_s)


def _load(settings: Settings) -> Checkpoint:
    _limit_threads(settings.threads)
    device = _device(settings.device)
    # bfloat16 by torch on a CPU does not give the same tokens whatever they are batched with; the native kernels do.
    fitting: Precision = "bfloat16" if device.type == "cuda" or is_available("bfloat16") else "float32"
    precision = fitting if settings.dtype == "auto" else settings.dtype
    return load_packed(settings.checkpoint, device, precision)


def _limit_threads(asked: int) -> None:
    """Threads above the cores wait for each other in every layer: decoding takes 40 times as long."""
    cores, wanted = usable_cores(), asked or torch.get_num_threads()
    if asked > cores:
        message = "threads is %d, this process may use %d cores (affinity and CPU quota): it runs with %d"
        logger.warning(message, asked, cores, cores)
    torch.set_num_threads(min(wanted, cores))


def _device(name: str) -> torch.device:
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise DeviceError(
            f"device is {name}; this machine offers {num_gpus} CUDA devices: use cpu, auto or a lower number"
        )
    return device


def _engine_limits(settings: Settings) -> EngineLimits:
    return EngineLimits(
        max_queued_requests=settings.max_queued_requests,
        max_queued_tokens=settings.max_queued_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        max_decode_rows=settings.max_decode_rows,
    )
