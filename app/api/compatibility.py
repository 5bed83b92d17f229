"""Routes in others' shapes: Hugging Face's `InferenceClient` under `/hf/…`, text-embeddings-inference's `/predict`.

They differ from the other routes in JSON only; tasks, options and limits are the same.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator
from starlette.requests import Request

from app.answers import TextResult
from app.api.guard import InferenceRoute
from app.api.heads import SERVED, HeadName, PathHead
from app.api.inference import answer_texts, decoding_options
from app.api.openapi import INFERENCE_ERRORS, KEY, REQUEST_HEADERS, errors
from app.api.problems import invalid_field
from app.api.schemas import EXAMPLE_COMMENT, EXAMPLE_TEXT, Body, SummaryOptions, Texts
from app.text_request import OnLong, TextRequest
from app.thresholds import MIN_TOP_K, Score, ranked
from model.storage.checkpoint import Checkpoint
from model.tasks import BUILT_IN, HeadKind

router = APIRouter(route_class=InferenceRoute, tags=["compatibility"], dependencies=[*KEY, REQUEST_HEADERS, SERVED])

_OWN_FUNCTION: dict[HeadKind, str] = {"multi_label": "sigmoid", "single_label": "softmax"}  # of a head's training
_ON_LONG: dict[str, OnLong] = {
    "do_not_truncate": "chunk",
    "longest_first": "truncate",
    "only_first": "truncate",
}


class HFSummarizeParameters(Body):
    """What `InferenceClient.summarization` sends."""

    generate_parameters: SummaryOptions = Field(
        default_factory=SummaryOptions, description="As the options of /summarize."
    )
    truncation: Literal["do_not_truncate", "longest_first", "only_first"] | None = Field(
        default=None, description="do_not_truncate reads a long text in chunks, as is the default."
    )
    clean_up_tokenization_spaces: bool | None = Field(
        default=None, description="Changes nothing: the vocabulary holds its own spaces, so there are none to clean up."
    )


class HFSummarizeBody(Body):
    """`{"inputs": …, "parameters": {…}}`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": EXAMPLE_TEXT, "parameters": {"generate_parameters": {"max_new_tokens": 48}}}]
        }
    )

    inputs: Texts
    parameters: HFSummarizeParameters = Field(default_factory=HFSummarizeParameters)


class HFSummary(Body):
    """One summary."""

    summary_text: str


class HFClassifyParameters(Body):
    """What `InferenceClient.text_classification` sends."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = Field(
        default=None,
        description="Only the head's own: sigmoid where a text may have several labels, softmax otherwise.",
    )
    top_k: int | None = Field(default=None, ge=MIN_TOP_K, description="The k best labels; all by default.")


class HFClassifyBody(Body):
    """`{"inputs": …, "parameters": {…}}`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": EXAMPLE_TEXT, "parameters": {"top_k": 3}}]})

    inputs: Texts
    parameters: HFClassifyParameters = Field(default_factory=HFClassifyParameters)


# As `Texts`: documented here, and checked in `_only` and with the other limits of texts.
_Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
_One = Annotated[list[_Text], Field(fail_fast=True, json_schema_extra={"minItems": 1, "maxItems": 1})]


class PredictBody(Body):
    """A string, a list of one string, or a batch `[["a"], ["b"]]`; a pair `["a", "b"]` fits no head."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": EXAMPLE_COMMENT}, {"inputs": [[EXAMPLE_COMMENT], [EXAMPLE_TEXT]]}]}
    )

    inputs: Annotated[
        Annotated[_Text, Tag("<text>")]
        | Annotated[_One, Tag("<list>")]
        | Annotated[list[_One], Field(fail_fast=True, json_schema_extra={"minItems": 1}), Tag("<batch>")],
        Discriminator(lambda value: _kind_of_inputs(value)),
    ]
    truncate: bool | None = Field(default=False, description="Cut a long text instead of reading it in chunks.")
    truncation_direction: Literal["Right", "right"] = Field(
        default="Right", description="A long text is cut at its end."
    )
    raw_scores: bool = Field(
        default=False, description="Scores are probabilities; false.", json_schema_extra={"const": False}
    )

    @field_validator("raw_scores")
    @classmethod
    def _refuse_raw_scores(cls, value: bool) -> bool:  # Literal[False] would take 0 and 0.0
        if value:
            raise ValueError("false: scores are probabilities")
        return value


@router.post("/hf/summarize", summary="A summary, as Hugging Face's clients ask for it", responses=INFERENCE_ERRORS)
async def hf_summarize(body: HFSummarizeBody, request: Request) -> list[HFSummary]:
    """Summarize, for `InferenceClient(model="…/hf/summarize").summarization(text)`."""
    parameters = body.parameters
    if parameters.generate_parameters.support:
        message = "true, and this answer has no room for it; leave it out, or ask /summarize"
        raise invalid_field("parameters.generate_parameters.support", message)
    on_long = _ON_LONG[parameters.truncation] if parameters.truncation else parameters.generate_parameters.on_long
    options = decoding_options(request, parameters.generate_parameters, "parameters.generate_parameters.")
    target = parameters.generate_parameters.target_tokens if on_long == "reduce" else None
    text_request = TextRequest(("summarize",), options, on_long, target_tokens=target)

    def shape(_: Checkpoint, result: TextResult) -> HFSummary:
        assert result.summary is not None
        return HFSummary(summary_text=result.summary.summary)

    return await answer_texts(request, body.inputs, text_request, shape, "inputs")


@router.post(
    "/hf/emotions", summary="Emotions, as Hugging Face's clients ask for them", responses=INFERENCE_ERRORS | errors(409)
)
async def hf_emotions(body: HFClassifyBody, request: Request) -> list[list[Score]]:
    """Detect emotions, for `InferenceClient(model="…/hf/emotions").text_classification(text)`."""
    return await _hf_classify("emotions", BUILT_IN["emotions"], body, request)


@router.post(
    "/hf/topic", summary="The topic, as Hugging Face's clients ask for it", responses=INFERENCE_ERRORS | errors(409)
)
async def hf_topic(body: HFClassifyBody, request: Request) -> list[list[Score]]:
    """Detect the topic, for `InferenceClient(model="…/hf/topic").text_classification(text)`."""
    return await _hf_classify("topic", BUILT_IN["topic"], body, request)


@router.post(
    "/hf/classify/{head}",
    summary="Labels of any head, as Hugging Face's clients ask for them",
    responses=INFERENCE_ERRORS | errors(404),
)
async def hf_classify(head: PathHead, body: HFClassifyBody, request: Request) -> list[list[Score]]:
    """Classify with any head, for `InferenceClient(model="…/hf/classify/HEAD").text_classification(text)`."""
    return await _hf_classify(head.name, head.kind, body, request)


@router.post(
    "/predict", summary="Labels, as text-embeddings-inference gives them", responses=INFERENCE_ERRORS | errors(409)
)
async def predict(
    body: PredictBody, request: Request, task: Annotated[HeadName, Query(description="Which head.")] = "emotions"
) -> list[Score] | list[list[Score]]:
    """Classify as text-embeddings-inference does: a flat list for one input, a nested one for a batch."""
    text_request = TextRequest((task,), on_long="truncate" if body.truncate else "chunk")
    texts = _texts_of(body.inputs)
    answers = await answer_texts(request, texts, text_request, _scores(task), "inputs")
    return answers[0] if isinstance(texts, str) else answers


async def _hf_classify(head: str, kind: HeadKind, body: HFClassifyBody, request: Request) -> list[list[Score]]:
    given, own = body.parameters.function_to_apply, _OWN_FUNCTION[kind]
    if given not in (None, own):
        raise invalid_field(
            "parameters.function_to_apply",
            f"{given!r} is not what this head was trained with; leave it out or send {own!r}",
        )
    return await answer_texts(
        request, body.inputs, TextRequest((head,)), _scores(head, body.parameters.top_k), "inputs"
    )


def _scores(head: str, top_k: int | None = None) -> Callable[[Checkpoint, TextResult], list[Score]]:
    def shape(checkpoint: Checkpoint, result: TextResult) -> list[Score]:
        return ranked(checkpoint.tasks.head(head).labels, result.scores[head])[:top_k]

    return shape


def _kind_of_inputs(value: object) -> str:
    if not isinstance(value, list):
        return "<text>"
    return "<batch>" if value and isinstance(value[0], list) else "<list>"


def _texts_of(inputs: str | list[str] | list[list[str]]) -> str | list[str]:
    if isinstance(inputs, str):
        return inputs
    if not inputs or isinstance(inputs[0], str):
        return _only("inputs", inputs)
    return [_only(f"inputs[{index}]", one) for index, one in enumerate(inputs)]


def _only(place: str, strings: Sequence[object]) -> str:
    if len(strings) != 1:
        raise invalid_field(
            place, f'has {len(strings)} strings, 1 is allowed: these heads read no pairs; a batch is [["a"], ["b"]]'
        )
    return str(strings[0])
