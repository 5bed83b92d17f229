"""What Ray's HTTP proxy does besides: a request whose replica died is answered 503, to be sent again.

`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deploy.ray.proxy:middlewares` where Ray is started.
"""

import json
import logging

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("ray.serve")

_RETRY_AFTER_S = 1  # another replica is there; to start one anew takes longer, and until then it is 503 again


def middlewares() -> list[Middleware]:
    """For Ray, which calls this in each proxy."""
    return [Middleware(AnswerLost)]


class AnswerLost:
    """Answers for a replica that ended before it began to, of which Ray's proxy says nothing (and uvicorn 500).

    An answer that had begun is cut off: what has come of it cannot be taken back.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = has_left = False

        async def note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        async def heed() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = has_left or message["type"] == "http.disconnect"
            return message

        try:
            await self._app(scope, heed, note)
        except Exception:
            if has_begun:
                raise
            logger.exception("a request failed in the proxy")
        if not has_begun and not has_left:
            await _refuse(send)


async def _refuse(send: Send) -> None:
    detail = f"the replica that had the request ended before it answered; send it again in {_RETRY_AFTER_S} s"
    problem = {
        "type": "urn:leximind:problem:unavailable",
        "title": "Service Unavailable",
        "status": 503,
        "detail": detail,
        "error": detail,
        "error_type": "unavailable",
    }
    body = json.dumps(problem).encode()
    headers = {
        "content-type": "application/problem+json",
        "content-length": str(len(body)),
        "retry-after": str(_RETRY_AFTER_S),
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 503, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
