"""What a service answers to `REQUESTS`, to be kept: `PYTHONPATH=tests python -m support.recorded CHECKPOINT OUT.json`.

Only to be run where an answer changes on purpose; what is recorded says what has to stay.
"""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import httpx
from safetensors.torch import load_file

from app.main import create_app
from app.settings import Settings
from support.recorded_requests import REQUESTS


async def answers_of(checkpoint: Path) -> list[dict[str, Any]]:
    """Status and body of each of `REQUESTS`, asked one after the other in float32 on one thread of the CPU."""
    settings = Settings(checkpoint=checkpoint, device="cpu", dtype="float32", threads=1, max_items=8)
    app = create_app(settings)
    await app.state.context.service.load()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://leximind", timeout=60) as client:
        answers = [await _ask(client, path, body) for path, body in REQUESTS]
    await app.state.context.service.drain(5.0)
    return answers


async def _ask(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, json=body, headers={"X-Request-Id": "recorded"})
    return {"status": response.status_code, "type": response.headers["content-type"], "body": response.text}


def identity_of(checkpoint: Path) -> str:
    """A hash of vocabulary, words and every number of the weights, whatever the tensors are called and where they lie.

    The answers of another one differ.
    """
    tensors = load_file(checkpoint / "model.safetensors").values()
    numbers = sorted(hashlib.sha256(tensor.float().numpy().tobytes()).hexdigest() for tensor in tensors)
    vocabulary = hashlib.sha256((checkpoint / "spiece.model").read_bytes()).hexdigest()
    words = json.loads((checkpoint / "tasks.json").read_bytes()).get("words", [])
    return hashlib.sha256("".join([vocabulary, *numbers, *words]).encode()).hexdigest()


if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:])
    record = {"identity": identity_of(folder), "answers": asyncio.run(answers_of(folder))}
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
