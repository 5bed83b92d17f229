"""What the parts of the HTTP layer share: of the app its service and access control, of a request what is known so far.

The only file that touches `app.state` and the ASGI state.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request

from app.engine.request import Priority
from app.keys import Key
from app.service import Deployment, Service

if TYPE_CHECKING:  # it refuses by `Problem`s, which note their reason here
    from app.api.access import AccessControl


@dataclass(frozen=True)
class AppContext:
    """What one app serves, and to whom."""

    service: Service
    access: "AccessControl"


@dataclass
class RequestContext:
    """One HTTP exchange, filled in on its way; what stays None was not reached.

    `deadline` is on the service's clock. `failure_reason` is the label of the failure metric where the status alone
    does not say it. `client_left` is set when the connection is lost before the answer.
    """

    key: Key | None = None
    deployment: Deployment | None = None
    deadline: float | None = None
    priority: Priority = "interactive"
    input_tokens: int | None = None
    output_tokens: int | None = None
    failure_reason: str | None = None
    client_left: bool = False


def set_app_context(app: Starlette, context: AppContext) -> None:
    """Give `app` its context, once."""
    app.state.context = context


def app_context(app: Starlette) -> AppContext:
    """The context of `app`."""
    context: AppContext = app.state.context
    return context


def service_of(request: Request) -> Service:
    """The service that the request is for."""
    return app_context(request.app).service


def context_of(scope: MutableMapping[str, Any]) -> RequestContext:
    """The context of the exchange that has `scope`; created on first use."""
    state = scope.setdefault("state", {})
    if "context" not in state:
        state["context"] = RequestContext()
    context: RequestContext = state["context"]
    return context


def deployment_of(request: Request) -> Deployment:
    """The checkpoint that answers an inference request; its guard has acquired it."""
    deployment = context_of(request.scope).deployment
    assert deployment is not None
    return deployment
