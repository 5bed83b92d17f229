"""Middleware of every HTTP exchange: id, log line and metrics; how many at once. Pure ASGI."""

import logging
import random
import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.context import RequestContext, context_of
from app.api.problems import CLIENT_LEFT, Problem, failure_reason, outcome, overloaded
from app.engine.admission import half_of
from app.engine.request import Priority
from app.metrics import Metrics
from app.telemetry import request_id_var, trace_var
from app.version import VERSION

if TYPE_CHECKING:  # imported where it is on
    from app.tracing import RequestTrace, Tracing

logger = logging.getLogger("leximind.access")

# Called by probes and Prometheus every few seconds; logged at debug level only.
_ROUTINE = ("/health", "/health/live", "/health/ready", "/metrics")
_ADMIN = "/admin/"  # no inference, and needed most under overload
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Observe:
    """Outermost: gives the exchange its id, answers unhandled exceptions with 500, logs and counts.

    `paths` are those that may become a metric's label, with a `{name}` for any one part; any other path is `unmatched`.
    Every answer names the version and the checkpoint: the one that answered an inference request, else that of
    `checkpoint_id()`, which is in service now.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        paths: Collection[str],
        checkpoint_id: Callable[[], str | None],
        tracing: "Tracing | None" = None,
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._checkpoint_id = checkpoint_id
        self._metrics = metrics
        self._paths = frozenset(paths)
        self._templates = [(path, compile_path(path)[0]) for path in paths if "{" in path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given_headers = Headers(scope=scope)
        given = given_headers.get("x-request-id", "")
        # No secret: drawn without a system call.
        request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        token = request_id_var.set(request_id)
        route = self._route(scope["path"])
        trace = None
        if self._tracing is not None and not route.endswith(_ROUTINE):
            trace = self._tracing.begin(scope["method"], route, given_headers)
        trace_token, writing = trace_var.set(trace), None
        started_at = time.perf_counter()
        status = 0
        is_complete = False
        context = context_of(scope)

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_complete, writing
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"], headers["X-LexiMind-Version"] = request_id, VERSION
                if checkpoint_id := context.deployment.id if context.deployment else self._checkpoint_id():
                    headers["X-LexiMind-Checkpoint"] = checkpoint_id
                if trace is not None:
                    headers["traceresponse"], writing = trace.traceresponse, trace.begin("write")
            is_complete = not message.get("more_body", message["type"] == "http.response.start")
            await send(message)

        # HEAD is answered by every route for GET; the server omits the body.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_with_id)
            if not is_complete or context.client_left:  # or did not read
                status = CLIENT_LEFT
        except Exception:
            logging.getLogger(__name__).exception("unhandled exception")
            if not status:
                problem = Problem(500, "an unexpected error; the log has it under this request's id", "internal")
                await problem.response()(scope, receive, send_with_id)
        finally:
            self._record(scope["method"], route, context, status, time.perf_counter() - started_at, trace)
            if trace is not None:
                if writing is not None:
                    writing.end()
                trace.end(status, {"request_id": request_id} | _facts(context))
            trace_var.reset(trace_token)
            if context.deployment is not None:
                context.deployment.release()
                context.deployment = None  # a connection keeps its last exchange, and would keep the weights
            request_id_var.reset(token)

    def _record(
        self,
        method: str,
        route: str,
        context: RequestContext,
        status: int,
        seconds: float,
        trace: "RequestTrace | None",
    ) -> None:
        self._metrics.requests_total.labels(route, str(status)).inc()
        self._metrics.request_duration_seconds.labels(route, outcome(status), context.priority).observe(seconds)
        reason = context.failure_reason or failure_reason(status)
        if reason and method == "POST":  # a 503 is a valid answer to a probe
            self._metrics.request_failures_total.labels(reason).inc()
        level = logging.DEBUG if route.endswith(_ROUTINE) else logging.INFO
        if not logger.isEnabledFor(level):
            return
        extra: dict[str, object] = {"route": route, "status": status, "ms": round(seconds * 1000, 1)}
        if trace is not None:
            extra["trace_id"] = trace.trace_id
        if context.key is not None:
            extra["key_id"] = context.key.id
        logger.log(level, method, extra=extra | _facts(context))

    def _route(self, path: str) -> str:
        if path in self._paths:
            return path
        return next((template for template, pattern in self._templates if pattern.match(path)), "unmatched")


def _facts(context: RequestContext) -> dict[str, str | int]:
    """What is told of an inference request beside route, status and time: counts and names, never text."""
    facts: dict[str, str | int | None] = {"input_tokens": context.input_tokens, "output_tokens": context.output_tokens}
    if context.deployment is not None:
        facts["model"] = context.deployment.checkpoint.name
        facts["priority"] = context.priority
    return {name: value for name, value in facts.items() if value is not None}


class ConcurrencyLimit:
    """At most `max_requests` inference requests (POST) at once, streams until their end; more are refused.

    A request counts from the end of its body, so that sending slowly occupies no slot, to that of its answer; one that
    is refused no longer counts. Requests of priority batch may have half of the slots.
    """

    def __init__(self, app: ASGIApp, max_requests: int, metrics: Metrics, retry_after_s: Callable[[], int]) -> None:
        self._app = app
        self._max_requests = max_requests
        self._metrics = metrics
        self._retry_after_s = retry_after_s
        self._active: dict[Priority, int] = {"interactive": 0, "batch": 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].startswith(_ADMIN):
            await self._app(scope, receive, send)
            return
        context, counts = context_of(scope), False
        if refusal := self._refusal("interactive"):  # before anything is read, which is cheapest
            await refusal.response()(scope, receive, send)
            return

        async def receive_counted() -> Message:
            nonlocal counts
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False) and not counts:
                if refusal := self._refusal(context.priority):  # which the guard has found in the headers
                    raise refusal
                self._count(1, context.priority)
                counts = True
            return message

        async def send_freely(message: Message) -> None:
            nonlocal counts
            if counts and message["type"] == "http.response.start" and message["status"] >= 400:
                counts = False
                self._count(-1, context.priority)
            await send(message)

        try:
            await self._app(scope, receive_counted, send_freely)
        finally:
            if counts:
                self._count(-1, context.priority)

    def _refusal(self, priority: Priority) -> Problem | None:
        what, active, limit = "requests", sum(self._active.values()), self._max_requests
        if priority == "batch" and active < limit:
            what, active, limit = "requests of priority batch", self._active["batch"], half_of(limit)
        if active < limit:
            return None
        retry_after_s = self._retry_after_s()
        advice = f"{limit} are allowed; retry in {retry_after_s} s"
        return overloaded(f"{active} {what} in progress, {advice}", retry_after_s, "concurrency")

    def _count(self, more: int, priority: Priority) -> None:
        self._active[priority] += more
        self._metrics.active_requests.set(sum(self._active.values()))
