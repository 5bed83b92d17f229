"""The parts of the schema that the routes' types do not give: every error, the stream, the keys."""

from typing import Annotated, Any, get_args

from fastapi import Depends, Header
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import WithJsonSchema

from app.api.examples import add_examples
from app.api.problems import MEDIA_TYPE, ProblemSchema
from app.engine.request import Priority

DESCRIPTION = "Summaries, emotions and topics of texts, from one encoder-decoder model."
TAGS = [
    {"name": "inference", "description": "A text, or a list of texts, to answers."},
    {"name": "compatibility", "description": "The same for clients that were written for other servers."},
    {"name": "health", "description": "What is served, and whether it answers."},
    {"name": "admin", "description": "For operators, with an admin key."},
]

Responses = dict[int | str, dict[str, Any]]

_ADMIN_PATHS = ("/metrics", "/admin/reload")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_ERRORS = {
    400: "Not JSON.",
    401: "No key, or an invalid one.",
    403: "The key is not valid for this route.",
    404: "The checkpoint has no head of this name; the detail names those that it has.",
    408: "The body was not complete within the deadline.",
    409: "The checkpoint has no head for this task; the detail gives the remedy.",
    413: "The body is over max_body_bytes.",
    415: "The Content-Type is not application/json.",
    422: "A field is wrong, blank or over a limit; each is named with its value, limit and remedy.",
    429: "The queue is full or the rate is too high; Retry-After says when to retry.",
    500: "The model failed.",
    503: "Loading, draining or failed.",
    504: "The deadline passed first.",
    507: "The request takes more memory than there is, even alone; the detail has its size.",
}


def errors(*statuses: int) -> Responses:
    """The `responses` of a route that can answer with `statuses`."""
    return {status: {"model": ProblemSchema, "description": _ERRORS[status]} for status in statuses}


INFERENCE_ERRORS = errors(400, 401, 408, 413, 415, 422, 429, 500, 503, 504, 507)


def _event(name: str, data: dict[str, Any]) -> dict[str, Any]:
    content = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {
        "type": "object",
        "properties": {"event": {"const": name}, "data": content},
        "required": ["event", "data"],
    }


_PROGRESS = {
    "type": "object",
    "properties": {name: {"type": "integer"} for name in ("round", "done", "chunks")},
}

STREAM: Responses = {
    200: {
        "description": "The answer; with `stream`, server-sent events: `token`… (with `on_long` reduce `progress`… "
        "before), then `summary` or `error`.",
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "oneOf": [
                        _event("progress", _PROGRESS),
                        _event("token", {"type": "object", "properties": {"text": {"type": "string"}}}),
                        _event("summary", {"$ref": "#/components/schemas/SummaryAnswer"}),
                        _event("error", {"$ref": "#/components/schemas/ProblemSchema"}),
                    ]
                },
            }
        },
    }
}

METRICS: Responses = {
    200: {"description": "In Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}

# For the document only: `InferenceRoute` checks keys, before the body is read.
BEARER = HTTPBearer(auto_error=False, description="A key as Authorization: Bearer KEY.")
HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="A key as X-API-Key: KEY.")
KEY = [Depends(BEARER), Depends(HEADER)]


async def _headers(
    timeout_ms: Annotated[
        str | None,
        WithJsonSchema({"type": "integer", "minimum": 1}),
        Header(alias="X-Request-Timeout-Ms", description="Milliseconds for the answer, if fewer than deadline_s."),
    ] = None,
    priority: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "enum": list(get_args(Priority))}),
        Header(
            alias="X-Request-Priority",
            description="Work of priority batch fills what interactive work leaves. At most the class of the key, "
            "which is the default; interactive without one.",
        ),
    ] = None,
) -> None:
    """For the document only: `InferenceRoute` reads them, before the body."""
    del timeout_ms, priority


REQUEST_HEADERS = Depends(_headers)


def describe(schema: dict[str, Any], *, needs_key: bool, needs_admin_key: bool) -> dict[str, Any]:
    """`schema` with every error as `application/problem+json`, which a route cannot declare together with a model,
    with keys only where this service requires one, and with whole numbers as the bounds of integers."""
    _make_bounds_whole(schema)
    for path, item in schema["paths"].items():
        needs = needs_admin_key if path in _ADMIN_PATHS else needs_key
        for operation in item.values():
            if "security" in operation and not needs:
                del operation["security"]
                for status in ("401", "403"):
                    operation["responses"].pop(status, None)
            # FastAPI's own, of the routes that take any name in their path, which never give it.
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            operation["responses"] = dict(sorted(operation["responses"].items()))
            for status, response in operation["responses"].items():
                if status >= "400" and "application/json" in response.get("content", {}):
                    response["content"] = {MEDIA_TYPE: response["content"].pop("application/json")}
    add_examples(schema)
    if not (needs_key or needs_admin_key):
        schema["components"].pop("securitySchemes", None)
    return schema


def _make_bounds_whole(part: Any) -> None:
    """FastAPI has all bounds as floats: 2**63 would be one that readers round at."""
    if isinstance(part, list):
        for one in part:
            _make_bounds_whole(one)
    elif isinstance(part, dict):
        if part.get("type") == "integer":
            part |= {name: int(value) for name, value in part.items() if name in _BOUNDS and isinstance(value, float)}
        for one in part.values():
            _make_bounds_whole(one)
