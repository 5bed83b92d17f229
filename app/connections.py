"""HTTP connections within limits: uvicorn's httptools protocol, and what it leaves unbounded.

The only file that knows uvicorn's internals; `tests/app/test_connections.py` fails when they move. Knows no route.
"""

import asyncio
import contextlib
import errno
import logging
import resource
import socket
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import httptools
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.api.context import context_of
from app.api.problems import Problem
from app.metrics import Metrics

logger = logging.getLogger("leximind.access")

_SWEEP_S = 0.25
# A client that is cut off while it sends sees a broken connection and not the answer, so what it still sends is read
# for so long and thrown away.
_LINGER_S = 2.0
# While draining: how long a connection without a request stays open, so that a client that is about to send gets an
# answer and no reset, and how long unfinished bodies and unread answers may delay the end of the process.
_DRAIN_IDLE_S = 1.0
_DRAIN_BODY_S = 5.0
_DRAIN_WRITE_S = 2.0
_SLOW_READER_S = 1.0  # at the limit of connections, all of which unread answers could otherwise occupy
_MAX_HEAD_BYTES = 64 * 1024
_MAX_HEADERS = 128  # each is looked at several times: 16,000 empty ones take 50 ms
# A callback each. Clients that stream send a chunk per write, which may be a few bytes.
_MAX_BODY_CHUNKS = 65_536
# Of a socket at a time, asyncio's default being 256 KiB: what is parsed in one go stops the loop.
_READ_BYTES = 64 * 1024
_MAX_PIPELINED_REQUESTS = 128  # 2 kB each; a read of 64 KiB can hold 3,600, which stop the loop for 0.15 s
_MAX_PIPELINED = 1  # with more, reading pauses; it must not with the first, or a disconnect would go unnoticed

_RESERVED_DESCRIPTORS = 128  # for libraries, checkpoints, logs and what is accepted between two rounds of the loop
_DEFAULT_CONNECTIONS = 4096  # unless the setting says otherwise
ACCEPTED_AT_ONCE = 32
_BACKLOG = 2048
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LOG_EVERY_S = 60.0


@dataclass(frozen=True)
class ConnectionLimits:
    """Counts and seconds; `write_timeout_s` is the time that a client may leave sent bytes unread, in all."""

    max_connections: int
    header_timeout_s: float
    body_timeout_s: float
    write_timeout_s: float
    idle_timeout_s: float


class Connections:
    """All connections of a server: how many there may be, and which is closed for a new one."""

    def __init__(self, limits: ConnectionLimits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self.is_leaving = False  # answers are their connections' last
        self.is_draining = False
        self._open: set[Connection] = set()
        # Without a complete request; the one that has been so for longest comes first.
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        metrics.open_connections.set_function(lambda: len(self._open))
        metrics.open_connections_limit.set(limits.max_connections)

    def add(self, connection: "Connection") -> bool:
        """Whether it may stay: at the limit the longest idle is closed, then the slowest reader; else the new one."""
        if len(self._open) >= self.limits.max_connections:
            outgoing = next(iter(self._waiting), None) or self._slowest_reader()
            if outgoing is None:
                return False
            self.discard(outgoing)
            outgoing.transport.abort()
        self._open.add(connection)
        self._waiting[connection] = None
        return True

    def discard(self, connection: "Connection") -> None:
        """It is closed, or about to be."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def set_waiting(self, connection: "Connection", is_waiting: bool) -> None:
        """Whether it has no complete request."""
        if not is_waiting:
            self._waiting.pop(connection, None)
        elif connection in self._open:
            self._waiting[connection] = None

    def _slowest_reader(self) -> "Connection | None":
        slowest = max(self._open, key=lambda connection: connection.unread_s)
        return slowest if slowest.unread_s > _SLOW_READER_S else None

    async def watch(self) -> None:
        """Close connections over a time limit, for ever. One sweep instead of a timer for each state of each one."""
        loop = asyncio.get_running_loop()
        swept_at = loop.time()
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = loop.time()
            for connection in list(self._open):
                try:
                    connection.check(now, now - swept_at)
                except Exception:  # of one connection; without the sweep none would have a time limit any more
                    logger.exception("a connection could not be checked, and is closed")
                    self.discard(connection)
                    connection.transport.abort()
            swept_at = now


class _Reading(Enum):
    NOTHING = "between requests"
    HEAD = "request line and headers"
    BODY = "body"


class Connection(HttpToolsProtocol):
    """One connection of `connections`; the rest as uvicorn."""

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = connections
        self._running: RequestResponseCycle | None = None  # `cycle` is the newest, which may wait in `pipeline`
        self._reading = _Reading.NOTHING
        self._had_request = False
        self._since = self.loop.time()
        self._num_head_bytes = 0
        self._num_chunks = 0
        self.unread_s = 0.0
        self._refused_at: float | None = None
        self._refusal: Problem | None = None

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept it, or refuse it at the limit of connections."""
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES
        if not self._connections.add(self):
            limit = self._connections.limits.max_connections
            detail = (
                f"{limit} connections have requests in progress, {limit} are allowed (max_connections); retry in 1 s"
            )
            self._refuse(Problem(503, detail, "overloaded", headers={"Retry-After": "1"}))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request in progress, which uvicorn forgets when another waits behind it."""
        self._connections.discard(self)
        self._leave_running()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse what is no HTTP or too much of it."""
        if self._refused_at is not None:
            return
        self._unset_keepalive_if_required()
        self._num_head_bytes += len(data)
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as end_of_head:
                    data = self._head_without_upgrade() + data[end_of_head.args[0] :]
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or Problem(400, f"not an HTTP request: {error}; send HTTP/1.1"))
            return
        if self._reading is not _Reading.NOTHING and self._num_head_bytes > _MAX_HEAD_BYTES:
            part = "headers" if self._reading is _Reading.HEAD else "trailers or a chunk's extensions"
            self._refuse(Problem(431, f"the {part} have more than {_MAX_HEAD_BYTES} bytes; send fewer or shorter ones"))

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._begin_reading(_Reading.HEAD)
        self._had_request = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; a trailer is left out, which is not used and must not be taken for a header."""
        if self._reading is _Reading.BODY:
            return
        super().on_header(name, value)
        if len(self.headers) > _MAX_HEADERS:
            self._refusal = Problem(431, f"there are more than {_MAX_HEADERS} headers; send fewer")
            raise ValueError(self._refusal.detail)  # ends the parser's loop

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind the one in progress."""
        if self.parser.should_upgrade():
            return  # it comes again
        if len(self.pipeline) >= _MAX_PIPELINED_REQUESTS:
            detail = f"more than {_MAX_PIPELINED_REQUESTS} requests wait on this connection; read answers in between"
            self._refusal = Problem(429, detail, "overloaded", headers={"Retry-After": "1"})
            raise ValueError(detail)  # ends the parser's loop
        super().on_headers_complete()
        self._begin_reading(_Reading.BODY)
        if self._connections.is_leaving:
            self.cycle.keep_alive = False
        if 0 < len(self.pipeline) <= _MAX_PIPELINED:
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """A part of the body, one per chunk or read."""
        self._num_head_bytes = 0  # what counts as head from here is what comes between chunks and behind the last
        self._num_chunks += 1
        if self._num_chunks > _MAX_BODY_CHUNKS:
            self._refusal = Problem(413, f"the body has more than {_MAX_BODY_CHUNKS} chunks; send longer ones")
            raise ValueError(self._refusal.detail)  # ends the parser's loop
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._begin_reading(_Reading.NOTHING)
        self._connections.set_waiting(self, self._is_waiting())

    # uvicorn's callbacks

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            ends_by_closing = False  # as HTTP/1.0 has it where the length is not known; uvicorn would send it chunks

            async def send_if_open(message: Message) -> None:
                nonlocal ends_by_closing
                if self.transport.is_closing():  # asyncio logs each further write to a connection that is lost
                    return
                if message["type"] == "http.response.start" and scope["http_version"] == "1.0":
                    ends_by_closing = not any(name.lower() == b"content-length" for name, _ in message["headers"])
                    cycle.chunked_encoding = False if ends_by_closing else None
                elif ends_by_closing:
                    cycle.expected_content_length = len(message.get("body", b""))
                await send(message)

            await app(scope, receive, send_if_open)

        self._running = cycle
        super()._start_asgi_task(cycle, cast("Any", run))

    def on_response_complete(self) -> None:
        """The answer is written; the next request's time starts here where it has begun already."""
        super().on_response_complete()
        self._since = self.loop.time()
        self._connections.set_waiting(self, self._is_waiting())

    def shutdown(self) -> None:
        """The server drains: the answer in progress is the last, and without one the sweep closes in a moment.

        An answer that has begun did not say so, and its client may send another request and is to get a 503.
        """
        self._since = self.loop.time()
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_started:
                cycle.keep_alive = False

    # Limits

    def check(self, now: float, elapsed_s: float) -> None:
        """Close if a time limit has passed; `elapsed_s` is the time since the last check."""
        limits, is_draining = self._connections.limits, self._connections.is_draining
        if self.transport.get_write_buffer_size():
            self.unread_s += elapsed_s
            if self.unread_s > (min(limits.write_timeout_s, _DRAIN_WRITE_S) if is_draining else limits.write_timeout_s):
                self.transport.abort()
                return
        elif self._is_waiting():
            self.unread_s = 0.0
        waited_s = now - self._since
        if self._refused_at is not None:
            if now - self._refused_at > _LINGER_S:
                self.transport.abort()
        elif is_draining and self._is_waiting() and waited_s > _DRAIN_IDLE_S:
            self.transport.close()
        elif self._reading is _Reading.BODY:
            if is_draining and not self.pipeline and waited_s > _DRAIN_BODY_S:
                detail = "the service is draining, and the body was not complete; send it again in 5 s"
                self._refuse(Problem(503, detail, "unavailable", headers={"Retry-After": "5"}))
                return
            # A request in progress times its body itself and answers 408; this is for bodies that nothing reads.
            if not self.pipeline and waited_s > limits.body_timeout_s + (0.0 if self._is_waiting() else _LINGER_S):
                self.transport.abort()
        elif self._is_waiting():
            if self._reading is _Reading.HEAD:
                if waited_s > limits.header_timeout_s:
                    detail = f"the headers were not complete after {limits.header_timeout_s:g} s; send them faster"
                    self._refuse(Problem(408, detail))
            elif waited_s > (limits.idle_timeout_s if self._had_request else limits.header_timeout_s):
                self.transport.close()

    def _head_without_upgrade(self) -> bytes:
        """The head once more, for a new parser, since this one sees no body behind the offer of another protocol.

        Java's client offers HTTP/2 with every request; whoever does not know it answers as if nothing had been said.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("CONNECT is for proxies")
        self.parser = httptools.HttpRequestParser(self)
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _begin_reading(self, reading: _Reading) -> None:
        self._reading = reading
        self._since = self.loop.time()
        self._num_head_bytes = self._num_chunks = 0

    def _is_waiting(self) -> bool:
        return self._running is None or self._running.response_complete

    def _leave_running(self) -> None:
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            scope = cast("MutableMapping[str, Any]", self._running.scope)
            context_of(scope).client_left = True  # what is sent from now on is dropped without an error
            self._running.message_event.set()

    def _refuse(self, problem: Problem) -> None:
        """Answer below HTTP's routes and close; in the middle of another answer, only close."""
        if self._running is not None and self._running.response_started and not self._running.response_complete:
            self.transport.abort()
            return
        self._leave_running()
        self._refused_at = self.loop.time()
        response = problem.response()
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + bytes(response.body))
        with contextlib.suppress(OSError):  # the client has closed its end already
            self.transport.write_eof()
        self.flow.resume_reading()
        self._connections.metrics.requests_total.labels("unmatched", str(problem.status)).inc()
        logger.info("refused", extra={"route": "unmatched", "status": problem.status, "reason": problem.detail})


class Listener(socket.socket):
    """A listening socket that asyncio can keep accepting from when descriptors run out.

    asyncio then pauses for a second, but tries, logs and sets a timer for each of `backlog` connections before that:
    2,048 tracebacks a second. `handle_loop_exception` keeps the one that is left out of the log.
    """

    _failed = False

    def listen(self, backlog: int = _BACKLOG, /) -> None:
        """asyncio's `backlog` is also how many it accepts at once; the kernel's queue is longer."""
        super().listen(max(backlog, _BACKLOG))

    def accept(self) -> tuple[socket.socket, Any]:
        """As inherited; the second failure in a row reports an empty queue, which ends asyncio's round."""
        try:
            accepted = super().accept()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                self._failed = not self._failed
                if not self._failed:
                    raise BlockingIOError from None
            raise
        self._failed = False
        return accepted


def quiet_exception_handler() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An exception handler for the event loop that logs a lack of descriptors once a minute, in one line."""
    logged_at = float("-inf")

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal logged_at
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES and "socket" in context):
            loop.default_exception_handler(context)
        elif loop.time() - logged_at > _LOG_EVERY_S:
            logged_at = loop.time()
            logging.getLogger(__name__).warning(
                "no new connections for now: %s; lower max_connections or raise the descriptor limit", error.strerror
            )

    return handle


def connection_limit(max_connections: int) -> int:
    """The most connections: the setting, or a default if 0, within the descriptor limit, which is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS refuses what it calls infinity
            logging.getLogger(__name__).info("the limit of descriptors stays at %d", soft)
    possible = (
        _DEFAULT_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, soft - min(_RESERVED_DESCRIPTORS, soft // 2))
    )
    if max_connections > possible:
        logging.getLogger(__name__).warning(
            "max_connections is %d, but only %d descriptors may be open: it is %d", max_connections, soft, possible
        )
    return min(max_connections or _DEFAULT_CONNECTIONS, possible)
