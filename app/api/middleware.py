"""What surrounds every HTTP exchange: id, log line and metrics; the longest body; how many at once. Pure ASGI."""

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import Problem, failure_reason, overloaded
from app.metrics import Metrics
from app.telemetry import request_id_var

logger = logging.getLogger("leximind.access")

# What probes and Prometheus ask every few seconds; in the log it would bury the rest.
_ROUTINE = ("/health", "/health/live", "/health/ready", "/metrics")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# A client that is cut off while it sends sees a broken connection and not the answer, so what it still sends is
# thrown away first, within these bounds.
_DISCARD_BYTES = 16 * 2**20
_DISCARD_S = 5.0


class Observe:
    """Outermost: gives the exchange its id, answers what nobody caught with 500, logs and counts.

    `paths` are those that may become a metric's label; what else a client asks for is `unmatched`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id_var.set(request_id)
        started_at = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        # Whatever can be got can be headed; the server leaves the body out.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_with_id)
        except Exception:
            logging.getLogger(__name__).exception("unforeseen error")
            if not status:
                problem = Problem(500, "an unforeseen error; the log has it under this request's id", "internal")
                await problem.response()(scope, receive, send_with_id)
        finally:
            self._account(scope, status, time.perf_counter() - started_at)
            request_id_var.reset(token)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self._paths else "unmatched"
        self._metrics.requests_total.labels(route, str(status)).inc()
        self._metrics.request_duration_seconds.labels(route).observe(seconds)
        reason = failure_reason(status)
        if reason and scope["method"] == "POST":  # a probe that hears "loading" has its answer
            self._metrics.request_failures_total.labels(reason).inc()
        level = logging.DEBUG if route.endswith(_ROUTINE) else logging.INFO
        extra = {"route": route, "status": status, "ms": round(seconds * 1000, 1)}
        logger.log(level, scope["method"], extra=extra)


class BodyLimit:
    """Refuses bodies over `max_bytes`, announced or not, and lets clients finish sending before they are refused."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        num_bytes = 0
        is_complete = "expect" in headers  # such a client waits for leave to send, and will not send

        async def receive_counted() -> Message:
            nonlocal num_bytes, is_complete
            message = await receive()
            num_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            return message

        async def receive_limited() -> Message:
            if announced.isdigit() and int(announced) > self._max_bytes:
                raise self._too_large(announced)
            message = await receive_counted()
            if num_bytes > self._max_bytes:
                raise self._too_large(f"more than {self._max_bytes}")
            return message

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_complete:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_DISCARD_S):
                        while not is_complete and num_bytes < _DISCARD_BYTES:
                            await receive_counted()
            await send(message)

        await self._app(scope, receive_limited, send_after_body)

    def _too_large(self, value: str) -> Problem:
        detail = f"the body has {value} bytes, {self._max_bytes} are allowed (max_body_bytes); send it in parts"
        return Problem(413, detail)


class ConcurrencyLimit:
    """At most `max_requests` calls for work (POST) at once, streams until their end; more are told to come back.

    One that is refused counts no more, however long its client still sends.
    """

    def __init__(self, app: ASGIApp, max_requests: int, metrics: Metrics) -> None:
        self._app = app
        self._max_requests = max_requests
        self._metrics = metrics
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._active >= self._max_requests:
            problem = overloaded(
                f"{self._active} requests in progress, {self._max_requests} are allowed; retry in 1 s", 1
            )
            await problem.response()(scope, receive, send)
            return
        self._count(1)
        counts = True

        async def send_freely(message: Message) -> None:
            nonlocal counts
            if counts and message["type"] == "http.response.start" and message["status"] >= 400:
                counts = False
                self._count(-1)
            await send(message)

        try:
            await self._app(scope, receive, send_freely)
        finally:
            if counts:
                self._count(-1)

    def _count(self, more: int) -> None:
        self._active += more
        self._metrics.active_requests.set(self._active)
