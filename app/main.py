"""The ASGI app: routes, middleware and error handlers around one service, which it loads and drains."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from app.api import admin, compatibility, health, routes
from app.api.access import AccessControl
from app.api.bodies import BodyBudget, BodyLimit
from app.api.context import AppContext, set_app_context
from app.api.heads import served
from app.api.middleware import ConcurrencyLimit, Observe
from app.api.openapi import DESCRIPTION, TAGS, describe
from app.api.problems import CLIENT_LEFT, Problem, invalid, problem_of
from app.api.validation import field_errors
from app.engine.request import EngineError
from app.limits import LimitError
from app.planning import UnsupportedTask
from app.service import NotReady, Service
from app.settings import Settings
from app.version import LICENSE, VERSION
from model.tasks import Tasks

if TYPE_CHECKING:
    from app.tracing import Tracing

_LIMITS = """

Terms of the weights: {terms}. The examples are what the checkpoint that ships with LexiMind answers.

This server waits {header_timeout_s:g} s for headers (128, 64 KiB), {body_timeout_s:g} s for a body ({max_body_bytes:,}
bytes, 65,536 chunks, 10,000 JSON lists and objects), {write_timeout_s:g} s in all for an answer to be read, and
{idle_timeout_s:g} s for the next request of a connection. It holds {max_buffered_bytes:,} bytes of all bodies together,
and {max_connections} connections; beyond that the one that has been without a request for longest is closed, or the one
with answers unread for longest. On one connection 128 requests may wait behind the one in progress.
"""
_HEADERS = ("Authorization", "Content-Type", "X-API-Key", "X-Request-Id", "X-Request-Priority", "X-Request-Timeout-Ms")
_TRACE_HEADERS = ("traceparent", "tracestate")


def create_app(
    settings: Settings, on_failure: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
) -> FastAPI:
    """The service over HTTP, for any ASGI server that speaks lifespan.

    Starts at once and loads in the background; `/health/ready` is 200 once it answers. `on_failure` is called when it
    never will; without it the app goes on and answers 503. `clock` is the one that deadlines are on.

    Raises:
        KeysError: `api_keys_file` cannot be used.
    """
    service = Service(settings, on_failure, clock)
    tracing = _tracing(settings)
    app = FastAPIOffline(
        title="LexiMind",
        version=VERSION,
        license_info={"name": f"{LICENSE} (the code)"},
        openapi_tags=TAGS,
        lifespan=_lifespan(service, tracing),
        redoc_url=None,
        static_url="/docs/assets",
        redirect_slashes=False,
    )
    access = AccessControl(settings)
    set_app_context(app, AppContext(service, access))
    for module in (routes, compatibility, health):
        app.include_router(module.router)
    if access.admin_keys and settings.reload_root is not None:
        app.include_router(admin.router)
    _handle_errors(app)
    app.openapi = _document(app, service, access)  # type: ignore[method-assign]
    schema = app.openapi()
    service.metrics.expect(
        {
            path: [*map(int, one["responses"]), *([CLIENT_LEFT] if method == "post" else [])]
            for path, of in schema["paths"].items()
            for method, one in of.items()
        }
    )
    _add_middleware(app, service, tracing, paths={*schema["paths"], "/", "/docs", "/openapi.json"})
    return app


def _document(app: FastAPI, service: Service, access: AccessControl) -> Callable[[], dict[str, Any]]:
    """The OpenAPI document, generated again once the checkpoint is known, whose heads it names."""
    write = app.openapi
    written: dict[tuple[Tasks, str], dict[str, Any]] = {}

    def document() -> dict[str, Any]:
        tasks, terms = service.tasks or Tasks(), service.terms or "known once it is loaded"
        if (tasks, terms) not in written:
            app.openapi_schema = None
            app.description = DESCRIPTION + _LIMITS.format_map({**_shown_limits(service.settings), "terms": terms})
            served.set(tasks)
            needs = {"needs_key": bool(access.keys), "needs_admin_key": bool(access.admin_keys)}
            written.clear()
            written[tasks, terms] = describe(write(), **needs)
        return written[tasks, terms]

    return document


def _shown_limits(settings: Settings) -> dict[str, Any]:
    shown = settings.model_dump(exclude={"api_keys", "admin_keys"})
    return shown | {"max_connections": settings.max_connections or "at most 4096"}


def _tracing(settings: Settings) -> "Tracing | None":
    if not settings.tracing:
        return None
    from app.tracing import Tracing  # imports OpenTelemetry, which is an extra

    return Tracing()


def _lifespan(service: Service, tracing: "Tracing | None") -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(service.load())
        yield
        service.begin_drain()
        await loading  # a thread that loads cannot be stopped, only awaited
        await service.drain(service.settings.drain_timeout_s)
        if tracing is not None:
            await asyncio.to_thread(tracing.shutdown)

    return lifespan


def _handle_errors(app: FastAPI) -> None:
    """Every error as a problem; unhandled exceptions are `Observe`'s."""

    async def handle(_: Request, error: Exception) -> Response:
        match error:
            case Problem():
                return error.response()
            case RequestValidationError():
                return invalid(field_errors(error.errors())).response()
            case HTTPException():
                return _of_http(error).response()
            case EngineError() | NotReady() | UnsupportedTask() | LimitError():
                return problem_of(error).response()
        raise error

    for kind in (Problem, RequestValidationError, HTTPException, EngineError, NotReady, UnsupportedTask, LimitError):
        app.add_exception_handler(kind, handle)


def _of_http(error: HTTPException) -> Problem:
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return Problem(404, "there is nothing at this path; /docs shows what there is", "not_found", headers=headers)
    if error.status_code == 405:
        detail = f"this path does not take this method; it takes {headers.get('Allow', 'another')}"
        return Problem(405, detail, "method_not_allowed", headers=headers)
    return Problem(error.status_code, str(error.detail), headers=headers)


def _add_middleware(app: FastAPI, service: Service, tracing: "Tracing | None", paths: set[str]) -> None:
    settings = service.settings
    service.metrics.active_requests_limit.set(settings.max_concurrent_requests)
    app.add_middleware(
        ConcurrencyLimit,
        max_requests=settings.max_concurrent_requests,
        metrics=service.metrics,
        retry_after_s=service.retry_after_s,
    )
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        timeout_s=settings.body_timeout_s,
        budget=BodyBudget(settings.max_buffered_bytes, service.metrics),
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=(*_HEADERS, *(_TRACE_HEADERS if tracing else ())),
            expose_headers=(
                "X-Request-Id",
                "X-LexiMind-Checkpoint",
                "X-LexiMind-Version",
                "Retry-After",
                "traceresponse",
            ),
        )
    # Added last, hence outermost.
    app.add_middleware(
        Observe,
        metrics=service.metrics,
        paths=paths,
        checkpoint_id=lambda: service.checkpoint_id,
        tracing=tracing,
    )
