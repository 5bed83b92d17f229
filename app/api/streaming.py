"""A summary as server-sent events: any number of `token` with text, then one `summary` (the answer) or `error`.

With `on_long` "reduce" there are `progress` events before: one for each chunk that is done, until the last round is
known to be the last.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.answers import summary_answer
from app.api.context import context_of, deployment_of, service_of
from app.api.problems import failure_reason, problem_of
from app.documents import Piece, Progress
from app.engine.request import EngineError
from app.planning import Plan

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must not hold tokens back


async def open_stream(request: Request, plan: Plan) -> "EventStream":
    """A stream whose first piece is decoded: a failure before it is answered with its status, as on any other route.

    Raises:
        EngineError: refused, late or failed before the first piece.
    """
    deployment = deployment_of(request)
    pieces = deployment.documents.stream(plan)
    return EventStream(request, await anext(pieces), pieces)


class EventStream(StreamingResponse):
    """Sends `first` and `rest`; closes `rest` when the client leaves, so that nothing more is decoded."""

    def __init__(self, request: Request, first: Piece, rest: AsyncGenerator[Piece, None]) -> None:
        self._request = request
        self._checkpoint = deployment_of(request).checkpoint
        self._metrics = service_of(request).metrics
        self._rest = rest
        super().__init__(self._events(first), headers=_HEADERS, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end or until the client leaves."""
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)

    async def _events(self, first: Piece) -> AsyncGenerator[str, None]:
        yield self._event_of(first)
        try:
            async for piece in self._rest:
                yield self._event_of(piece)
        except EngineError as error:
            problem = problem_of(error)
            self._metrics.request_failures_total.labels(failure_reason(problem.status)).inc()
            yield _event("error", json.dumps(problem.body()))

    def _event_of(self, piece: Piece) -> str:
        if isinstance(piece, str):
            return _event("token", json.dumps({"text": piece}))
        if isinstance(piece, Progress):
            return _event("progress", json.dumps(asdict(piece)))
        answer = summary_answer(self._checkpoint, piece)
        context_of(self._request.scope).output_tokens = answer.output_tokens
        return _event("summary", answer.model_dump_json(exclude_none=True))


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
