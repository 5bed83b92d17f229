import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from model.kernels.library import chosen_name, has_bfloat16, is_available
from model.storage.checkpoint import ServedCheckpoint, load_served
from model.tasks import EMOTIONS, TOPICS
from support.waiting import until

AUTO = "bfloat16" if has_bfloat16() else "float32"  # what dtype auto is on a CPU

HF_PREFIXES = ("", "/hf/summarize", "/hf/emotions", "/hf/topic")


@pytest.mark.parametrize("path", ["/health/ready", *(f"{prefix}/health" for prefix in HF_PREFIXES)])
async def test_ready_is_200(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_loading_is_alive_but_not_ready_until_loaded(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, released = threading.Event(), threading.Event()

    def held_load(*args: Any) -> ServedCheckpoint:
        reached.set()
        assert released.wait(30)
        return load_served(*args)

    monkeypatch.setattr("app.service.load_served", held_load)
    app = create_app(Settings(checkpoint=checkpoint_folder))
    service = app.state.context.service

    def gauge() -> float | None:
        value: float | None = service.metrics.registry.get_sample_value("leximind_ready")
        return value

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leximind") as client:
        loading = asyncio.create_task(service.load())
        assert await asyncio.to_thread(reached.wait, 30)
        assert (await client.get("/health/live")).status_code == 200
        waiting = await client.get("/health/ready")
        assert (waiting.status_code, waiting.json()["detail"]) == (503, "loading")
        assert gauge() == 0
        released.set()
        await loading
        assert (await client.get("/health/ready")).status_code == 200
        assert gauge() == 1
        service.is_leaving = True
        assert gauge() == 0
        await service.drain(1.0)
        assert (await client.get("/health/ready")).json()["detail"] == "draining"
        assert gauge() == 0


async def test_failed_load_is_reported_with_its_reason_and_without_paths(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "secret-place" / "damaged"
    damaged.mkdir(parents=True)
    for file in checkpoint_folder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "model.safetensors").write_bytes(b"\x00" * 64)
    app = create_app(Settings(checkpoint=damaged))
    await app.state.context.service.load()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leximind") as client:
        response = await client.get("/health/ready")
        assert response.status_code == 503
        assert "failed: damaged" in response.json()["detail"]
        assert "model.safetensors" in response.json()["detail"]
        assert "secret-place" not in response.text
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.post("/topic", json={"text": "a"})).status_code == 503


async def test_lifespan_loads_and_drains(checkpoint_folder: Path) -> None:
    app = create_app(Settings(checkpoint=checkpoint_folder))
    async with app.router.lifespan_context(app):
        await until(lambda: app.state.context.service.state != "loading")
        assert app.state.context.service.state == "ready"
        thread = app.state.context.service.deployment.engine._thread
    assert app.state.context.service.state == "draining"
    assert not thread.is_alive()


async def test_leaving_while_loading_leaves_nothing_running(checkpoint_folder: Path) -> None:
    app = create_app(Settings(checkpoint=checkpoint_folder))
    async with app.router.lifespan_context(app):
        pass
    assert app.state.context.service.state == "draining"


@pytest.mark.parametrize("prefix", HF_PREFIXES)
async def test_info_says_what_is_served(client: httpx.AsyncClient, prefix: str) -> None:
    info = (await client.get(f"{prefix}/info")).json()
    assert info["model_id"] == "random"
    assert (info["license"], info["model_terms"]) == ("MIT", "not recorded: see its MODEL_CARD.md")
    assert (info["model_dtype"], info["model_device_type"]) == (AUTO, "cpu")
    assert info["kernels"] == chosen_name()
    assert (info["why_no_kernels"] is None) == is_available()
    assert info["drafts"] == is_available()  # by the kernels alone
    assert (info["max_input_length"], info["max_client_batch_size"]) == (64, 32)
    assert info["tasks"] == ["summarize", "emotions", "topic"]
    assert (tuple(info["emotions"]), tuple(info["topics"])) == (EMOTIONS, TOPICS)


async def test_metrics_are_prometheus_text_and_idle_gauges_are_zero(client: httpx.AsyncClient) -> None:
    await client.post("/analyze", json={"text": "a"})
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    for gauge in ("active_requests", "queue_requests", "queue_tokens", "kv_slots_used"):
        assert f"leximind_{gauge} 0.0" in lines
    assert any(line.startswith('leximind_model_info{checkpoint="random"') for line in lines)
