"""What the page shows while a summary is decoded; the page itself is tests/e2e/test_demo.py's."""

from typing import Any

import httpx
import pytest

from app.demo import markup, page
from app.demo.client import Client
from support.services import Serving

LONG = " ".join(f"Shares of the chip maker rose {number} percent on Tuesday." for number in range(40))


@pytest.mark.parametrize("text", [LONG[:58], LONG])
async def test_a_summary_streams_in(serving: Serving, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    body: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 40, "on_long": "reduce", "support": True}
    async with serving() as service:
        again = {"transport": service._transport, "base_url": service.base_url}
        monkeypatch.setattr(Client, "_http", lambda _: httpx.AsyncClient(**again))
        monkeypatch.setattr(page, "_PIECES_EVERY_S", 0.0)
        answer = (await service.post("/summarize", json={"text": text, **body})).json()
        shown = [one async for one, *_ in page._summarize(Client("http://leximind"), text, {"text": text, **body})]
    *before, last = shown
    assert last == markup.summary(answer)
    assert before[-1] == markup.partial_summary(answer["summary"])
    pieces = [one for one in before if "parts are summarized" not in one]
    assert len(pieces) > answer["output_tokens"] / 2
    assert (len(pieces) < len(before)) == (answer["chunks"] > 1)
