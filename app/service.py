"""The life of a served checkpoint: load it onto its device, start the engine, drain. Knows nothing of HTTP."""

import asyncio
import contextlib
import gc
import logging
import math
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from app.cores import usable_cores
from app.documents import Documents
from app.engine.engine import Engine, State
from app.engine.heap import release_free_memory
from app.engine.request import EngineError
from app.metrics import Metrics
from app.settings import Settings
from model.choices import Precision
from model.devices import device_named
from model.errors import ModelError
from model.kernels.library import choose
from model.storage.checkpoint import ServedCheckpoint, default_precision, load_served, read_checkpoint
from model.tasks import Tasks

logger = logging.getLogger(__name__)

_SPARE_S = 5.0  # beyond the deadline, for answers that are being written
_LOAD_S = 5  # about what a small checkpoint takes


class NotReady(Exception):
    """No request is accepted now; the message says why, `retry_after_s` in how many seconds one may be."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Reloading(Exception):
    """Another checkpoint is being loaded, or the one before still has requests; the message says which."""


class Deployment:
    """A checkpoint in service, from its loading until the last of its requests has ended.

    `id` is the checkpoint's; `load_s` is how long loading took.
    """

    def __init__(self, checkpoint: ServedCheckpoint, engine: Engine, documents: Documents) -> None:
        self.checkpoint = checkpoint
        self.engine = engine
        self.documents = documents
        self.id = checkpoint.id
        self.loaded_at = datetime.now(UTC)
        self.load_s = 0.0
        self._num_users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._draining: asyncio.Task[None] | None = None

    def acquire(self) -> "Deployment":
        """A request begins, and keeps this checkpoint to its end; `release` follows."""
        self._num_users += 1
        self._unused.clear()
        return self

    def release(self) -> None:
        """A request has ended."""
        self._num_users -= 1
        if not self._num_users:
            self._unused.set()

    async def retire(self, timeout_s: float) -> None:
        """Drain once no request uses it, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._unused.wait()
        await self.drain(0.0)

    async def drain(self, timeout_s: float) -> None:
        """Finish what the engine has accepted within `timeout_s`, fail the rest, end all threads. Idempotent."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(timeout_s))
        await asyncio.shield(self._draining)

    async def _drain(self, timeout_s: float) -> None:
        await self.engine.drain(timeout_s)
        await self.documents.close()


_EXPECTED = (ModelError, EngineError, NotReady)


class Service:
    """One checkpoint's engine from loading to draining.

    `failure` says why `state` is `failed`, `public_failure` the same for clients, without this machine's folders;
    tracebacks are in the log only. `on_failure` is called once nothing will be answered any more, because loading
    failed or the model did later (`has_served` says which). While `is_leaving` requests are answered as before, and
    readiness alone is 503. `clock` is the one that deadlines are on.
    """

    def __init__(
        self,
        settings: Settings,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._on_failure = on_failure
        self.metrics = Metrics()
        self.failure: str | None = None
        self.has_served = False
        self.is_leaving = False
        self._is_draining = False
        self._is_reloading = False
        self._deployment: Deployment | None = None
        self._retiring: Deployment | None = None  # the checkpoint before, as long as it has requests
        self._ready_at: float | None = None  # as far as can be known, of the checkpoint that follows the one before
        self.metrics.ready.set_function(lambda: float(self.is_ready))

    @property
    def state(self) -> State:
        """As health checks give it."""
        if self.failure is not None:
            return "failed"
        if self._is_draining:
            return "draining"
        return "loading" if self._deployment is None else self._deployment.engine.state

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        return self.state == "ready" and not self.is_leaving

    @property
    def public_failure(self) -> str | None:
        """`failure` without the folder that the checkpoint is in."""
        return self.failure and self.failure.replace(f"{self.settings.checkpoint.parent}/", "")

    @property
    def deployment(self) -> Deployment:
        """The checkpoint for new requests.

        Raises:
            NotReady: it is loading, draining or failed.
        """
        if self._deployment is None or self.state != "ready":
            raise self._not_ready()
        return self._deployment

    def _not_ready(self) -> NotReady:
        reason = f"the service is {self.state}; ask again when /health/ready says ready"
        return NotReady(self.public_failure or reason, self._load_within_s())

    def _load_within_s(self) -> int:
        return _LOAD_S if self._ready_at is None else max(math.ceil(self._ready_at - self.clock()), 1)

    @property
    def hang(self) -> str | None:
        """Why the process should be restarted though it still responds: a step has taken longer than `watchdog_s`."""
        deployment, limit_s = self._deployment or self._retiring, self.settings.watchdog_s
        seconds = deployment.engine.busy_s if deployment else 0.0
        if seconds <= limit_s:
            return None
        return f"the model has been at one step for {seconds:.0f} s; {limit_s:g} are allowed (watchdog_s)"

    def retry_after_s(self) -> int:
        """Seconds after which a refused request may be retried, whichever limit it met."""
        if self._deployment is None:
            return self._load_within_s()
        return self._deployment.engine.backlog.retry_after_s()

    @property
    def tasks(self) -> Tasks | None:
        """What the checkpoint can do; None as long as it is not loaded."""
        return None if self._deployment is None else self._deployment.checkpoint.tasks

    @property
    def terms(self) -> str | None:
        """The terms of the checkpoint's weights; None as long as it is not loaded."""
        return None if self._deployment is None else self._deployment.checkpoint.terms

    @property
    def checkpoint_id(self) -> str | None:
        """`NAME@HASH` of the checkpoint for new requests."""
        return None if self._deployment is None else self._deployment.id

    async def load(self) -> None:
        """Load, start and warm up. Never raises: a failure is in `state` and `failure`."""
        try:
            self._swap(await self._start(self.settings.checkpoint))
        except (ModelError, EngineError) as error:
            logger.error("cannot serve: %s", error)
            self._fail(str(error))
        except Exception:
            logger.critical("cannot serve %s", self.settings.checkpoint, exc_info=True)
            self._fail("loading failed in an unforeseen way; the log has the traceback")

    async def reload(self, folder: Path | None = None) -> Deployment:
        """Serve the checkpoint in `folder`, by default that of the present folder again; returns it once it serves.

        It is loaded, verified and warmed up while the old one serves, so both are in memory until the requests of the
        old one are answered; or, with the setting `reload` "drain", once those are answered and the old one has given
        its memory back, while new requests are refused. When anything fails, the old one stays, or is loaded again.

        Raises:
            Reloading: another reload is not over, or the checkpoint before this one still has requests.
            NotReady: the service is loading, draining or failed, now or because the old one cannot be loaded again.
            ModelError, EngineError: the new checkpoint cannot be served.
        """
        if self._is_reloading:
            raise Reloading("another checkpoint is being loaded; ask again when that is over")
        if self._retiring is not None:
            raise Reloading(f"requests of {self._retiring.id} are still being answered; ask again when they are")
        folder, replace = folder or self.deployment.checkpoint.folder, self._replace
        if self.settings.reload == "drain":
            replace = self._replace_after_drain
        self._is_reloading = True
        try:
            new = await replace(folder)
        except Exception as error:
            self.metrics.reloads_total.labels("failed").inc()
            result = f"{self.checkpoint_id} stays" if self.checkpoint_id else "nothing is served"
            logger.error("%s: %s", result, error, exc_info=not isinstance(error, _EXPECTED))
            raise
        finally:
            self._is_reloading = False
        self.metrics.reloads_total.labels("done").inc()
        return new

    async def _replace(self, folder: Path) -> Deployment:
        new = await self._start_another(folder)
        self._retiring = self.deployment
        self._swap(new)
        self._retirement = asyncio.create_task(self._retire())
        return new

    async def _replace_after_drain(self, folder: Path) -> Deployment:
        await asyncio.to_thread(read_checkpoint, folder)  # most of what can be wrong, while the old one still serves
        old_folder, load_s = self.deployment.checkpoint.folder, self.deployment.load_s
        logger.info("draining for another checkpoint", extra={"checkpoint": self.checkpoint_id})
        self._ready_at = self.clock() + self.retry_after_s() + load_s
        self._retiring, self._deployment = self._deployment, None
        await self._retire()
        self._ready_at = self.clock() + load_s
        try:
            new = await self._start_another(folder)
        except NotReady:
            raise
        except Exception as error:
            logger.warning("%s cannot be served; the checkpoint before it is loaded again", folder)
            _drop_frames(error)
            _release_memory()
            self._ready_at = self.clock() + load_s
            await self._restore(old_folder, error)
            raise
        self._swap(new)
        return new

    async def _restore(self, folder: Path, reason: Exception) -> None:
        """Serve again what was served before; of the other there is the `reason` why it cannot be."""
        try:
            self._swap(await self._start_another(folder))
        except NotReady:
            raise
        except Exception as error:
            logger.critical("cannot serve %s again", folder, exc_info=True)
            self._fail(f"{_shown(reason)}; and the checkpoint before it cannot be loaded again: {_shown(error)}")
            raise self._not_ready() from None

    async def _start_another(self, folder: Path) -> Deployment:
        """As `_start`.

        Raises:
            NotReady: the service is ending.
        """
        self._check_not_ending()
        deployment = await self._start(folder)
        try:
            self._check_not_ending()
        except NotReady:
            await deployment.drain(0.0)
            raise
        return deployment

    def _check_not_ending(self) -> None:
        if self._is_draining or self.failure is not None:
            raise self._not_ready()

    async def _retire(self) -> None:
        assert self._retiring is not None
        await self._retiring.retire(self.settings.deadline_s + _SPARE_S)
        self._retiring = None
        _release_memory()

    async def _start(self, folder: Path) -> Deployment:
        started_at = self.clock()
        checkpoint = await asyncio.to_thread(_load, self.settings, folder)
        engine = Engine(checkpoint, self.settings, self.metrics, self.clock)
        documents = Documents(checkpoint, engine, self.metrics, self.settings)
        deployment = Deployment(checkpoint, engine, documents)
        engine.on_failure = partial(self._end, deployment)
        await engine.start()
        deployment.load_s = self.clock() - started_at
        facts = {"device": str(checkpoint.backend.device), "dtype": checkpoint.backend.precision}
        logger.info("terms of the weights of %s: %s", checkpoint.name, checkpoint.terms)
        logger.info("ready", extra={"checkpoint": deployment.id, **facts, "seconds": round(deployment.load_s, 2)})
        return deployment

    def _swap(self, new: Deployment) -> None:
        backend = new.checkpoint.backend
        self.metrics.model_info.clear()
        self.metrics.model_info.labels(new.checkpoint.name, backend.precision, str(backend.device)).set(1)
        self._deployment, self._ready_at = new, None
        self.has_served = True

    def _end(self, deployment: Deployment) -> None:
        if deployment is not self._deployment:  # one that retires, and has failed its requests
            return
        self._fail("the model failed, and the service must be restarted; the log has the traceback")

    def _fail(self, failure: str) -> None:
        self.failure = failure
        self._on_failure()

    def begin_drain(self) -> None:
        """Refuse new requests; what is accepted goes on."""
        self._is_draining = True

    async def drain(self, timeout_s: float) -> None:
        """Finish what is accepted within `timeout_s`, fail the rest, stop the engine."""
        self.begin_drain()
        ending = [one for one in (self._deployment, self._retiring) if one is not None]
        await asyncio.gather(*(one.drain(timeout_s) for one in ending))


def _shown(error: Exception) -> str:
    return str(error) if isinstance(error, _EXPECTED) else "an unforeseen error, which the log has"


def _drop_frames(error: BaseException | None) -> None:
    """What the frames of `error` and its causes hold, such as weights, which its traceback would keep."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _release_memory() -> None:
    """Return what an engine that has ended held: it, its thread and their callbacks form a cycle."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    release_free_memory()


def _load(settings: Settings, folder: Path) -> ServedCheckpoint:
    _limit_threads(settings.threads)
    return load_served(folder, *device_and_precision(settings))


def device_and_precision(settings: Settings) -> tuple[torch.device, Precision]:
    """Those to serve by on this machine, with the kernels that are set.

    Raises:
        ModelError: the machine does not offer the device or the kernels.
    """
    choose(settings.kernels)
    device = device_named(settings.device)
    return device, default_precision(device) if settings.dtype == "auto" else settings.dtype


def _limit_threads(threads: int) -> None:
    """Threads above the cores wait for each other in every layer: decoding takes 40 times as long."""
    cores, wanted = usable_cores(), threads or torch.get_num_threads()
    if threads > cores:
        message = "threads is %d, this process may use %d cores (affinity and CPU quota): it runs with %d"
        logger.warning(message, threads, cores, cores)
    torch.set_num_threads(min(wanted, cores))
