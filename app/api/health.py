"""Liveness, readiness, what is served, and the metrics."""

import logging
from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.context import app_context, service_of
from app.api.heads import ANY_HEAD
from app.api.openapi import DESCRIPTION, KEY, METRICS, errors
from app.api.problems import Problem
from app.engine.admission import half_of
from app.version import LICENSE, VERSION
from model.tasks import HeadKind, Tasks

logger = logging.getLogger(__name__)

router = APIRouter(tags=["health"])
_HF_ROUTES = ("/hf/summarize", "/hf/emotions", "/hf/topic", "/hf/classify/{head}")


class Health(BaseModel):
    """The answer to a probe."""

    status: str = Field(examples=["ready"])


class HeadInfo(BaseModel):
    """A classification head of the checkpoint."""

    name: str = Field(examples=["topic"])
    kind: HeadKind = Field(
        description="Whether a text may have several labels or has exactly one.", examples=["single_label"]
    )
    labels: list[str] = Field(description="In the model's order.", examples=[["World", "Sports"]])
    thresholds: list[float] = Field(description="For multi-label heads: each label's minimum score.")
    temperature: float = Field(description="By which logits are divided.", examples=[1.0])


class Info(BaseModel):
    """What is served; the first fields are named as by Hugging Face's servers."""

    model_id: str = Field(examples=["tiny"])
    model_dtype: str = Field(examples=["float32"])
    model_device_type: str = Field(examples=["cpu"])
    version: str = Field(examples=["0.1.0"])
    checkpoint: str = Field(description="As in X-LexiMind-Checkpoint.", examples=["tiny@a1b2c3d4e5f6"])
    loaded_at: datetime = Field(description="When it was loaded.")
    license: str = Field(description="Of the code.", examples=["MIT"])
    model_terms: str = Field(
        description="Of the weights, in a line; the checkpoint's MODEL_CARD.md has the data that they learned from."
    )
    kernels: str = Field(
        description="Build of the native kernels that computes; none where torch does.", examples=["avx512bf16"]
    )
    why_no_kernels: str | None = Field(
        description="Why none of them computes, and what to do about it; null where one does."
    )
    drafts: bool = Field(
        description="Whether steps of decoding may give several tokens where a summary copies, by the setting and by "
        "what computes; answers are the same."
    )
    max_input_length: int = Field(description="Tokens read at once; a longer text is read in chunks.", examples=[512])
    max_client_batch_size: int = Field(description="Most texts in a request.", examples=[32])
    max_concurrent_requests: int = Field(examples=[512])
    max_new_tokens: int = Field(examples=[512])
    max_text_chars: int = Field(description="Longest text in characters.", examples=[200_000])
    max_body_bytes: int = Field(description="Longest request body.", examples=[2_097_152])
    max_cost: int = Field(description="Most new tokens x beams, summed over texts and chunks.", examples=[65_536])
    max_sources: int = Field(description="Most texts, or chunks of long ones, in a request.", examples=[512])
    max_source_tokens: int = Field(description="Most tokens of all of them; one is taken anyway.", examples=[131_072])
    deadline_s: float = Field(description="Seconds a request may take.", examples=[60.0])
    tasks: list[str] = Field(examples=[["summarize", "emotions", "topic"]])
    emotions: list[str] = Field(description="Labels, in the model's order.", examples=[["joy", "neutral"]])
    topics: list[str] = Field(description="Labels, in the model's order.", examples=[["World", "Sports"]])
    heads: list[HeadInfo] = Field(description="Every head, for /classify/{head} and all that names one.")


@router.get("/", include_in_schema=False)
async def root(request: Request) -> Response:
    """Leads a browser to `/docs`, and tells anything else what this is."""
    terms = service_of(request).terms
    about = {
        "service": "LexiMind",
        "version": VERSION,
        "description": DESCRIPTION,
        "routes": "/docs",
        "openapi": "/openapi.json",
        "served": "/info",
        "ready": "/health/ready",
        "license": LICENSE,
        **({"model_terms": terms} if terms else {}),
    }
    return JSONResponse(about, 307, headers={"Location": f"{request.scope.get('root_path', '')}/docs"})


@router.get("/health/live", summary="Whether the process works", responses=errors(503), response_model=Health)
async def live(request: Request) -> Response:
    """200 while the process works, also while loading and draining; 503 when the model hangs in one step."""
    service = service_of(request)
    if service.hang is not None:
        logger.error("not alive: %s", service.hang)
        return Problem(503, service.hang, "unavailable").response()
    return JSONResponse({"status": "alive"})


@router.get("/health/ready", summary="Whether requests are answered", responses=errors(503))
async def ready(request: Request) -> Response:
    """200 when requests are answered; 503 while loading, draining or failed, and from SIGTERM on."""
    service = service_of(request)
    if service.is_ready:
        return JSONResponse({"status": "ready"})
    detail = f"{service.state}: {service.public_failure}" if service.failure else service.state
    if service.is_leaving:
        detail = "draining"
    return Problem(503, detail, "unavailable").response()


async def info(request: Request) -> Info:
    """What is served, and with which limits."""
    service = service_of(request)
    address = request.client.host if request.client else ""
    app_context(request.app).access.authorize(request.headers, address, service.clock())
    deployment, settings = service.deployment, service.settings
    checkpoint = deployment.checkpoint
    return Info(
        model_id=checkpoint.name,
        model_dtype=checkpoint.backend.precision,
        model_device_type=checkpoint.backend.device.type,
        version=VERSION,
        checkpoint=deployment.id,
        loaded_at=deployment.loaded_at,
        license=LICENSE,
        model_terms=checkpoint.terms,
        kernels=checkpoint.backend.kernels,
        why_no_kernels=checkpoint.why_no_kernels,
        drafts=settings.drafts and checkpoint.backend.rows_are_independent,
        max_input_length=checkpoint.tasks.max_source_tokens,
        max_client_batch_size=settings.max_items,
        max_concurrent_requests=settings.max_concurrent_requests,
        max_new_tokens=settings.max_new_tokens,
        max_text_chars=settings.max_text_chars,
        max_body_bytes=settings.max_body_bytes,
        max_cost=settings.max_cost,
        max_sources=half_of(settings.max_queued_requests),
        max_source_tokens=half_of(settings.max_queued_tokens),
        deadline_s=settings.deadline_s,
        tasks=list(checkpoint.tasks.names),
        emotions=_labels(checkpoint.tasks, "emotions"),
        topics=_labels(checkpoint.tasks, "topic"),
        heads=[HeadInfo.model_validate(head, from_attributes=True) for head in checkpoint.tasks.heads],
    )


def _labels(tasks: Tasks, head: str) -> list[str]:
    return list(tasks.head(head).labels) if tasks.has(head) else []


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    responses=errors(401, 403) | METRICS,
    response_class=Response,
    dependencies=KEY,
)
async def metrics(request: Request) -> Response:
    """All metrics for Prometheus; with admin keys set, for their holders only."""
    context = app_context(request.app)
    context.access.authorize_admin(request.headers)
    registry = context.service.metrics
    return Response(registry.render(), media_type=registry.content_type)


# Hugging Face's clients use a route's URL as the server's, and call `/health` and `/info` below it.
for prefix in ("", *_HF_ROUTES):
    named = [ANY_HEAD] if "{head}" in prefix else []
    router.add_api_route(
        f"{prefix}/health",
        ready,
        responses=errors(503),
        response_model=Health,
        dependencies=named,
        name=f"health{prefix}",
        summary="Whether requests are answered" + (f", below {prefix}" if prefix else ""),
    )
    router.add_api_route(
        f"{prefix}/info",
        info,
        responses=errors(401, 429, 503),
        dependencies=[*KEY, *named],
        name=f"info{prefix}",
        summary="What is served, with its limits" + (f", below {prefix}" if prefix else ""),
    )
