"""`/summarize`, `/emotions`, `/topic`, `/classify/{head}`, `/analyze`: bodies in, questions out, answers back."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.answers import analyze_answer, emotions_answer, head_answer, summary_answer, topic_answer
from app.api.door import WorkRoute
from app.api.heads import SERVED, PathHead
from app.api.limits import decoding_options
from app.api.openapi import KEY, STREAM, WORK_ERRORS, errors
from app.api.problems import invalid_field
from app.api.schemas import (
    AnalyzeAnswer,
    AnalyzeRequest,
    ClassifyRequest,
    EmotionsAnswer,
    EmotionsRequest,
    LabelAnswer,
    LabelsAnswer,
    SummarizeRequest,
    SummaryAnswer,
    TopicAnswer,
    TopicRequest,
)
from app.api.streaming import EventStream, open_stream
from app.api.work import answer_texts, loaded_of, mirror, plan_texts, settings_of
from app.documents import Answer
from app.planning import Question
from model.storage.checkpoint import Checkpoint

router = APIRouter(route_class=WorkRoute, tags=["work"], dependencies=[*KEY, SERVED])


@router.post("/summarize", responses=WORK_ERRORS | STREAM, response_model=SummaryAnswer | list[SummaryAnswer])
async def summarize(body: SummarizeRequest, request: Request) -> SummaryAnswer | list[SummaryAnswer] | Response:
    """Summarise a text, or each of a list of texts."""
    question = Question(("summarize",), decoding_options(settings_of(request), body), body.on_long)
    if body.stream:
        return await _stream(body, question, request)

    def shape(checkpoint: Checkpoint, answer: Answer) -> SummaryAnswer:
        assert answer.summary is not None
        return summary_answer(checkpoint, answer.summary)

    return mirror(body.text, await answer_texts(request, body.text, question, shape))


@router.post("/emotions", responses=WORK_ERRORS)
async def emotions(body: EmotionsRequest, request: Request) -> EmotionsAnswer | list[EmotionsAnswer]:
    """Tell the emotions in a text, or in each of a list of texts."""

    def shape(checkpoint: Checkpoint, answer: Answer) -> EmotionsAnswer:
        return emotions_answer(checkpoint, answer.scores["emotions"], body.top_k, body.threshold)

    return mirror(body.text, await answer_texts(request, body.text, Question(("emotions",)), shape))


@router.post("/topic", responses=WORK_ERRORS)
async def topic(body: TopicRequest, request: Request) -> TopicAnswer | list[TopicAnswer]:
    """Tell the topic of a text, or of each of a list of texts."""

    def shape(checkpoint: Checkpoint, answer: Answer) -> TopicAnswer:
        return topic_answer(checkpoint, answer.scores["topic"], body.top_k)

    return mirror(body.text, await answer_texts(request, body.text, Question(("topic",)), shape))


@router.post("/classify/{head}", responses=WORK_ERRORS | errors(404))
async def classify(
    head: PathHead, body: ClassifyRequest, request: Request
) -> LabelsAnswer | LabelAnswer | list[LabelsAnswer | LabelAnswer]:
    """Classify a text, or each of a list of texts, by any head that the checkpoint has."""
    if body.threshold is not None and head.kind == "single_label":
        message = f"{body.threshold} with {head.name}, which has one label a text; leave it out, or send top_k"
        raise invalid_field("threshold", message)

    def shape(checkpoint: Checkpoint, answer: Answer) -> LabelsAnswer | LabelAnswer:
        return head_answer(checkpoint, head, answer.scores[head.name], body.top_k, body.threshold)

    return mirror(body.text, await answer_texts(request, body.text, Question((head.name,)), shape))


@router.post("/analyze", responses=WORK_ERRORS, response_model_exclude_none=True)
async def analyze(body: AnalyzeRequest, request: Request) -> AnalyzeAnswer | list[AnalyzeAnswer]:
    """Several tasks at once; tasks that share their prompt share one encoder pass."""
    tasks = tuple(dict.fromkeys(body.tasks or loaded_of(request).checkpoint.tasks.names))
    options = decoding_options(settings_of(request), body.summary, "summary.")
    question = Question(tasks, options, body.summary.on_long)
    return mirror(body.text, await answer_texts(request, body.text, question, analyze_answer))


async def _stream(body: SummarizeRequest, question: Question, request: Request) -> EventStream:
    if not isinstance(body.text, str):
        raise invalid_field("stream", "true with a list of texts; stream one text at a time, or leave stream out")
    if body.num_beams > 1:
        remedy = "beams have no words before their end: set num_beams to 1, or leave stream out"
        raise invalid_field("stream", f"true with num_beams {body.num_beams}; {remedy}")
    return await open_stream(request, (await plan_texts(request, body.text, question))[0])
