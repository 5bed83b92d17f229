"""Request bodies: the longest, in bytes and seconds, and how much of all of them is held at once. Pure ASGI."""

import asyncio
import contextlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import Problem, overloaded
from app.metrics import Metrics

# A client that is cut off while it sends sees a broken connection and not the answer, so what it still sends is
# thrown away first, within these bounds.
_DISCARD_BYTES = 16 * 2**20
_DISCARD_S = 5.0


class _Body:
    """The state of one request's body."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num_held = 0
        self.is_complete = False
        self.is_abandoned = False  # it was too slow, or evicted: the rest is not awaited
        self.is_evicted = False
        self.waiting: asyncio.Timeout | None = None


class BodyBudget:
    """The bytes of all bodies that are held; the oldest incomplete ones are evicted for new bytes."""

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._max_bytes = max_bytes
        self._num_held = 0
        self._incomplete: dict[_Body, None] = {}
        metrics.buffered_bytes.set_function(lambda: self._num_held)
        metrics.buffered_bytes_limit.set(max_bytes)

    def begin(self, body: _Body) -> None:
        """A body is about to be read."""
        self._incomplete[body] = None

    def hold(self, body: _Body, num_bytes: int) -> None:
        """Count received bytes, and evict beyond the limit: `body` itself if all others are complete."""
        body.num_held += num_bytes
        self._num_held += num_bytes
        if body.is_complete:
            self._incomplete.pop(body, None)
        while self._num_held > self._max_bytes:
            oldest = next(iter(self._incomplete), body)
            self.release(oldest)
            oldest.is_evicted = True
            if oldest.waiting is not None and not oldest.waiting.expired():
                oldest.waiting.reschedule(asyncio.get_running_loop().time())

    def release(self, body: _Body) -> None:
        """Count its bytes no longer."""
        self._num_held -= body.num_held
        body.num_held = 0
        self._incomplete.pop(body, None)

    def refusal(self) -> Problem:
        """The answer to a request whose body is evicted."""
        return overloaded(
            f"the bodies of all requests have more than {self._max_bytes} bytes, which is the limit "
            "(max_buffered_bytes); retry in 1 s",
            1,
            "buffered_bytes",
        )


class BodyLimit:
    """Refuses bodies that are too long, announced or not, or too slow, and lets clients finish sending before that."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float, budget: BodyBudget) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        body = _Body()
        timeout_at = asyncio.get_running_loop().time() + self._timeout_s
        waits_for_leave = "expect" in headers  # such a client will not send without it

        async def receive_counted() -> Message:
            message = await receive()
            body.num_bytes += len(message.get("body", b""))
            body.is_complete = not message.get("more_body", False)
            return message

        async def receive_limited() -> Message:
            if body.is_complete:
                return await receive()
            if announced.isdigit() and int(announced) > self._max_bytes:
                raise self._too_large(announced)
            self._budget.begin(body)
            try:
                async with asyncio.timeout_at(timeout_at) as body.waiting:
                    message = await receive_counted()
            except TimeoutError:
                raise self._abandoned(body) from None
            finally:
                body.waiting = None
            if body.num_bytes > self._max_bytes:
                raise self._too_large(f"more than {self._max_bytes}")
            if not body.is_evicted:
                self._budget.hold(body, len(message.get("body", b"")))
            if body.is_evicted:
                raise self._abandoned(body)
            return message

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.is_complete:
                self._budget.release(body)
                if not (body.is_abandoned or waits_for_leave):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_DISCARD_S):
                            while not body.is_complete and body.num_bytes < _DISCARD_BYTES:
                                await receive_counted()
                if not body.is_complete:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive_limited, send_after_body)
        finally:
            self._budget.release(body)

    def _too_large(self, value: str) -> Problem:
        detail = f"the body has {value} bytes, {self._max_bytes} are allowed (max_body_bytes); send it in parts"
        return Problem(413, detail)

    def _abandoned(self, body: _Body) -> Problem:
        body.is_abandoned = True
        if body.is_evicted:
            return self._budget.refusal()
        detail = f"the body was not complete after {self._timeout_s:g} s (body_timeout_s); send it faster"
        return Problem(408, detail)
