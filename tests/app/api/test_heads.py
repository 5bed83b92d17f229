"""Heads that no source knows of: a checkpoint has them, and every way of asking answers by them."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.main import create_app
from app.settings import Settings
from model.network.leximind import LexiMind
from model.storage.checkpoint import Checkpoint
from model.storage.saving import save_checkpoint
from model.tasks import Head, Tasks
from support.services import Serving

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
LONG = " ".join(f"{NEWS} That was number {number} of all the records." for number in range(9))
CATEGORY = Head("category", "single_label", ("politics", "sport", "tech"), temperature=2.0, prompt="")
TAGS = Head("tags", "multi_label", ("urgent", "billing", "praise"), (0.3, 0.4, 0.5), prompt="")


def save(folder: Path, checkpoint: Checkpoint, *heads: Head) -> Path:
    torch.manual_seed(5)
    config = replace(checkpoint.model.config, heads={head.name: len(head.labels) for head in heads})
    model = LexiMind(config).eval().requires_grad_(False)
    for head in model.heads.values():
        torch.nn.init.normal_(head.linear.weight)
    tasks = Tasks(heads=heads, max_source_tokens=checkpoint.tasks.max_source_tokens)
    save_checkpoint(folder, model, checkpoint.folder / "spiece.model", tasks, card="")
    return folder


@pytest.fixture(scope="module")
def own_folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "own"
    return save(folder, checkpoint, *checkpoint.tasks.heads, CATEGORY, TAGS)


@pytest.fixture
async def own(serving: Serving, own_folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(checkpoint=own_folder, dtype="float32") as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def refused(client: httpx.AsyncClient, path: str, status: int, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


async def test_head_of_one_label_answers_with_it_and_all_scores(own: httpx.AsyncClient) -> None:
    body = await ask(own, "/classify/category", text=NEWS)
    assert list(body) == ["label", "score", "scores", "model"]
    assert {one["label"] for one in body["scores"]} == set(CATEGORY.labels)
    assert body["scores"][0] == {"label": body["label"], "score": body["score"]}
    assert sum(one["score"] for one in body["scores"]) == pytest.approx(1, abs=1e-6)
    assert (await ask(own, "/classify/category", text=NEWS, top_k=2))["scores"] == body["scores"][:2]


async def test_head_of_several_labels_answers_with_those_that_pass(own: httpx.AsyncClient) -> None:
    everything = (await ask(own, "/classify/tags", text=NEWS, threshold=0))["labels"]
    limits = dict(zip(TAGS.labels, TAGS.thresholds, strict=True))
    assert {one["label"] for one in everything} == set(TAGS.labels)
    answer = await ask(own, "/classify/tags", text=NEWS)
    assert list(answer) == ["labels", "model"]
    assert answer["labels"] == [one for one in everything if one["score"] >= limits[one["label"]]]
    assert (await ask(own, "/classify/tags", text=NEWS, top_k=1))["labels"] == everything[:1]


async def test_temperature_of_the_checkpoint_is_applied(
    serving: Serving, own: httpx.AsyncClient, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    cold = save(tmp_path / "cold", checkpoint, *checkpoint.tasks.heads, replace(CATEGORY, temperature=1.0), TAGS)
    warm = {one["label"]: one["score"] for one in (await ask(own, "/classify/category", text=NEWS))["scores"]}
    async with serving(checkpoint=cold, dtype="float32") as client:
        plain = {one["label"]: one["score"] for one in (await ask(client, "/classify/category", text=NEWS))["scores"]}
    roots = {label: score**0.5 for label, score in plain.items()}  # softmax of half the logits
    assert warm == pytest.approx({label: root / sum(roots.values()) for label, root in roots.items()}, abs=1e-5)


async def test_built_in_heads_are_heads_like_any(own: httpx.AsyncClient) -> None:
    topic = await ask(own, "/topic", text=NEWS)
    assert await ask(own, "/classify/topic", text=NEWS) == {"label": topic.pop("topic"), **topic}
    emotions = await ask(own, "/emotions", text=LONG, top_k=3)
    assert await ask(own, "/classify/emotions", text=LONG, top_k=3) == {"labels": emotions.pop("emotions"), **emotions}


async def test_lists_and_long_texts_are_answered(own: httpx.AsyncClient) -> None:
    answers = await ask(own, "/classify/category", text=[LONG, NEWS])
    assert answers[1] == await ask(own, "/classify/category", text=NEWS)
    assert answers[0]["scores"] != answers[1]["scores"]


async def test_analyze_answers_by_all_heads_or_those_that_are_named(own: httpx.AsyncClient) -> None:
    options = {"summary": {"max_new_tokens": 4}}
    body = await ask(own, "/analyze", text=NEWS, **options)
    assert list(body) == ["summary", "emotions", "topic", "category", "tags"]
    assert body["category"] == await ask(own, "/classify/category", text=NEWS)
    assert body["tags"] == await ask(own, "/classify/tags", text=NEWS)
    assert list(await ask(own, "/analyze", text=NEWS, tasks=["tags", "topic"])) == ["topic", "tags"]


async def test_shapes_of_others_serve_any_head(own: httpx.AsyncClient) -> None:
    scores = (await ask(own, "/classify/category", text=NEWS))["scores"]
    assert await ask(own, "/hf/classify/category", inputs=NEWS) == [scores]
    top = await ask(
        own, "/hf/classify/category", inputs=[NEWS], parameters={"top_k": 1, "function_to_apply": "softmax"}
    )
    assert top == [scores[:1]]
    assert await ask(own, "/predict?task=category", inputs=NEWS) == scores
    body = await refused(own, "/hf/classify/tags", 422, inputs=NEWS, parameters={"function_to_apply": "softmax"})
    assert "send 'sigmoid'" in body["detail"]
    assert (await own.get("/hf/classify/category/info")).json()["model_id"] == "own"
    assert (await own.get("/hf/classify/category/health")).json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/classify/moods", "/hf/classify/moods", "/classify/summarize"])
async def test_unknown_head_in_a_path_is_404_with_those_that_there_are(own: httpx.AsyncClient, path: str) -> None:
    body = await refused(own, path, 404, **({"inputs": NEWS} if "hf" in path else {"text": NEWS}))
    assert body["error_type"] == "not_found"
    assert body["detail"] == "this checkpoint has no head of that name; it has emotions, topic, category, tags"


async def test_unknown_head_in_body_or_query_is_422(own: httpx.AsyncClient) -> None:
    expected = "'emotions', 'topic', 'category' or 'tags'"
    body = await refused(own, "/analyze", 422, text=NEWS, tasks=["tags", "moods"])
    assert body["detail"] == f"tasks[1]: 'moods' is not allowed; it must be 'summarize', {expected}"
    body = await refused(own, "/predict?task=moods", 422, inputs=NEWS)
    assert body["detail"] == f"task: 'moods' is not allowed; it must be {expected}"


async def test_checkpoint_without_the_built_in_heads_answers_409_there(
    serving: Serving, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    async with serving(checkpoint=save(tmp_path / "alone", checkpoint, CATEGORY)) as client:
        assert (await ask(client, "/classify/category", text=NEWS))["label"] in CATEGORY.labels
        for path in ("/topic", "/emotions", "/analyze", "/predict?task=topic", "/hf/topic"):
            body = {"inputs": NEWS} if "/predict" in path or "/hf" in path else {"text": NEWS}
            body |= {"tasks": ["topic"]} if path == "/analyze" else {}
            assert "no head" in (await refused(client, path, 409, **body))["detail"]
        assert (await refused(client, "/classify/topic", 404, text=NEWS))["detail"].endswith("it has category")
        assert list(await ask(client, "/analyze", text=NEWS, summary={"max_new_tokens": 4})) == ["summary", "category"]


async def test_threshold_of_a_head_of_one_label_is_refused(own: httpx.AsyncClient) -> None:
    body = await refused(own, "/classify/category", 422, text=NEWS, threshold=0.5)
    assert body["errors"][0]["field"] == "threshold"
    assert "leave it out" in body["detail"]


async def test_info_has_every_head(own: httpx.AsyncClient) -> None:
    info = (await own.get("/info")).json()
    assert info["tasks"] == ["summarize", "emotions", "topic", "category", "tags"]
    assert info["heads"][2:] == [
        {
            "name": head.name,
            "kind": head.kind,
            "labels": list(head.labels),
            "thresholds": list(head.thresholds),
            "temperature": head.temperature,
        }
        for head in (CATEGORY, TAGS)
    ]


async def test_document_names_the_heads_once_they_are_known(own_folder: Path) -> None:
    app = create_app(Settings(checkpoint=own_folder, threads=1))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://leximind") as client:
        before = (await client.get("/openapi.json")).json()
        await app.state.context.service.load()
        after = (await client.get("/openapi.json")).json()
        again = (await client.get("/openapi.json")).json()
        await app.state.context.service.drain(1.0)
    names = ["emotions", "topic", "category", "tags"]

    def enums(document: dict[str, Any]) -> list[list[str] | None]:
        head = document["paths"]["/classify/{head}"]["post"]["parameters"][0]
        task = document["paths"]["/predict"]["post"]["parameters"][0]
        items = document["components"]["schemas"]["AnalyzeBody"]["properties"]["tasks"]["anyOf"][0]["items"]
        return [head["schema"].get("enum"), task["schema"]["enum"], items["enum"]]

    assert enums(before) == [None, names[:2], ["summarize", *names[:2]]]
    assert enums(after) == [names, names, ["summarize", *names]]
    assert again == after
    assert before["paths"].keys() == after["paths"].keys()


async def test_metrics_have_the_route_s_template_and_the_checkpoint_s_names(own: httpx.AsyncClient) -> None:
    await ask(own, "/classify/category", text=NEWS)
    await refused(own, "/classify/secret-word", 404, text=NEWS)
    await own.post("/classify/a/b", json={"text": NEWS})
    text = (await own.get("/metrics")).text
    assert 'leximind_requests_total{route="/classify/{head}",status="200"} 1.0' in text
    assert 'leximind_requests_total{route="/classify/{head}",status="404"} 1.0' in text
    assert 'leximind_requests_total{route="unmatched",status="404"} 1.0' in text
    assert 'leximind_queue_wait_seconds_count{priority="interactive",task="category"} 1.0' in text
    assert "secret-word" not in text


async def test_document_describes_the_answers_of_any_head(own: httpx.AsyncClient) -> None:
    document = (await own.get("/openapi.json")).json()
    classify = document["paths"]["/classify/{head}"]["post"]
    assert "404" in classify["responses"]
    answers = json.dumps(classify["responses"]["200"])
    assert "LabelsAnswer" in answers
    assert "LabelAnswer" in answers
