"""A summary as server-sent events: `token` with text, again and again, then one `summary` (the answer) or `error`."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.answers import summary_answer
from app.api.problems import failure_reason, problem_of
from app.api.work import loaded_of
from app.documents import Answer
from app.engine.request import EngineError
from app.metrics import Metrics
from app.planning import Plan

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must not hold tokens back


async def open_stream(request: Request, plan: Plan) -> "EventStream":
    """A stream whose first piece is there: what fails before it is told by the status, like everywhere else.

    Raises:
        EngineError: refused, late or failed before the first piece.
    """
    loaded = loaded_of(request)
    pieces = loaded.documents.stream(plan)
    return EventStream(request, await anext(pieces), pieces)


class EventStream(StreamingResponse):
    """Sends `first` and `rest`; closes `rest` when the client leaves, so that what nobody reads is not made."""

    def __init__(self, request: Request, first: str | Answer, rest: AsyncGenerator[str | Answer, None]) -> None:
        self._request = request
        self._checkpoint = loaded_of(request).checkpoint
        self._metrics: Metrics = request.app.state.service.metrics
        self._rest = rest
        super().__init__(self._events(first), headers=_HEADERS, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end or until the client leaves."""
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)

    async def _events(self, first: str | Answer) -> AsyncGenerator[str, None]:
        yield self._event_of(first)
        try:
            async for piece in self._rest:
                yield self._event_of(piece)
        except EngineError as error:
            problem = problem_of(error)
            self._metrics.request_failures_total.labels(failure_reason(problem.status)).inc()
            yield _event("error", json.dumps(problem.body()))

    def _event_of(self, piece: str | Answer) -> str:
        if isinstance(piece, str):
            return _event("token", json.dumps({"text": piece}))
        assert piece.summary is not None
        self._request.state.output_tokens = piece.summary.output_tokens
        return _event("summary", summary_answer(self._checkpoint, piece.summary).model_dump_json())


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
