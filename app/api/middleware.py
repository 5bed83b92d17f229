"""What surrounds every HTTP exchange: id, log line and metrics; how many at once. Pure ASGI."""

import logging
import re
import time
import uuid
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import CLIENT_LEFT, Problem, failure_reason, outcome, overloaded
from app.metrics import Metrics
from app.telemetry import request_id_var
from app.version import VERSION

logger = logging.getLogger("leximind.access")

# What probes and Prometheus ask every few seconds; in the log it would bury the rest.
_ROUTINE = ("/health", "/health/live", "/health/ready", "/metrics")
_ADMIN = "/admin/"  # no work, and needed most when there is too much
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# What the log has of a request beside route, status and time, by its name in the ASGI state: counts and names, no text.
_LOGGED = ("key_id", "input_tokens", "output_tokens")


class Observe:
    """Outermost: gives the exchange its id, answers what nobody caught with 500, logs and counts.

    `paths` are those that may become a metric's label, with a `{name}` for any one part; what else a client asks for is
    `unmatched`. Every answer names the version and the checkpoint: of work the one that answered it, else
    `checkpoint_id()`, which answers now.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, paths: Collection[str], checkpoint_id: Callable[[], str | None]
    ) -> None:
        self._app = app
        self._checkpoint_id = checkpoint_id
        self._metrics = metrics
        self._paths = frozenset(paths)
        self._templates = [(path, compile_path(path)[0]) for path in paths if "{" in path]

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
        is_complete = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"], headers["X-LexiMind-Version"] = request_id, VERSION
                loaded = scope["state"].get("loaded")
                if checkpoint_id := self._checkpoint_id() if loaded is None else loaded.id:
                    headers["X-LexiMind-Checkpoint"] = checkpoint_id
            is_complete = not message.get("more_body", message["type"] == "http.response.start")
            await send(message)

        scope.setdefault("state", {})
        # Whatever can be got can be headed; the server leaves the body out.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_with_id)
            if not is_complete or scope["state"].get("client_left"):  # or did not read
                status = CLIENT_LEFT
        except Exception:
            logging.getLogger(__name__).exception("unforeseen error")
            if not status:
                problem = Problem(500, "an unforeseen error; the log has it under this request's id", "internal")
                await problem.response()(scope, receive, send_with_id)
        finally:
            self._account(scope, status, time.perf_counter() - started_at)
            if (loaded := scope["state"].get("loaded")) is not None:
                loaded.release()
            request_id_var.reset(token)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._route(scope["path"])
        self._metrics.requests_total.labels(route, str(status)).inc()
        self._metrics.request_duration_seconds.labels(route, outcome(status)).observe(seconds)
        reason = scope.get("state", {}).get("failure_reason") or failure_reason(status)
        if reason and scope["method"] == "POST":  # a probe that hears "loading" has its answer
            self._metrics.request_failures_total.labels(reason).inc()
        level = logging.DEBUG if route.endswith(_ROUTINE) else logging.INFO
        if not logger.isEnabledFor(level):
            return
        extra = {"route": route, "status": status, "ms": round(seconds * 1000, 1)}
        state = scope["state"]
        extra |= {name: state[name] for name in _LOGGED if name in state}
        if "loaded" in state:  # a request for work that came as far as that
            extra |= {"model": state["loaded"].checkpoint.name, "priority": state.get("priority", "interactive")}
        logger.log(level, scope["method"], extra=extra)

    def _route(self, path: str) -> str:
        if path in self._paths:
            return path
        return next((template for template, pattern in self._templates if pattern.match(path)), "unmatched")


class ConcurrencyLimit:
    """At most `max_requests` calls for work (POST) at once, streams until their end; more are told to come back.

    One counts from the end of its body, so that no place is held by sending slowly, to its answer's; one that is
    refused counts no more.
    """

    def __init__(self, app: ASGIApp, max_requests: int, metrics: Metrics, retry_after_s: Callable[[], int]) -> None:
        self._app = app
        self._max_requests = max_requests
        self._metrics = metrics
        self._retry_after_s = retry_after_s
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].startswith(_ADMIN):
            await self._app(scope, receive, send)
            return
        if self._active >= self._max_requests:  # before anything is read, since it costs least
            await self._refusal().response()(scope, receive, send)
            return
        counts = False

        async def receive_counted() -> Message:
            nonlocal counts
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False) and not counts:
                if self._active >= self._max_requests:
                    raise self._refusal()
                self._count(1)
                counts = True
            return message

        async def send_freely(message: Message) -> None:
            nonlocal counts
            if counts and message["type"] == "http.response.start" and message["status"] >= 400:
                counts = False
                self._count(-1)
            await send(message)

        try:
            await self._app(scope, receive_counted, send_freely)
        finally:
            if counts:
                self._count(-1)

    def _refusal(self) -> Problem:
        retry_after_s = self._retry_after_s()
        advice = f"{self._max_requests} are allowed; retry in {retry_after_s} s"
        return overloaded(f"{self._active} requests in progress, {advice}", retry_after_s, "concurrency")

    def _count(self, more: int) -> None:
        self._active += more
        self._metrics.active_requests.set(self._active)
