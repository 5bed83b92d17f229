"""`"grounded": true` by requests: single, listed, streamed, with beams, in chunks."""

import json
from typing import Any

import httpx
import pytest

from model.support import unsupported
from support.services import Serving

NEWS = "Shares of the chip maker rose 12 percent on Tuesday, said Ann Smith of Bristol in 2018."
LONG = " ".join(f"{NEWS} That was number {number}." for number in range(12))


@pytest.mark.parametrize("text", [NEWS, LONG])
@pytest.mark.parametrize("extra", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 0, "temperature": 3.0}])
async def test_no_answer_has_a_name_or_number_that_its_text_lacks(
    client: httpx.AsyncClient, text: str, extra: dict[str, Any]
) -> None:
    """Of a network with random weights, which invents them."""
    body = {"text": text, "max_new_tokens": 40, **extra}
    free = (await client.post("/summarize", json=body)).json()
    answer = (await client.post("/summarize", json={**body, "grounded": True, "support": True})).json()
    assert answer["chunks"] == free["chunks"]
    assert answer["support"]["unsupported"] == []
    assert unsupported(answer["summary"], text) == []
    if extra.get("do_sample"):
        others = [(await client.post("/summarize", json=body | {"seed": seed})).json() for seed in range(5)]
        assert any(unsupported(other["summary"], text) for other in others)


async def test_lists_streams_and_analyses_give_the_same(serving: Serving) -> None:
    async with serving(dtype="float32") as client:
        body = {"max_new_tokens": 20, "grounded": True, "do_sample": True, "top_k": 0, "temperature": 3.0}
        alone = (await client.post("/summarize", json={"text": NEWS, **body})).json()
        listed = (await client.post("/summarize", json={"text": [LONG, NEWS], **body})).json()
        assert listed[1] == alone
        stream = (await client.post("/summarize", json={"text": NEWS, "stream": True, **body})).text
        assert json.loads(stream.strip().split("\n\n")[-1].removeprefix("event: summary\ndata: ")) == alone
        analysis = (await client.post("/analyze", json={"text": NEWS, "tasks": ["summarize"], "summary": body})).json()
        assert analysis["summary"]["summary"] == alone["summary"]
