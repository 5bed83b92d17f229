"""The checks before every inference handler: key, rate, readiness, deadline, JSON; cancels when a client leaves."""

import asyncio
import json
import re
from collections.abc import Callable, Collection, Coroutine
from typing import Any, NoReturn, get_args

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from app.api.context import app_context, context_of
from app.api.problems import CLIENT_LEFT, Problem, invalid_field
from app.engine.request import Priority
from app.keys import Key

_TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_PRIORITY_HEADER = "X-Request-Priority"
_JSON_TYPE = re.compile(r"application/([^/+]+\+)?json")
_SHOWN_CHARS = 80
# A request needs three lists and objects. Python makes and tracks an object for each: 690,000 empty lists, 2 MB, stop
# the event loop for 0.7 s, and a thread would not help, since the parser holds the interpreter's lock.
_MAX_CONTAINERS = 10_000


class InferenceRoute(APIRoute):
    """A guarded route; its handler finds `deployment` and `deadline` in the request's context."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, with the checks before it."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            app, context = app_context(request.app), context_of(request.scope)
            arrived_at = app.service.clock()
            address = request.client.host if request.client else ""
            context.key = app.access.authorize(request.headers, address, arrived_at)
            context.deployment = app.service.deployment.acquire()  # `Observe` releases it
            timeout_s = _timeout_s(request, app.service.settings.deadline_s)
            context.deadline = arrived_at + timeout_s
            context.priority = _priority(request, context.key)
            _check_query(request, {field.alias for field in self.dependant.query_params})
            _check_content_type(request)
            json_request = JsonRequest(request.scope, request.receive)
            await json_request.load(timeout_s)
            return await _unless_client_leaves(request.receive, handle(json_request))

        return guarded


class JsonRequest(Request):
    """A request whose JSON is read once, strictly."""

    async def load(self, timeout_s: float) -> None:
        """Read and parse the body.

        Raises:
            Problem: 400 not JSON, 408 not here in time, 499 the client left.
        """
        try:
            async with asyncio.timeout(timeout_s):
                body = await self.body()
        except TimeoutError:
            raise Problem(408, f"the body was not complete after {timeout_s:g} s; send it faster") from None
        except ClientDisconnect:
            raise _client_left() from None
        self._value = _parse(body)

    async def json(self) -> Any:
        """The parsed body."""
        return self._value


def _parse(body: bytes) -> Any:
    if not body:
        raise Problem(400, 'the body is empty; send a JSON object such as {"text": "…"}')
    if _num_brackets(body) > _MAX_CONTAINERS and (number := _num_brackets(_outside_strings(body))) > _MAX_CONTAINERS:
        raise Problem(
            400, f"the JSON has {number} lists and objects, {_MAX_CONTAINERS} are allowed; send a flat object"
        )
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        message = error.msg.removesuffix(" at")
        raise Problem(400, f"not JSON: {message} at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise Problem(400, f"not JSON: byte {error.start} of the body is not UTF-8") from None
    except RecursionError:
        raise Problem(400, "not JSON that can be read: nested too deeply; send a flat object") from None
    except ValueError as error:  # an integer of thousands of digits
        raise Problem(400, f"not JSON that can be read: {error}") from None


def _num_brackets(part: bytes) -> int:
    return part.count(b"[") + part.count(b"{")


def _outside_strings(body: bytes) -> bytes:
    """JSON without its strings; of anything else, at least the part that a parser reads before it fails."""
    return b"".join(body.replace(rb"\\", b"").replace(b'\\"', b"").split(b'"')[::2])


def _refuse_constant(name: str) -> NoReturn:
    raise Problem(400, f"not JSON: {name} is no JSON number; send a finite one")


def _timeout_s(request: Request, longest_s: float) -> float:
    value = request.headers.get(_TIMEOUT_HEADER)
    if value is None:
        return longest_s
    if not (value.isascii() and value.isdigit() and int(value[:18]) >= 1):
        raise invalid_field(
            _TIMEOUT_HEADER, f"{value[:_SHOWN_CHARS]!r} is not allowed; it must be a whole number of at least 1"
        )
    return min(int(value[:18]) / 1000, longest_s)


def _priority(request: Request, key: Key | None) -> Priority:
    """What the client asks for, at most what its key has; a client without a key can only lower it."""
    value = request.headers.get(_PRIORITY_HEADER, "interactive")
    if value not in get_args(Priority):
        raise invalid_field(
            _PRIORITY_HEADER,
            f"{value[:_SHOWN_CHARS]!r} is not allowed; it must be {' or '.join(get_args(Priority))}, or be left out",
        )
    return "batch" if value == "batch" or (key is not None and key.key_class == "batch") else "interactive"


def _check_query(request: Request, known: Collection[str]) -> None:
    for name in request.query_params:
        if name not in known:
            raise invalid_field(name[:_SHOWN_CHARS], "is not known in the query; options go into the JSON body")


def _check_content_type(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Problem(415, f"Content-Encoding is {encoding[:_SHOWN_CHARS]}; send the body as it is")
    given = request.headers.get("content-type", "")
    media_type = given.partition(";")[0].strip().lower()
    if not _JSON_TYPE.fullmatch(media_type):
        raise Problem(415, f"Content-Type is {given[:_SHOWN_CHARS] or 'missing'}; send Content-Type: application/json")


async def _unless_client_leaves(receive: Receive, handling: Coroutine[Any, Any, Response]) -> Response:
    """The result of `handling`, which is cancelled when the client leaves; neither Starlette nor FastAPI does that."""
    task = asyncio.create_task(handling)
    disconnect = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _client_left()
    finally:
        for one in (task, disconnect):
            one.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _client_left() -> Problem:
    return Problem(CLIENT_LEFT, "the client left before the answer", "cancelled")
