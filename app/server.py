"""The app under uvicorn: the socket, signals, and how a process ends."""

import asyncio
import functools
import logging
import math
import signal
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.api.context import app_context
from app.connections import (
    ACCEPTED_AT_ONCE,
    Connection,
    ConnectionLimits,
    Connections,
    Listener,
    connection_limit,
    quiet_exception_handler,
)
from app.keys import KeysError
from app.main import create_app
from app.service import NotReady, Reloading
from app.settings import Settings, unknown_variables
from app.telemetry import configure_logging

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_GRACE_S = 5.0  # for the answers to requests that were cut off at the drain's end


class AddressError(Exception):
    """The address cannot be listened on."""


class ServingFailed(Exception):
    """The checkpoint could not be loaded, or the model failed for good (`has_served`); the message says why."""

    def __init__(self, message: str, *, has_served: bool) -> None:
        super().__init__(message)
        self.has_served = has_served


def serve(settings: Settings) -> None:
    """Serve until a signal comes, then let requests in progress finish.

    Raises:
        AddressError: before anything is loaded.
        ServingFailed: the checkpoint could not be loaded, or the model failed for good.
    """
    configure_logging(settings.log_level, as_json=settings.log_json)
    for name in unknown_variables():
        logger.warning("%s is no setting and changes nothing; leximind serve --help shows all", name)
    listener = _listen(settings.host, settings.port)
    with listener:
        app = create_app(settings, on_failure=lambda: server.handle_failure())
        server = _Server(app, settings)
        host, port = listener.getsockname()[:2]
        logger.info("listening", extra={"url": f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"})
        server.run(sockets=[listener])
    service = app_context(app).service
    if service.failure is not None:
        raise ServingFailed(service.failure, has_served=service.has_served)


class _Server(uvicorn.Server):
    """uvicorn, whose shutdown lets requests in progress finish within `drain_timeout_s`; the rest are answered 503."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        grace_s = settings.drain_timeout_s + _GRACE_S
        context = app_context(app)
        self._service, self._access = context.service, context.access
        limits = ConnectionLimits(
            max_connections=connection_limit(settings.max_connections),
            header_timeout_s=settings.header_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            write_timeout_s=settings.write_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
        )
        self._connections = Connections(limits, self._service.metrics)
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(Connection, connections=self._connections),  # type: ignore[arg-type]
                ws="none",
                loop="asyncio",  # `Listener` relies on it
                backlog=ACCEPTED_AT_ONCE,
                log_config=None,
                access_log=False,
                lifespan="on",
                timeout_keep_alive=math.ceil(settings.idle_timeout_s),
                timeout_graceful_shutdown=int(grace_s) + 1,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=list(settings.trusted_proxies),
            )
        )
        self._drain_timeout_s = settings.drain_timeout_s
        self._shutdown_delay_s = settings.shutdown_delay_s
        self._is_interrupted = False
        self._signal: int | None = None

    def handle_failure(self) -> None:
        """End the process: there is nothing to serve."""
        self.should_exit = True

    def handle_exit(self, sig: int, _: FrameType | None) -> None:
        """Begin the shutdown; Ctrl-C while it waits for requests in progress fails them with an answer that says so."""
        self._signal = sig
        if not self.should_exit:
            self.should_exit = True
        elif sig == signal.SIGINT:  # SIGTERM may come twice, by way of a parent
            self._is_interrupted = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, watch the connections' time limits until the process ends, and reload on SIGHUP."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(quiet_exception_handler())
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._watch = asyncio.create_task(self._connections.watch())
        await super().startup(sockets)

    def _reload(self) -> None:
        try:
            logger.info("SIGHUP: keys are read again", extra={"keys": self._access.reload()})
        except KeysError as error:
            logger.error("SIGHUP: keys stay as they were: %s", error)
        self._reloading = asyncio.create_task(self._reload_checkpoint())

    async def _reload_checkpoint(self) -> None:
        try:
            deployment = await self._service.reload()
            logger.info("SIGHUP: the checkpoint is loaded again", extra={"checkpoint": deployment.id})
        except (Reloading, NotReady) as error:
            logger.warning("SIGHUP: the checkpoint is not loaded again: %s", error)
        except Exception:  # the service has logged it, and answers as before
            return

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Fail readiness probes; stop listening; wait; fail the remaining requests; then the app's own shutdown."""
        await self._leave()
        self._service.begin_drain()
        self._connections.is_draining = True
        if self._service.failure is None:
            extra = {"requests": len(self.server_state.tasks), "at_most_s": self._drain_timeout_s}
            logger.info("draining: requests in progress may finish; Ctrl-C cuts them off", extra=extra)
        cut_off = asyncio.create_task(self._cut_off())
        try:
            await super().shutdown(sockets)
        finally:
            cut_off.cancel()
            self._watch.cancel()

    async def _leave(self) -> None:
        """Answer as before for `shutdown_delay_s`, so that load balancers notice before requests are refused."""
        self._service.is_leaving = self._connections.is_leaving = True
        if not self._shutdown_delay_s or self._service.failure is not None:
            return
        logger.info("not ready any more; requests are accepted for a while", extra={"seconds": self._shutdown_delay_s})
        end = time.monotonic() + self._shutdown_delay_s
        while (left_s := end - time.monotonic()) > 0 and not self._is_interrupted and self._service.failure is None:
            await asyncio.sleep(min(_POLL_S, left_s))

    async def _cut_off(self) -> None:
        end = time.monotonic() + self._drain_timeout_s
        while time.monotonic() < end and not self._is_interrupted:  # a signal handler can only set a flag
            await asyncio.sleep(min(_POLL_S, self._drain_timeout_s))
        if self.server_state.tasks:
            reason = "Ctrl-C came" if self._is_interrupted else "drain_timeout_s is over"
            logger.warning("%s, and requests are still in progress; they fail", reason)
            if self._signal is not None:  # uvicorn raises it again at the end: the process did not end as it should
                self._captured_signals.append(self._signal)
        await self._service.drain(0.0)


def _listen(host: str, port: int) -> Listener:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = Listener(fileno=socket.create_server((host, port), family=family).detach())
        # Connections inherit it. asyncio sets it only on sockets whose protocol number is given, which these have not;
        # without it an answer's body waits 40 ms for the client's acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise AddressError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port or --host"
        ) from None
