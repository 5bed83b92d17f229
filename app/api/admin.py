"""Operator routes: what can be changed while the service runs; with admin keys and `reload_root` only."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import app_context, service_of
from app.api.guard import JsonRequest
from app.api.openapi import KEY, errors
from app.api.problems import Problem, invalid_field
from app.api.schemas import Body
from app.engine.request import EngineError
from app.service import Reloading, Service
from model.errors import ModelError


class AdminRoute(APIRoute):
    """A route for admin keys, which are checked before the body is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, with the check of the key before it."""
        handle = super().get_route_handler()

        async def with_admin_key(request: Request) -> Response:
            app = app_context(request.app)
            app.access.authorize_admin(request.headers)
            json_request = JsonRequest(request.scope, request.receive)
            await json_request.load(app.service.settings.deadline_s)
            return await handle(json_request)

        return with_admin_key


router = APIRouter(prefix="/admin", route_class=AdminRoute, tags=["admin"], dependencies=KEY)


class ReloadBody(Body):
    """The checkpoint to serve from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"checkpoint": "base-2"}]})

    checkpoint: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="A folder below reload_root, relative to it or absolute; by default "
        "the one that is served, read again.",
    )


class ReloadAnswer(BaseModel):
    """The checkpoint that is served now."""

    checkpoint: str = Field(description="As in X-LexiMind-Checkpoint.", examples=["base-2@0f9e8d7c6b5a"])
    previous: str = Field(description="The one that was served before.", examples=["base@a1b2c3d4e5f6"])
    seconds: float = Field(description="From the call to the swap.", examples=[1.9])


@router.post("/reload", summary="Serve another checkpoint", responses=errors(400, 401, 403, 408, 409, 422, 500, 503))
async def reload(body: ReloadBody, request: Request) -> ReloadAnswer:
    """Load a checkpoint while the present one serves, and swap: requests that have begun end on the old one.

    Responds after the swap. When the new one cannot be loaded, the old one stays and the error says why. With the
    setting `reload` "drain" the old one is drained and gives its memory back first; meanwhile others get 503.
    """
    service = service_of(request)
    started_at, previous = service.clock(), service.checkpoint_id
    folder = None if body.checkpoint is None else _folder(service, body.checkpoint)
    try:
        deployment = await service.reload(folder)
    except Reloading as error:
        raise Problem(409, str(error), "unsupported") from None
    except ModelError as error:
        raise invalid_field("checkpoint", f"{error}; {service.checkpoint_id} is served as before") from None
    except EngineError as error:
        raise Problem(500, f"{error}; {service.checkpoint_id} is served as before", "generation") from None
    assert previous is not None  # or the service would not have been ready
    return ReloadAnswer(checkpoint=deployment.id, previous=previous, seconds=round(service.clock() - started_at, 3))


def _folder(service: Service, name: str) -> Path:
    root = service.settings.reload_root
    assert root is not None  # without it there is no such route
    root = root.resolve()
    try:
        folder = (root / name).resolve()
    except (OSError, ValueError):  # a loop of links, a NUL
        raise invalid_field("checkpoint", "is no path; send one below reload_root") from None
    if root not in folder.parents:
        raise invalid_field("checkpoint", "does not lie below reload_root; send a path that does")
    return folder
