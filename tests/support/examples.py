"""The examples of `/docs`, asked of the bundled checkpoint: `PYTHONPATH=tests python -m support.examples` records them.

The errors are real too: each is what a service answers that is loading, full, held, without heads, or asked wrongly.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import torch

from app.api.examples import RECORDED
from app.main import create_app
from app.settings import Settings
from model.choices import BUNDLED
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
from model.network.leximind import from_tensors
from model.storage.checkpoint import load_checkpoint
from model.storage.saving import save_checkpoint
from support.example_requests import ANSWERED, SHARES, THANKS, WRONG, WRONG_OPTIONS
from support.recorded import identity_of
from support.services import Hold, open_service

# As served wherever it is recorded; the numbers of other precisions differ in the third digit.
SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "threads": 1}
TEXTS = {"text": SHARES}
Examples = list[dict[str, Any]]


async def record() -> Examples:
    """Every example: of what is answered first, then of what is refused."""
    found: Examples = []
    async with open_service(BUNDLED, **SETTINGS) as client:
        for path, asked in ANSWERED.items():
            found += [await ask(client, path, name, about, body) for name, about, body in asked]
        found += await _told(client)
        found += await _refused(client)
        found += await _failed(client)
    found += await _limited()
    found += await _locked()
    found += await _without_heads()
    found += await _loading()
    return found


async def ask(
    client: httpx.AsyncClient,
    path: str,
    name: str,
    about: str,
    body: Any = None,
    expected: int = 200,
    *,
    paths: list[str] | None = None,
    **request: Any,
) -> dict[str, Any]:
    """One example, of `paths`, by default of `path` alone."""
    method = "GET" if path in ("/info", "/metrics") or "health" in path else "POST"
    if body is not None:
        request["json"] = body
    headers = {"X-Request-Id": "example", **request.pop("headers", {})}
    response = await client.request(method, path.replace("{head}", "topic"), headers=headers, **request)
    assert response.status_code == expected, response.text
    kind = response.headers["content-type"].partition(";")[0]
    return {
        "paths": [path] if paths is None else paths,
        "name": name,
        "about": about,
        **({"request": body} if body is not None and expected == 200 else {}),
        "status": response.status_code,
        "type": kind,
        "answer": rounded(response.json()) if kind.endswith("json") else response.text,
    }


def rounded(value: Any) -> Any:
    """Numbers as a reader wants them: scores have 16 digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


async def _told(client: httpx.AsyncClient) -> Examples:
    below = ("/hf/summarize", "/hf/emotions", "/hf/topic", "/hf/classify/{head}")
    health, info = ([f"{path}{end}" for path in ("", *below)] for end in ("/health", "/info"))
    return [
        await ask(client, "/health/live", "alive", "It works"),
        await ask(client, "/health/ready", "ready", "It answers", paths=["/health/ready", *health]),
        await ask(client, "/info", "bundled", "The bundled checkpoint", paths=info),
    ]


async def _refused(client: httpx.AsyncClient) -> Examples:
    found = []
    for path, asked in ANSWERED.items():
        good = asked[0][2]
        for name, (about, wrong) in WRONG.items():
            fields = {key: value for key, value in wrong.items() if key in good or name == "unknown"}
            found.append(await ask(client, path, name, about, {**good, **fields}, 422))
    for name, (about, options) in WRONG_OPTIONS.items():
        text = ANSWERED["/summarize"][0][2]
        found += [
            await ask(client, "/summarize", name, about, {**text, **options}, 422),
            await ask(client, "/analyze", name, about, {**text, "summary": options}, 422),
        ]
    for path in ("/classify/{head}", "/hf/classify/{head}"):
        one = await ask(client, path.replace("{head}", "moods"), "head", "No such head", ANSWERED[path][0][2], 404)
        found.append({**one, "paths": [path]})
    json_type = {"content-type": "application/json"}
    return [
        *found,
        await ask(
            client, "/topic", "not_json", "Not JSON", None, 400, paths=[], content='{"text": "a"', headers=json_type
        ),
        await ask(client, "/topic", "empty", "No body", None, 400, paths=[], content="", headers=json_type),
        await ask(
            client,
            "/topic",
            "slow",
            "A body that does not come",
            None,
            408,
            paths=[],
            content=_slow_body(),
            headers={**json_type, "X-Request-Timeout-Ms": "20"},
        ),
        await ask(client, "/topic", "body", "More bytes than are allowed", {"text": "a" * 2**21}, 413, paths=[]),
        await ask(client, "/topic", "type", "Another type", None, 415, paths=[], content=SHARES),
    ]


async def _slow_body() -> AsyncIterator[bytes]:
    yield b'{"text": '
    await asyncio.sleep(60)


async def _failed(client: httpx.AsyncClient) -> Examples:
    """500, 507 and 504, of a model that is made to fail, to be out of memory, and to hang."""
    with _encode(_full):
        full = await ask(client, "/topic", "memory", "It does not fit into memory", TEXTS, 507, paths=[])
    hold = Hold()
    with _encode(lambda encode: _held(encode, hold)), hold:
        running = asyncio.create_task(client.post("/topic", json=TEXTS))
        await asyncio.to_thread(hold.reached.wait, 10)
        brief = {"X-Request-Timeout-Ms": "50"}
        waiting = asyncio.create_task(
            ask(client, "/topic", "deadline", "The deadline passed", TEXTS, 504, paths=[], headers=brief)
        )
        await asyncio.sleep(0.1)
    await running
    late = await waiting
    with _encode(_failing):
        failed = await ask(client, "/topic", "model", "The model failed", TEXTS, 500, paths=[])
        assert (await client.post("/topic", json=TEXTS)).status_code == 200  # the engine has looked whether it works
    return [full, late, failed]


async def _limited() -> Examples:
    """429: too often, too many at once, too much that waits."""
    async with open_service(BUNDLED, requests_per_second=1, **SETTINGS) as client:
        await client.post("/topic", json=TEXTS)
        rate = await ask(client, "/topic", "rate", "More requests a second than are allowed", TEXTS, 429, paths=[])
    hold = Hold()
    with _encode(lambda encode: _held(encode, hold)):
        async with open_service(BUNDLED, max_queued_requests=2, **SETTINGS) as client:
            with hold:
                hold.reached.clear()
                accepted = [asyncio.create_task(client.post("/topic", json=TEXTS))]
                await asyncio.to_thread(hold.reached.wait, 10)
                accepted += [asyncio.create_task(client.post("/topic", json=TEXTS)) for _ in range(2)]
                await asyncio.sleep(0.1)
                full = await ask(client, "/topic", "queue", "The queue is full", TEXTS, 429, paths=[])
            await asyncio.gather(*accepted)
    return [rate, full]


async def _locked() -> Examples:
    """401 and 403, and what an operator's key opens."""
    keys: dict[str, Any] = {"api_keys": "work", "admin_keys": "operator", "reload_root": BUNDLED.parent}
    worker, operator = {"X-API-Key": "work"}, {"X-API-Key": "operator"}
    reload, name = "/admin/reload", {"checkpoint": BUNDLED.name}
    async with open_service(BUNDLED, **keys, **SETTINGS) as client:
        both = ["/metrics", reload]
        first = asyncio.create_task(client.post(reload, json={}, headers=operator))
        await asyncio.sleep(0)
        busy = await ask(client, reload, "busy", "Another is being loaded", {}, 409, headers=operator)
        assert (await first).status_code == 200
        await asyncio.sleep(0.1)  # the one before has ended
        with _encode(_failing):
            failed = await ask(client, reload, "model", "It cannot answer", {}, 500, headers=operator)
        return [
            busy,
            failed,
            await ask(client, "/topic", "none", "No key", TEXTS, 401, paths=[]),
            await ask(client, "/topic", "wrong", "Not a valid key", TEXTS, 401, paths=[], headers={"X-API-Key": "old"}),
            await ask(client, "/metrics", "class", "A key for inference", None, 403, paths=both, headers=worker),
            await ask(client, reload, "reload", "A checkpoint below reload_root", name, headers=operator),
            await ask(client, reload, "place", "A path elsewhere", {"checkpoint": "../../etc"}, 422, headers=operator),
        ]


async def _without_heads() -> Examples:
    """409, of the bundled network without its heads."""
    with tempfile.TemporaryDirectory() as folder:
        old = load_checkpoint(BUNDLED, torch.device("cpu"))
        weights = {name: tensor for name, tensor in old.model.state_dict().items() if not name.startswith("heads.")}
        network = from_tensors(replace(old.config, heads={}), weights)
        tasks = replace(old.tasks, heads=())
        save_checkpoint(Path(folder, "bare"), network, BUNDLED / "spiece.model", tasks, card="")
        async with open_service(Path(folder, "bare"), **SETTINGS) as client:
            bodies = {"/emotions": {"text": THANKS}, "/topic": TEXTS, "/analyze": {**TEXTS, "tasks": ["topic"]}}
            bodies |= {"/hf/emotions": {"inputs": THANKS}, "/hf/topic": {"inputs": SHARES}}
            bodies |= {"/predict": {"inputs": THANKS}}
            return [
                await ask(client, path, "head", "A checkpoint without this head", body, 409)
                for path, body in bodies.items()
            ]


async def _loading() -> Examples:
    """503, before the checkpoint is loaded."""
    app = create_app(Settings(checkpoint=BUNDLED, **SETTINGS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leximind") as client:
        probes = [path for path in app.openapi()["paths"] if path.endswith(("/ready", "/health"))]
        return [
            await ask(client, "/topic", "loading", "The checkpoint is loading", TEXTS, 503, paths=[]),
            await ask(client, "/health/ready", "loading", "The checkpoint is loading", None, 503, paths=probes),
        ]


@contextlib.contextmanager
def _encode(changed: Any) -> Iterator[None]:
    with contextlib.ExitStack() as patched:
        for backend in (TorchBackend, NativeBackend):
            patched.enter_context(patch.object(backend, "encode", changed(backend.encode)))
        yield


def _failing(encode: Any) -> Any:
    failures = iter([True])

    def failing_encode(*arguments: Any) -> Any:
        if next(failures, False):
            raise RuntimeError("made to fail")
        return encode(*arguments)

    return failing_encode


def _full(_: Any) -> Any:
    def full_encode(*_: Any) -> Any:
        raise MemoryError("made to be full")

    return full_encode


def _held(encode: Any, hold: Hold) -> Any:
    def held_encode(*arguments: Any) -> Any:
        hold.reached.set()
        assert hold.released.wait(30)
        return encode(*arguments)

    return held_encode


if __name__ == "__main__":
    content = {"identity": identity_of(BUNDLED), "examples": asyncio.run(record())}
    RECORDED.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
