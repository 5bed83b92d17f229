"""`/summarize`, `/emotions`, `/topic`, `/classify/{head}`, `/analyze`: body → `TextRequest` → answers."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.answers import (
    AnalyzeAnswer,
    EmotionsAnswer,
    LabelAnswer,
    LabelsAnswer,
    SummaryAnswer,
    TextResult,
    TopicAnswer,
    analyze_answer,
    emotions_answer,
    head_answer,
    summary_answer,
    topic_answer,
)
from app.api.context import deployment_of
from app.api.guard import InferenceRoute
from app.api.heads import SERVED, PathHead
from app.api.inference import answer_texts, decoding_options, mirror, plan_texts
from app.api.openapi import INFERENCE_ERRORS, KEY, REQUEST_HEADERS, STREAM, errors
from app.api.problems import invalid_field
from app.api.schemas import AnalyzeBody, ClassifyBody, EmotionsBody, SummarizeBody, SummaryOptions, TopicBody
from app.api.streaming import EventStream, open_stream
from app.text_request import TextRequest
from model.inference.decoding.options import DecodingOptions
from model.storage.checkpoint import Checkpoint

router = APIRouter(route_class=InferenceRoute, tags=["inference"], dependencies=[*KEY, REQUEST_HEADERS, SERVED])


@router.post(
    "/summarize",
    summary="A summary",
    responses=INFERENCE_ERRORS | STREAM,
    response_model=SummaryAnswer | list[SummaryAnswer],
    response_model_exclude_none=True,
)
async def summarize(body: SummarizeBody, request: Request) -> SummaryAnswer | list[SummaryAnswer] | Response:
    """Summarize a text, or each of a list of texts."""
    text_request = _text_request(("summarize",), decoding_options(request, body), body, body.detail)
    if body.stream:
        return await _stream(body, text_request, request)
    return mirror(body.text, await answer_texts(request, body.text, text_request, summary_answer))


@router.post(
    "/emotions", summary="Emotions", responses=INFERENCE_ERRORS | errors(409), response_model_exclude_none=True
)
async def emotions(body: EmotionsBody, request: Request) -> EmotionsAnswer | list[EmotionsAnswer]:
    """Detect the emotions in a text, or in each of a list of texts."""

    def shape(checkpoint: Checkpoint, result: TextResult) -> EmotionsAnswer:
        return emotions_answer(checkpoint, result, body.top_k, body.threshold)

    return mirror(body.text, await answer_texts(request, body.text, TextRequest(("emotions",)), shape))


@router.post("/topic", summary="The topic", responses=INFERENCE_ERRORS | errors(409), response_model_exclude_none=True)
async def topic(body: TopicBody, request: Request) -> TopicAnswer | list[TopicAnswer]:
    """Detect the topic of a text, or of each of a list of texts."""

    def shape(checkpoint: Checkpoint, result: TextResult) -> TopicAnswer:
        return topic_answer(checkpoint, result, body.top_k)

    return mirror(body.text, await answer_texts(request, body.text, TextRequest(("topic",)), shape))


@router.post(
    "/classify/{head}",
    summary="Labels of any head",
    responses=INFERENCE_ERRORS | errors(404),
    response_model_exclude_none=True,
)
async def classify(
    head: PathHead, body: ClassifyBody, request: Request
) -> LabelsAnswer | LabelAnswer | list[LabelsAnswer | LabelAnswer]:
    """Classify a text, or each of a list of texts, with any head that the checkpoint has."""
    if body.threshold is not None and head.kind == "single_label":
        message = f"{body.threshold} with {head.name}, which has one label a text; leave it out, or send top_k"
        raise invalid_field("threshold", message)

    def shape(checkpoint: Checkpoint, result: TextResult) -> LabelsAnswer | LabelAnswer:
        return head_answer(checkpoint, head, result, body.top_k, body.threshold)

    return mirror(body.text, await answer_texts(request, body.text, TextRequest((head.name,)), shape))


@router.post(
    "/analyze",
    summary="Several tasks at once",
    responses=INFERENCE_ERRORS | errors(409),
    response_model_exclude_none=True,
)
async def analyze(body: AnalyzeBody, request: Request) -> AnalyzeAnswer | list[AnalyzeAnswer]:
    """Run several tasks at once; tasks with the same prompt share one encoder pass."""
    tasks = tuple(dict.fromkeys(body.tasks or deployment_of(request).checkpoint.tasks.names))
    options = decoding_options(request, body.summary, "summary.")
    text_request = _text_request(tasks, options, body.summary, body.detail)
    return mirror(body.text, await answer_texts(request, body.text, text_request, analyze_answer))


def _text_request(
    tasks: tuple[str, ...], decoding: DecodingOptions, options: SummaryOptions, detail: str | None
) -> TextRequest:
    if detail and options.on_long == "truncate":
        raise invalid_field("detail", 'chunks with on_long "truncate", which makes none; leave one of them out')
    return TextRequest(
        tasks,
        decoding,
        options.on_long,
        options.support,
        target_tokens=options.target_tokens,
        detail=detail is not None,
    )


async def _stream(body: SummarizeBody, text_request: TextRequest, request: Request) -> EventStream:
    if not isinstance(body.text, str):
        raise invalid_field("stream", "true with a list of texts; stream one text at a time, or leave stream out")
    if body.num_beams > 1:
        remedy = "beams have no tokens before their end: set num_beams to 1, or leave stream out"
        raise invalid_field("stream", f"true with num_beams {body.num_beams}; {remedy}")
    return await open_stream(request, (await plan_texts(request, body.text, text_request))[0])
