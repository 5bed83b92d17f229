"""Another checkpoint under load: nothing fails, and every answer is what the checkpoint that it names gives alone."""

import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.storage.checkpoint import load_checkpoint
from model.storage.saving import save_checkpoint
from support.depth import depth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ADMIN = {"Authorization": "Bearer operator"}
SUMMARY = {"text": "Shares of the chip maker rose twelve percent on Tuesday.", "max_new_tokens": 24}
TOPIC = {"text": "The home side won the final by two goals to one."}
NUM_RELOADS = depth(6, 20)


@pytest.fixture
def root(checkpoint_folder: Path, tmp_path: Path) -> Path:
    """A folder with two checkpoints that answer differently."""
    root = tmp_path / "checkpoints"
    shutil.copytree(checkpoint_folder, root / "one")
    loaded = load_checkpoint(root / "one", torch.device("cpu"))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    save_checkpoint(root / "two", loaded.model, root / "one" / "spiece.model", loaded.tasks, card="")
    return root


def flags(root: Path) -> list[str]:
    return ["--checkpoint", str(root / "one"), "--admin-keys", "operator", "--reload-root", str(root)]


def reload(url: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/admin/reload", json=body, headers=ADMIN, timeout=60)


def test_reload_under_load_fails_nothing_and_every_answer_is_its_checkpoints(
    serve: Callable[..., Any], root: Path
) -> None:
    url = serve(*flags(root)).url
    alone: dict[str, Any] = {}
    for name in ("two", "one"):
        assert reload(url, {"checkpoint": name}).status_code == 200
        answers = [
            httpx.post(url + path, json=body, timeout=30) for path, body in (("/summarize", SUMMARY), ("/topic", TOPIC))
        ]
        identity = answers[0].headers["X-LexiMind-Checkpoint"]
        assert identity.startswith(f"{name}@")
        alone[identity] = [answer.json() for answer in answers]
    assert alone.keys() == {answers[1]["model"] + "@" + key.partition("@")[2] for key, answers in alone.items()}
    first, second = alone.values()
    assert first != second

    over = threading.Event()
    seen: Counter[str] = Counter()

    def ask(path: str, body: dict[str, Any], place: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                answer = client.post(url + path, json=body)
                assert answer.status_code == 200, answer.text
                identity = answer.headers["X-LexiMind-Checkpoint"]
                assert answer.json() == alone[identity][place]
                seen[identity] += 1

    def stream() -> None:
        while not over.is_set():
            answer = httpx.post(f"{url}/summarize", json={**SUMMARY, "stream": True}, timeout=60)
            last = json.loads(answer.text.strip().rpartition("data: ")[2])
            assert last == alone[answer.headers["X-LexiMind-Checkpoint"]][0]

    with ThreadPoolExecutor(5) as pool:
        asking = [pool.submit(ask, "/summarize", SUMMARY, 0) for _ in range(2)]
        asking += [pool.submit(ask, "/topic", TOPIC, 1) for _ in range(2)]
        asking.append(pool.submit(stream))
        try:
            for number in range(NUM_RELOADS):
                give_up = time.monotonic() + 60
                while (answer := reload(url, {"checkpoint": ("two", "one")[number % 2]})).status_code == 409:
                    assert "still being answered" in answer.json()["detail"]
                    assert time.monotonic() < give_up
                assert answer.status_code == 200, answer.text
                assert answer.json()["checkpoint"] in alone
        finally:
            over.set()
        for one in asking:
            one.result()
    assert seen.keys() == alone.keys()
    metrics = httpx.get(f"{url}/metrics", headers=ADMIN).text
    assert f'leximind_reloads_total{{outcome="done"}} {NUM_RELOADS + 2}.0' in metrics
    for gauge in ("queue_requests", "queue_tokens", "kv_slots_used", "active_requests"):
        assert f"leximind_{gauge} 0.0" in metrics
    assert metrics.count("leximind_model_info{") == 1


def test_reload_after_a_drain_answers_who_asks_again_and_every_answer_is_its_checkpoints(
    serve: Callable[..., Any], root: Path
) -> None:
    """Requests are refused with 503 while neither checkpoint serves; what was accepted before is answered."""
    url = serve(*flags(root), "--reload", "drain").url
    alone: dict[str, Any] = {}
    for name in ("two", "one"):
        assert reload(url, {"checkpoint": name}).status_code == 200
        answer = httpx.post(f"{url}/summarize", json=SUMMARY, timeout=30)
        alone[answer.headers["X-LexiMind-Checkpoint"]] = answer.json()
    over = threading.Event()
    seen: Counter[str] = Counter()

    def ask(stream: bool) -> None:
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                answer = client.post(f"{url}/summarize", json={**SUMMARY, "stream": stream})
                if answer.status_code == 503:
                    seen["refused"] += 1
                    assert client.get(f"{url}/health/live").status_code == 200
                    time.sleep(int(answer.headers["Retry-After"]))
                    continue
                assert answer.status_code == 200, answer.text
                identity = answer.headers["X-LexiMind-Checkpoint"]
                assert json.loads(answer.text.strip().rpartition("data: ")[2]) == alone[identity]
                seen[identity] += 1

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, stream) for stream in (False, False, False, True)]
        try:
            for number in range(depth(2, 20)):
                answer = reload(url, {"checkpoint": ("two", "one")[number % 2]})
                assert answer.status_code == 200, answer.text
                before = seen[answer.json()["checkpoint"]]
                give_up = time.monotonic() + 60
                while seen[answer.json()["checkpoint"]] == before:  # the new one answers
                    assert time.monotonic() < give_up
                    time.sleep(0.01)
        finally:
            over.set()
        for one in asking:
            one.result()
    assert seen.keys() == {*alone, "refused"}


@pytest.mark.parametrize("mode", ["beside", "drain"])
def test_what_cannot_be_served_leaves_the_old_one(
    serve: Callable[..., Any], root: Path, tmp_path: Path, mode: str
) -> None:
    url = serve(*flags(root), "--reload", mode).url
    before = httpx.get(f"{url}/info").json()
    (root / "broken").mkdir()
    shutil.copytree(root / "two", root / "altered")
    with (root / "altered" / "model.safetensors").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"12345678")
    (root / "link").symlink_to(tmp_path)
    for name, message in (
        ("nothing", "no such folder"),
        ("nothing" * 500, "no such folder"),
        ("broken", "no manifest.json"),
        ("altered", "differs from its hash"),
        ("..", "does not lie below reload_root"),
        ("link/checkpoints-2", "does not lie below reload_root"),
        ("/etc", "does not lie below reload_root"),
        ("a\0b", "is no path"),
        (".", "does not lie below reload_root"),
    ):
        refused = reload(url, {"checkpoint": name})
        assert refused.status_code == 422, name
        assert message in refused.json()["detail"], name
        assert httpx.post(f"{url}/topic", json=TOPIC, timeout=30).status_code == 200
    assert httpx.get(f"{url}/info").json() == before


def test_reload_is_for_admin_keys_and_only_where_it_is_allowed(serve: Callable[..., Any], root: Path) -> None:
    url = serve(*flags(root), "--api-keys", "worker").url
    assert httpx.post(f"{url}/admin/reload", json={}).status_code == 401
    assert httpx.post(f"{url}/admin/reload", json={}, headers={"X-API-Key": "worker"}).status_code == 403
    assert httpx.post(f"{url}/admin/reload", content=b"{", headers={"X-API-Key": "worker"}).status_code == 403
    assert reload(url, {"checkpoint": "two"}).status_code == 200
    url = serve("--admin-keys", "operator").url
    assert reload(url, {}).status_code == 404
    url = serve("--reload-root", str(root)).url
    assert reload(url, {}).status_code == 404


def test_sighup_serves_what_the_folder_holds_now(serve: Callable[..., Any], root: Path) -> None:
    server = serve(*flags(root))
    before = httpx.get(f"{server.url}/health/live").headers["X-LexiMind-Checkpoint"]
    two = load_checkpoint(root / "two", torch.device("cpu"))
    save_checkpoint(root / "one", two.model, root / "two" / "spiece.model", two.tasks, card="new")
    server.process.send_signal(signal.SIGHUP)
    give_up = time.monotonic() + 60
    while (now := httpx.get(f"{server.url}/health/live").headers["X-LexiMind-Checkpoint"]) == before:
        assert time.monotonic() < give_up, server.log.read_text()
        time.sleep(0.05)
    assert now.startswith("one@")
    assert httpx.get(f"{server.url}/info").json()["checkpoint"] == now
    (root / "one" / "manifest.json").unlink()
    server.process.send_signal(signal.SIGHUP)
    while f"{now} stays" not in server.log.read_text():
        assert time.monotonic() < give_up, server.log.read_text()
        time.sleep(0.05)
    assert httpx.post(f"{server.url}/topic", json=TOPIC, timeout=30).headers["X-LexiMind-Checkpoint"] == now
