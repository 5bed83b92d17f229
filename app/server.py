"""The app under uvicorn: the socket, signals, and how a process ends."""

import asyncio
import logging
import signal
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.api.keys import Gate
from app.keys import KeysError
from app.main import create_app
from app.service import Service
from app.settings import Settings, unknown_variables
from app.telemetry import configure_logging

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_GLANCE_S = 0.1
_GRACE_S = 5.0  # for telling those that were cut off at the drain's end that they were


class AddressError(Exception):
    """The address cannot be listened on."""


class ServingFailed(Exception):
    """The checkpoint could not be loaded; the message says why."""


def serve(settings: Settings) -> None:
    """Serve until a signal comes, then let requests in progress finish.

    Raises:
        AddressError: before anything is loaded.
        ServingFailed: the checkpoint could not be loaded.
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
    service: Service = app.state.service
    if service.failure is not None:
        raise ServingFailed(service.failure)


class _Server(uvicorn.Server):
    """uvicorn, whose shutdown first lets requests in progress finish within `drain_timeout_s`, then tells the rest."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        grace_s = settings.drain_timeout_s + _GRACE_S
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=int(grace_s) + 1,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=list(settings.trusted_proxies),
            )
        )
        self._service: Service = app.state.service
        self._gate: Gate = app.state.gate
        self._drain_timeout_s = settings.drain_timeout_s
        self._is_hurried = False

    def handle_failure(self) -> None:
        """End the process: there is nothing to serve."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end; Ctrl-C while requests in progress finish cuts them off, and they are told so."""
        if not self.should_exit:
            super().handle_exit(sig, frame)
        elif sig == signal.SIGINT:  # SIGTERM may come twice, by way of a parent
            self._is_hurried = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Read keys again whenever SIGHUP comes, then listen."""
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_keys)
        await super().startup(sockets)

    def _reload_keys(self) -> None:
        try:
            logger.info("SIGHUP: keys are read again", extra={"keys": self._gate.reload()})
        except KeysError as error:
            logger.error("SIGHUP: keys stay as they were: %s", error)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening; wait; cut off what is left; then the app's own shutdown."""
        self._service.begin_drain()
        if self._service.failure is None:
            extra = {"requests": len(self.server_state.tasks), "at_most_s": self._drain_timeout_s}
            logger.info("draining: requests in progress may finish; Ctrl-C cuts them off", extra=extra)
        cut_off = asyncio.create_task(self._cut_off())
        try:
            await super().shutdown(sockets)
        finally:
            cut_off.cancel()

    async def _cut_off(self) -> None:
        end = time.monotonic() + self._drain_timeout_s
        while time.monotonic() < end and not self._is_hurried:  # a signal's handler can do no more than say so
            await asyncio.sleep(min(_GLANCE_S, self._drain_timeout_s))
        if self.server_state.tasks:
            reason = "Ctrl-C came" if self._is_hurried else "drain_timeout_s is over"
            logger.warning("%s, and requests are still in progress; they are told so", reason)
        await self._service.drain(0.0)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Connections inherit it. asyncio sets it only on sockets whose protocol number is given, which these have not;
        # without it an answer's body waits 40 ms for the client's acknowledgement of its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise AddressError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port or --host"
        ) from None
