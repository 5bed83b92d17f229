from typing import Any

import httpx
import pytest

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
THANKS = "Thank you for the flowers!"


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("parameters", [None, {}, {"truncation": "do_not_truncate"}])
async def test_hf_summarize_gives_a_list_of_summaries(client: httpx.AsyncClient, parameters: Any) -> None:
    ours = await post(client, "/summarize", {"text": [NEWS, THANKS]})
    extra = {} if parameters is None else {"parameters": parameters}
    assert await post(client, "/hf/summarize", {"inputs": NEWS, **extra}) == [{"summary_text": ours[0]["summary"]}]
    assert await post(client, "/hf/summarize", {"inputs": [NEWS, THANKS], **extra}) == [
        {"summary_text": one["summary"]} for one in ours
    ]


async def test_hf_summarize_refuses_what_its_answer_has_no_room_for(client: httpx.AsyncClient) -> None:
    body = {"inputs": NEWS, "parameters": {"generate_parameters": {"support": True}}}
    response = await client.post("/hf/summarize", json=body)
    assert response.status_code == 422
    assert "parameters.generate_parameters.support: true, and this answer has no room" in response.json()["error"]


async def test_hf_truncation_reads_the_beginning_only(client: httpx.AsyncClient) -> None:
    long = " ".join(f"{NEWS} {number}." for number in range(9))
    cut = await post(client, "/summarize", {"text": long, "on_long": "truncate"})
    body = {"inputs": long, "parameters": {"truncation": "only_first"}}
    assert await post(client, "/hf/summarize", body) == [{"summary_text": cut["summary"]}]


@pytest.mark.parametrize(("task", "num_labels"), [("emotions", 28), ("topic", 4)])
async def test_hf_classification_is_nested_and_best_first(
    client: httpx.AsyncClient, task: str, num_labels: int
) -> None:
    [scores] = await post(client, f"/hf/{task}", {"inputs": NEWS, "parameters": {}})
    assert len(scores) == num_labels
    assert [one["score"] for one in scores] == sorted((one["score"] for one in scores), reverse=True)
    assert await post(client, f"/hf/{task}", {"inputs": NEWS, "parameters": {"top_k": 2}}) == [scores[:2]]
    assert len(await post(client, f"/hf/{task}", {"inputs": [NEWS, THANKS]})) == 2


async def test_predict_is_flat_for_one_input_and_nested_for_a_batch(client: httpx.AsyncClient) -> None:
    [emotions] = await post(client, "/hf/emotions", {"inputs": NEWS})
    assert await post(client, "/predict", {"inputs": NEWS}) == emotions
    assert await post(client, "/predict", {"inputs": [NEWS]}) == emotions
    assert await post(client, "/predict", {"inputs": [[NEWS]], "truncate": None, "truncation_direction": "right"}) == [
        emotions
    ]
    batch = await post(client, "/predict", {"inputs": [[NEWS], [THANKS]]})
    assert [len(one) for one in batch] == [28, 28]


async def test_predict_serves_topics_too(client: httpx.AsyncClient) -> None:
    assert [await post(client, "/predict?task=topic", {"inputs": NEWS})] == await post(
        client, "/hf/topic", {"inputs": NEWS}
    )
