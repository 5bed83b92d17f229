"""Every error answer: `application/problem+json` (RFC 9457), with the two members that Hugging Face's clients read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.context import context_of
from app.engine.request import DeadlineExceeded, DoesNotFit, EngineError, EngineStopped, Overloaded
from app.limits import FieldError, LimitError
from app.planning import UnsupportedTask
from app.service import NotReady
from app.telemetry import request_id_var

MEDIA_TYPE = "application/problem+json"
# The client left before the answer; nginx's code, since HTTP has none. Seen in metrics and logs only.
CLIENT_LEFT = 499
_RETRY_S = "5"  # about what a small checkpoint takes to load


@dataclass(eq=False)
class Problem(Exception):
    """An error answer. `error_type` is from Hugging Face's set where that has a word for it."""

    status: int
    detail: str
    error_type: str = "validation"
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None  # label of the failure metric, where the status alone does not give it

    @property
    def title(self) -> str:
        """The status in words."""
        return "Client Closed Request" if self.status == CLIENT_LEFT else HTTPStatus(self.status).phrase

    def body(self) -> dict[str, Any]:
        """The members of RFC 9457, `error`, `error_type` and, for a bad request, the fields."""
        members: dict[str, Any] = {
            "type": f"urn:leximind:problem:{self.error_type}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": f"urn:leximind:request:{request_id_var.get()}",
            "error": self.detail,
            "error_type": self.error_type,
        }
        if self.errors:
            members["errors"] = [{"field": error.field, "message": error.message} for error in self.errors]
        return members

    def response(self) -> Response:
        """The answer, in ASCII: a message may quote what no encoding has."""
        return _ProblemResponse(self)


class _ProblemResponse(Response):
    def __init__(self, problem: Problem) -> None:
        super().__init__(json.dumps(problem.body()), problem.status, dict(problem.headers), MEDIA_TYPE)
        self._reason = problem.reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._reason is not None:
            context_of(scope).failure_reason = self._reason
        await super().__call__(scope, receive, send)


def invalid(errors: Sequence[FieldError]) -> Problem:
    """422, field by field."""
    return Problem(422, "; ".join(f"{error.field}: {error.message}" for error in errors), errors=errors)


def invalid_field(name: str, message: str) -> Problem:
    """422 for one field."""
    return invalid([FieldError(name, message)])


def problem_of(error: EngineError | NotReady | UnsupportedTask | LimitError) -> Problem:
    """An error from below as its answer."""
    match error:
        case LimitError():
            return invalid(error.errors)
        case Overloaded():
            return overloaded(str(error), error.retry_after_s, error.place)
        case DeadlineExceeded():
            return Problem(504, str(error), "deadline")
        case DoesNotFit():  # and would not later: no Retry-After
            return Problem(507, str(error), "memory")
        case EngineStopped():
            return Problem(503, str(error), "unavailable", headers={"Retry-After": _RETRY_S})
        case NotReady():
            return Problem(503, str(error), "unavailable", headers={"Retry-After": str(error.retry_after_s)})
        case UnsupportedTask():
            return Problem(409, str(error), "unsupported")
        case _:
            return Problem(500, str(error), "generation")


def overloaded(detail: str, retry_after_s: int, reason: str = "rate_limit") -> Problem:
    """429 with when to retry; `reason` is the limit that was reached, as a label of the failure metric."""
    return Problem(429, detail, "overloaded", headers={"Retry-After": str(retry_after_s)}, reason=reason)


def failure_reason(status: int) -> str | None:
    """The `reason` label of the failure metric; None for an answer and for what was never an inference request."""
    return _REASONS.get(status)


def outcome(status: int) -> str:
    """The `outcome` label of durations: answered, refused (4xx), cancelled or failed."""
    if status == CLIENT_LEFT:
        return "cancelled"
    return "answered" if status < 400 else "refused" if status < 500 else "failed"


_REASONS = {
    **dict.fromkeys((400, 408, 409, 413, 415, 422), "validation"),
    429: "rate_limit",
    504: "deadline",
    CLIENT_LEFT: "cancelled",
    500: "engine",
    503: "not_ready",
    507: "memory",
}


class FieldErrorSchema(BaseModel):
    """One field that is wrong."""

    field: str = Field(examples=["num_beams"])
    message: str = Field(examples=["99 is not allowed; it must be at most 8"])


class ProblemSchema(BaseModel):
    """An error as defined by RFC 9457; `error` and `error_type` are for Hugging Face's clients."""

    type: str = Field(examples=["urn:leximind:problem:validation"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["num_beams: 99 is not allowed; it must be at most 8"])
    instance: str = Field(examples=["urn:leximind:request:4f0c…"])
    error: str = Field(examples=["num_beams: 99 is not allowed; it must be at most 8"])
    error_type: str = Field(examples=["validation"])
    errors: list[FieldErrorSchema] | None = None
