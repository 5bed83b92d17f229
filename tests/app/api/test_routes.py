import json
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.config import ModelConfig
from model.network.leximind import LexiMind
from model.storage.checkpoint import Checkpoint, load_checkpoint
from model.storage.saving import save_checkpoint
from model.tasks import EMOTIONS, TOPICS, Tasks

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
THANKS = "Thank you for the flowers!"
LONG = " ".join(f"{NEWS} That was number {number}." for number in range(12))


async def answer(client: httpx.AsyncClient, path: str, **body: object) -> dict:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_summary_has_the_members_of_the_contract(client: httpx.AsyncClient) -> None:
    body = await answer(client, "/summarize", text=NEWS, max_new_tokens=5)
    assert list(body) == ["summary", "finish_reason", "input_tokens", "output_tokens", "chunks", "model"]
    assert body["finish_reason"] == "length"
    assert (body["output_tokens"], body["chunks"], body["model"]) == (5, 1, "random")


async def test_input_tokens_count_prompt_and_end(client: httpx.AsyncClient, checkpoint: Checkpoint) -> None:
    body = await answer(client, "/summarize", text=NEWS, max_new_tokens=1)
    assert body["input_tokens"] == len(checkpoint.tokenizer.encode("summarize: " + NEWS)) + 1


@pytest.mark.parametrize("path", ["/summarize", "/emotions", "/topic", "/analyze"])
async def test_list_gives_a_list_in_order_with_the_answers_of_each_alone(
    client: httpx.AsyncClient, same: Callable[[Any, Any], bool], path: str
) -> None:
    texts = [NEWS, THANKS, NEWS + " " + THANKS]
    alone = [await answer(client, path, text=text) for text in texts]
    assert same(await answer(client, path, text=texts), alone)
    assert same(await answer(client, path, text=texts[:1]), alone[:1])
    assert not same(alone[0], alone[1])


async def test_emotions_are_those_at_or_above_their_own_threshold_best_first(
    client: httpx.AsyncClient, checkpoint: Checkpoint
) -> None:
    everything = (await answer(client, "/emotions", text=NEWS, threshold=0.0))["emotions"]
    own = dict(zip(EMOTIONS, checkpoint.tasks.head("emotions").thresholds, strict=True))
    passing = [one for one in everything if one["score"] >= own[one["label"]]]
    assert 0 < len(passing) < len(EMOTIONS)
    assert (await answer(client, "/emotions", text=NEWS))["emotions"] == passing
    assert [one["score"] for one in everything] == sorted((one["score"] for one in everything), reverse=True)
    assert {one["label"] for one in everything} == set(EMOTIONS)


async def test_threshold_overrides_every_label(client: httpx.AsyncClient) -> None:
    everything = (await answer(client, "/emotions", text=NEWS, threshold=0))["emotions"]
    middle = everything[10]["score"]
    assert (await answer(client, "/emotions", text=NEWS, threshold=middle))["emotions"] == everything[:11]
    assert (await answer(client, "/emotions", text=NEWS, threshold=1.0))["emotions"] == []


async def test_top_k_gives_the_best_whatever_the_threshold(client: httpx.AsyncClient) -> None:
    everything = (await answer(client, "/emotions", text=NEWS, threshold=0))["emotions"]
    assert (await answer(client, "/emotions", text=NEWS, top_k=27))["emotions"] == everything[:27]
    assert (await answer(client, "/emotions", text=NEWS, top_k=2, threshold=1.0))["emotions"] == everything[:2]


async def test_topic_scores_sum_to_one_and_lead_with_the_topic(client: httpx.AsyncClient) -> None:
    body = await answer(client, "/topic", text=NEWS)
    assert sum(one["score"] for one in body["scores"]) == pytest.approx(1.0, abs=1e-6)
    assert {one["label"] for one in body["scores"]} == set(TOPICS)
    assert body["scores"][0] == {"label": body["topic"], "score": body["score"]}
    assert (await answer(client, "/topic", text=NEWS, top_k=2))["scores"] == body["scores"][:2]


async def test_analyze_gives_what_each_route_gives(client: httpx.AsyncClient) -> None:
    options = {"max_new_tokens": 7, "num_beams": 2}
    body = await answer(client, "/analyze", text=NEWS, summary=options)
    assert body == {
        "summary": await answer(client, "/summarize", text=NEWS, **options),
        "emotions": await answer(client, "/emotions", text=NEWS),
        "topic": await answer(client, "/topic", text=NEWS),
    }


async def test_analyze_leaves_out_what_was_not_asked(client: httpx.AsyncClient) -> None:
    assert list(await answer(client, "/analyze", text=NEWS, tasks=["topic", "emotions", "topic"])) == [
        "emotions",
        "topic",
    ]


async def test_analyze_with_one_prompt_is_one_encoder_pass_of_one_source(
    client: httpx.AsyncClient, num_encodes: list[int]
) -> None:
    await answer(client, "/analyze", text=NEWS)
    assert num_encodes == [1]


async def test_analyze_with_two_prompts_encodes_twice(
    serving: Serving,
    checkpoint: Checkpoint,
    spiece: Path,
    tmp_path: Path,
    num_encodes: list[int],
    same: Callable[[Any, Any], bool],
) -> None:
    tasks = Tasks(heads=tuple(replace(head, prompt="") for head in checkpoint.tasks.heads))
    save_checkpoint(tmp_path / "two", checkpoint.model, spiece, tasks, card="")
    async with serving(checkpoint=tmp_path / "two") as client:
        num_encodes.clear()  # warm-up
        body = await answer(client, "/analyze", text=NEWS)
        assert sum(num_encodes) == 2
        assert same(body["summary"], await answer(client, "/summarize", text=NEWS))
        assert same(body["topic"], await answer(client, "/topic", text=NEWS))


@pytest.mark.parametrize(
    ("path", "body"),
    [("/emotions", {}), ("/topic", {}), ("/analyze", {"tasks": ["topic"]}), ("/hf/topic", None), ("/predict", None)],
)
async def test_checkpoint_without_heads_answers_409_with_the_remedy(
    serving: Serving, spiece: Path, tmp_path: Path, checkpoint: Checkpoint, path: str, body: dict | None
) -> None:
    fields = checkpoint.model.config.to_json() | {"heads": {}}
    save_checkpoint(tmp_path / "plain", LexiMind(ModelConfig.from_json(fields)), spiece, Tasks(), card="")
    async with serving(checkpoint=tmp_path / "plain") as client:
        response = await client.post(path, json={"inputs": NEWS} if body is None else {"text": NEWS, **body})
        assert response.status_code == 409
        assert "no head" in response.json()["detail"]
        assert "train" in response.json()["detail"]
        assert (await client.post("/summarize", json={"text": NEWS})).status_code == 200


async def test_analyze_asks_what_the_checkpoint_has(
    serving: Serving, spiece: Path, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    fields = checkpoint.model.config.to_json() | {"heads": {}}
    save_checkpoint(tmp_path / "plain", LexiMind(ModelConfig.from_json(fields)), spiece, Tasks(), card="")
    async with serving(checkpoint=tmp_path / "plain") as client:
        assert list(await answer(client, "/analyze", text=NEWS)) == ["summary"]


async def test_decoding_options_reach_the_model(client: httpx.AsyncClient) -> None:
    greedy = await answer(client, "/summarize", text=NEWS, max_new_tokens=12)
    beams = await answer(client, "/summarize", text=NEWS, max_new_tokens=12, num_beams=4)
    hot = {"do_sample": True, "temperature": 5.0, "top_k": 0, "max_new_tokens": 12}
    first, again, other = [await answer(client, "/summarize", text=NEWS, seed=seed, **hot) for seed in (1, 1, 2)]
    assert first == again
    assert len({one["summary"] for one in (greedy, beams, first, other)}) == 4


async def test_long_text_is_read_in_chunks_and_says_how_many(client: httpx.AsyncClient) -> None:
    body = await answer(client, "/summarize", text=LONG, max_new_tokens=4)
    assert body["chunks"] > 2
    assert body["output_tokens"] == 4 * body["chunks"]


async def test_long_text_may_be_truncated(client: httpx.AsyncClient, checkpoint: Checkpoint) -> None:
    body = await answer(client, "/summarize", text=LONG, max_new_tokens=4, on_long="truncate")
    assert (body["chunks"], body["input_tokens"]) == (1, checkpoint.tasks.max_source_tokens)


async def test_long_text_may_be_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/summarize", json={"text": [NEWS, LONG], "on_long": "error"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "text[1]"
    assert "64 are allowed" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/emotions", "/topic"])
async def test_long_text_is_classified_in_chunks(client: httpx.AsyncClient, num_encodes: list[int], path: str) -> None:
    await answer(client, path, text=LONG)
    assert sum(num_encodes) > 2


async def test_equal_chunks_are_encoded_once(client: httpx.AsyncClient, num_encodes: list[int]) -> None:
    await answer(client, "/topic", text=[NEWS] * 8)
    assert num_encodes == [1]


async def test_checkpoint_is_named_after_its_folder(serving: Serving, checkpoint_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint_folder, tmp_path / "other")
    async with serving(checkpoint=tmp_path / "other") as client:
        assert (await answer(client, "/topic", text=NEWS))["model"] == "other"


def test_fixture_is_a_real_checkpoint(checkpoint_folder: Path, checkpoint: Checkpoint) -> None:
    assert json.loads((checkpoint_folder / "manifest.json").read_text())
    assert load_checkpoint(checkpoint_folder, checkpoint.model.device).tasks == checkpoint.tasks


async def test_exchange_that_is_over_keeps_no_checkpoint(client: httpx.AsyncClient) -> None:
    """Its scope lives as long as its connection is idle, and the weights would live with it after a reload."""
    scopes: list[Any] = []

    async def recorded(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await client._transport.app(scope, receive, send)  # type: ignore[attr-defined]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(recorded), base_url="http://leximind") as other:
        assert (await other.post("/topic", json={"text": "rain"})).status_code == 200
    assert scopes[0]["state"]["context"].deployment is None
