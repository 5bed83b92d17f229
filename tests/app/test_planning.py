from dataclasses import replace

import pytest

from app.planning import Planner, TextError, UnsupportedTask
from app.text_request import TextRequest
from model.errors import CheckpointError
from model.inference.decoding.options import DecodingOptions
from model.storage.checkpoint import Checkpoint
from model.tasks import Tasks

TASKS = ("summarize", "emotions", "topic")

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
LONG = " ".join(f"{NEWS} That was number {number}." for number in range(12))


@pytest.fixture
def planner(checkpoint: Checkpoint) -> Planner:
    return Planner(checkpoint, 10_000)


def with_prompts(checkpoint: Checkpoint, **prompts: str) -> Checkpoint:
    heads = tuple(replace(head, prompt=prompts[head.name]) for head in checkpoint.tasks.heads)
    return replace(checkpoint, tasks=replace(checkpoint.tasks, prompt=prompts["summarize"], heads=heads))


def test_tasks_with_one_prompt_are_one_request(planner: Planner, checkpoint: Checkpoint) -> None:
    options = DecodingOptions(num_beams=2)
    [plan] = planner.plan([NEWS], TextRequest(TASKS, options), deadline=3.0)
    [request] = plan.requests
    assert request.input_ids == tuple(checkpoint.tokenizer.encode_source(NEWS, "summarize: "))
    assert (request.heads, request.options, request.deadline) == (("emotions", "topic"), options, 3.0)


def test_tasks_with_distinct_prompts_are_a_request_each(checkpoint: Checkpoint) -> None:
    planner = Planner(with_prompts(checkpoint, summarize="summarize: ", emotions="", topic=""), 10_000)
    [plan] = planner.plan([NEWS], TextRequest(TASKS), deadline=0.0)
    summarize, classify = plan.requests
    assert (summarize.options is not None, summarize.heads) == (True, ())
    assert (classify.options, classify.heads) == (None, ("emotions", "topic"))
    assert classify.input_ids == tuple(checkpoint.tokenizer.encode_source(NEWS))


def test_what_is_not_asked_is_not_requested(planner: Planner) -> None:
    [plan] = planner.plan([NEWS], TextRequest(("topic",)), deadline=0.0)
    [request] = plan.requests
    assert (request.heads, request.options) == (("topic",), None)
    assert plan.cost == 0


def test_every_chunk_has_prompt_and_end_and_fits(planner: Planner, checkpoint: Checkpoint) -> None:
    [plan] = planner.plan([LONG], TextRequest(("summarize",)), deadline=0.0)
    prompt = tuple(checkpoint.tokenizer.encode("summarize: "))
    assert len(plan.requests) > 3
    for request in plan.requests:
        assert request.input_ids[: len(prompt)] == prompt
        assert request.input_ids[-1] == checkpoint.tokenizer.eos_id
        assert len(request.input_ids) <= checkpoint.tasks.max_source_tokens


def test_chunk_is_written_as_a_text_of_its_own_would_be(planner: Planner, checkpoint: Checkpoint) -> None:
    [plan] = planner.plan([LONG], TextRequest(("topic",)), deadline=0.0)
    for request in plan.requests:
        text = checkpoint.tokenizer.decode(request.input_ids).removeprefix("summarize: ")
        assert request.input_ids == tuple(checkpoint.tokenizer.encode_source(text, "summarize: "))


def test_text_that_fits_to_the_token_is_not_cut(planner: Planner, checkpoint: Checkpoint) -> None:
    words = "a"
    while len(checkpoint.tokenizer.encode_source(words, "summarize: ")) < checkpoint.tasks.max_source_tokens:
        words += " a"
    assert len(planner.plan([words], TextRequest(("topic",), on_long="error"), 0.0)[0].requests) == 1
    assert len(planner.plan([words + " a"], TextRequest(("topic",)), 0.0)[0].requests) == 2


def test_cost_is_new_tokens_times_beams_over_chunks(planner: Planner) -> None:
    [plan] = planner.plan([LONG], TextRequest(TASKS, DecodingOptions(max_new_tokens=10, num_beams=3)), deadline=0.0)
    assert plan.cost == 30 * len(plan.requests)


@pytest.mark.parametrize("text", ["", "  ", "\u200b", "\ud800"])
def test_bad_text_is_refused_with_its_index(planner: Planner, text: str) -> None:
    with pytest.raises(TextError) as caught:
        planner.plan(["a", "b", text], TextRequest(("topic",)), deadline=0.0)
    assert caught.value.index == 2


def test_task_without_a_head_is_refused_with_the_remedy(checkpoint: Checkpoint) -> None:
    planner = Planner(replace(checkpoint, tasks=Tasks()), 10_000)
    with pytest.raises(UnsupportedTask, match=r"no head for topic.*train"):
        planner.plan(["a"], TextRequest(("summarize", "topic")), deadline=0.0)


def test_prompt_that_leaves_no_room_is_a_bad_checkpoint(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="prompt of topic"):
        Planner(with_prompts(checkpoint, summarize="", emotions="", topic="a word " * 64), 10_000)
