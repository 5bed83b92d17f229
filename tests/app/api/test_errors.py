import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.metrics import FAILURES
from app.planning import Planner
from app.settings import Settings
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
from support.engines import FakeClock
from support.waiting import until

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def sample(client: Any, name: str, **labels: str) -> float:
    return client.service.metrics.registry.get_sample_value(f"leximind_{name}", labels) or 0.0


@pytest.mark.parametrize(
    ("method", "path", "status", "title", "error_type"),
    [
        ("GET", "/nothing", 404, "Not Found", "not_found"),
        ("POST", "/summarize/", 404, "Not Found", "not_found"),
        ("GET", "/summarize", 405, "Method Not Allowed", "method_not_allowed"),
        ("DELETE", "/health/live", 405, "Method Not Allowed", "method_not_allowed"),
    ],
)
async def test_unknown_path_and_method_are_problems_too(
    client: httpx.AsyncClient, method: str, path: str, status: int, title: str, error_type: str
) -> None:
    response = await client.request(method, path, headers={"X-Request-Id": "abc"})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem == {
        "type": f"urn:leximind:problem:{error_type}",
        "title": title,
        "status": status,
        "detail": problem["detail"],
        "instance": "urn:leximind:request:abc",
        "error": problem["detail"],
        "error_type": error_type,
    }
    if status == 405:
        assert response.headers["allow"] in problem["detail"]


async def test_model_failure_is_500_without_internals_and_the_next_request_is_answered(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([True])

    def failing(encode: Any) -> Any:
        def failing_encode(*args: Any) -> Any:
            if next(failures, False):
                raise RuntimeError("secret internals at 0xdeadbeef")
            return encode(*args)

        return failing_encode

    for backend in (TorchBackend, NativeBackend):
        monkeypatch.setattr(backend, "encode", failing(backend.encode))
    response = await client.post("/topic", json={"text": "a"})
    assert response.status_code == 500
    assert response.json()["error_type"] == "generation"
    assert "secret" not in response.text
    assert (await client.post("/topic", json={"text": "a"})).status_code == 200
    assert sample(client, "request_failures_total", reason="engine") == 1


async def test_unforeseen_error_is_500_without_internals_and_logged_with_the_id(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret internals")

    monkeypatch.setattr("app.api.routes.topic_answer", broken)
    response = await client.post("/topic", json={"text": "a"}, headers={"X-Request-Id": "find-me"})
    assert response.status_code == 500
    assert response.headers["X-Request-Id"] == "find-me"
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text
    assert "secret internals" in caplog.text


async def test_full_queue_is_429_with_an_integer_retry_after(serving: Serving, hold: Any) -> None:
    async with serving(max_queued_requests=2) as client:
        with hold:
            hold.reached.clear()
            running = asyncio.create_task(client.post("/topic", json={"text": "running"}))
            await asyncio.to_thread(hold.reached.wait, 10)
            queued = [asyncio.create_task(client.post("/topic", json={"text": text})) for text in ("one", "two")]
            await until(lambda: sample(client, "queue_requests") == 2)
            response = await client.post("/topic", json={"text": "three"})
            assert response.status_code == 429
            assert int(response.headers["Retry-After"]) >= 1
            assert response.json()["error_type"] == "overloaded"
        assert [(await one).status_code for one in (running, *queued)] == [200, 200, 200]
        assert sample(client, "request_failures_total", reason="queue") == 1


async def test_full_queue_refuses_before_it_tokenizes(
    serving: Serving, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At ten times the load that can be carried, nine of ten texts would be tokenized for nothing."""
    async with serving(max_queued_requests=16) as client:
        with hold:
            running = asyncio.create_task(client.post("/topic", json={"text": "running"}))
            assert await asyncio.to_thread(hold.reached.wait, 30)
            queued = [asyncio.create_task(client.post("/topic", json={"text": ["a"] * 8})) for _ in range(2)]
            await until(lambda: sample(client, "queue_requests") == 16)
            with monkeypatch.context() as patched:
                patched.setattr(Planner, "plan", None)
                for text in ("a", ["a"] * 8, "long " * 10_000):
                    refused = await client.post("/topic", json={"text": text})
                    assert refused.status_code == 429
                    assert "the queue is full" in refused.json()["detail"]
        assert [(await one).status_code for one in (running, *queued)] == [200, 200, 200]


async def test_refusals_are_counted_by_the_limit_that_was_reached(
    serving: Serving, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counts(client: httpx.AsyncClient) -> dict[str, float]:
        reasons = ("rate_limit", "concurrency", "queue", "tokenizer", "not_ready", "engine", "validation")
        return {
            reason: count for reason in reasons if (count := sample(client, "request_failures_total", reason=reason))
        }

    async with serving(requests_per_second=1) as client:
        while (await client.post("/topic", json={"text": "a"})).status_code == 200:
            pass
        assert counts(client) == {"rate_limit": 1}
    async with serving(max_concurrent_requests=1) as client:
        with hold:
            hold.reached.clear()
            running = asyncio.create_task(client.post("/topic", json={"text": "running"}))
            await asyncio.to_thread(hold.reached.wait, 10)
            monkeypatch.setattr(client.service.deployment.engine.backlog, "retry_after_s", lambda: 17)  # type: ignore[attr-defined]
            refused = await client.post("/topic", json={"text": "a"})
            assert refused.headers["Retry-After"] == "17", "the one estimate, at this limit too"
        await running
        assert counts(client) == {"concurrency": 1}
    async with serving(max_tokenizer_bytes=1) as client:
        monkeypatch.setattr("app.documents._INLINE_COST", 0)
        texts = [client.post("/topic", json={"text": "a bridge " * 4000}) for _ in range(3)]
        assert sorted(one.status_code for one in await asyncio.gather(*texts)) == [200, 429, 429]
        assert counts(client) == {"tokenizer": 2}
        client.service.begin_drain()  # type: ignore[attr-defined]
        await client.post("/topic", json={"text": "a"})
        assert counts(client) == {"tokenizer": 2, "not_ready": 1}


async def test_counters_are_there_before_the_first_failure(client: httpx.AsyncClient) -> None:
    registry = client.service.metrics.registry  # type: ignore[attr-defined]
    for reason in FAILURES:
        assert registry.get_sample_value("leximind_request_failures_total", {"reason": reason}) == 0
    for route in ("/summarize", "/hf/topic", "/predict"):
        for status in ("200", "400", "422", "429", "499", "500", "503", "504"):
            assert registry.get_sample_value("leximind_requests_total", {"route": route, "status": status}) == 0
    for gauge in ("queue_requests", "queue_tokens", "active_requests", "tokenizer_waiting_bytes"):
        assert registry.get_sample_value(f"leximind_{gauge}") == 0
        assert registry.get_sample_value(f"leximind_{gauge}_limit") > 0
    for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc"):
        assert registry.get_sample_value(f"vllm:{name}") == 0


async def test_deadline_of_the_header_is_504(serving: Serving, hold: Any) -> None:
    async with serving() as client:
        with hold:
            hold.reached.clear()
            running = asyncio.create_task(client.post("/topic", json={"text": "running"}))
            await asyncio.to_thread(hold.reached.wait, 10)
            late = asyncio.create_task(
                client.post("/topic", json={"text": "late"}, headers={"X-Request-Timeout-Ms": "1"})
            )
            await until(lambda: sample(client, "queue_requests") == 1)
        response = await late
        assert response.status_code == 504
        assert response.json()["error_type"] == "deadline"
        assert (await running).status_code == 200
        assert sample(client, "request_failures_total", reason="deadline") == 1


async def test_deadlines_are_on_the_clock_that_is_given(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    app = create_app(Settings(checkpoint=checkpoint_folder, threads=1, deadline_s=5), clock=clock)
    service = app.state.context.service
    await service.load()
    deadlines: list[float] = []
    planner = service.deployment.documents._planner
    plan = planner.plan
    monkeypatch.setattr(planner, "plan", lambda *args: deadlines.append(args[-1]) or plan(*args))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leximind") as client:
        assert (await client.post("/topic", json={"text": "a"})).status_code == 200
        clock.now += 100
        assert (await client.post("/topic", json={"text": "a"})).status_code == 200
    assert deadlines == [clock.now - 95, clock.now + 5]
    await service.drain(1.0)


async def test_header_cannot_lengthen_the_deadline(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(deadline_s=5) as client:
        deadlines: list[float] = []
        planner = client.service.deployment.documents._planner  # type: ignore[attr-defined]
        plan = planner.plan
        monkeypatch.setattr(planner, "plan", lambda *args: deadlines.append(args[-1]) or plan(*args))
        clock = client.service.deployment.engine.clock  # type: ignore[attr-defined]
        for header, longest in (("3600000", 5.0), ("2000", 2.0)):
            before = clock()
            await client.post("/topic", json={"text": "a"}, headers={"X-Request-Timeout-Ms": header})
            assert before <= deadlines[-1] - longest <= clock()


async def test_work_before_loading_is_503_and_says_when_to_come_back(checkpoint_folder: Any) -> None:
    app = create_app(Settings(checkpoint=checkpoint_folder))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leximind") as client:
        response = await client.post("/topic", json={"text": "a"})
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert "loading" in response.json()["detail"]


async def test_draining_refuses_new_work_and_finishes_what_is_accepted(serving: Serving, hold: Any) -> None:
    async with serving() as client:
        with hold:
            hold.reached.clear()
            accepted = asyncio.create_task(client.post("/topic", json={"text": "accepted"}))
            await asyncio.to_thread(hold.reached.wait, 10)
            client.service.begin_drain()  # type: ignore[attr-defined]
            refused = await client.post("/topic", json={"text": "refused"})
            assert refused.status_code == 503
            assert "draining" in refused.json()["detail"]
            assert (await client.get("/health/ready")).status_code == 503
            assert (await client.get("/health/live")).status_code == 200
        assert (await accepted).status_code == 200


async def test_what_is_not_finished_within_the_drain_is_answered_503(
    serving: Serving, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.engine._JOIN_S", 0.0)  # the model's thread is held, so it cannot end
    async with serving() as client:
        with hold:
            hold.reached.clear()
            accepted = asyncio.create_task(client.post("/topic", json={"text": "accepted"}))
            await asyncio.to_thread(hold.reached.wait, 10)
            await client.service.drain(0.0)  # type: ignore[attr-defined]
            response = await accepted
        assert response.status_code == 503
        assert "ask again" in response.json()["detail"]


async def test_too_many_at_once_are_429(serving: Serving, hold: Any) -> None:
    async with serving(max_concurrent_requests=1) as client:
        with hold:
            hold.reached.clear()
            running = asyncio.create_task(client.post("/topic", json={"text": "running"}))
            await asyncio.to_thread(hold.reached.wait, 10)
            assert sample(client, "active_requests") == 1
            refused = await client.post("/topic", json={"text": "one too many"})
            assert refused.status_code == 429
            assert refused.headers["Retry-After"] == "1"
            assert (await client.get("/health/ready")).status_code == 200
        assert (await running).status_code == 200
        assert sample(client, "active_requests") == 0
        assert (await client.post("/topic", json={"text": "again"})).status_code == 200


async def test_request_id_is_taken_or_made(client: httpx.AsyncClient) -> None:
    taken = await client.get("/health/live", headers={"X-Request-Id": "trace-1.a_B"})
    assert taken.headers["X-Request-Id"] == "trace-1.a_B"
    for bad in ("", "with space", "x" * 129, 'quote"'):
        made = await client.get("/health/live", headers={"X-Request-Id": bad})
        assert made.headers["X-Request-Id"] != bad
        assert len(made.headers["X-Request-Id"]) == 32


async def test_labels_are_routes_never_what_a_client_wrote(client: httpx.AsyncClient) -> None:
    await client.get("/nothing/secret-path?key=secret")
    await client.post("/topic", json={"text": "a"})
    text = (await client.get("/metrics")).text
    assert "secret" not in text
    assert 'leximind_requests_total{route="unmatched",status="404"} 1.0' in text
    assert 'leximind_requests_total{route="/topic",status="200"} 1.0' in text
    assert (
        'leximind_request_duration_seconds_count{outcome="answered",priority="interactive",route="/topic"} 1.0' in text
    )


async def test_failures_are_counted_by_reason(client: httpx.AsyncClient) -> None:
    await client.post("/topic", json={"text": ""})
    await client.post("/topic", content=b"{", headers={"content-type": "application/json"})
    await client.post("/topic", json={"text": "a" * 3_000_000})
    await client.get("/nothing")
    assert sample(client, "request_failures_total", reason="validation") == 3
    assert sample(client, "requests_total", route="/topic", status="413") == 1


async def test_probe_that_hears_loading_is_no_failure_and_not_in_the_log(
    checkpoint_folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    app = create_app(Settings(checkpoint=checkpoint_folder))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leximind") as client:
        client.service = app.state.context.service  # type: ignore[attr-defined]
        for path in ("/health/ready", "/hf/topic/health", "/health/live", "/metrics"):
            await client.get(path)
        assert sample(client, "requests_total", route="/health/ready", status="503") == 1
        assert sample(client, "request_failures_total", reason="not_ready") == 0
        assert not [record for record in caplog.records if record.name == "leximind.access"]
        await client.post("/topic", json={"text": "a"})
        assert sample(client, "request_failures_total", reason="not_ready") == 1


async def test_access_log_has_route_status_and_no_text(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await client.post("/topic", json={"text": "a very private text"})
    await client.post("/topic", json={"text": "a very private text", "private": 1})
    records = [record for record in caplog.records if record.name == "leximind.access"]
    assert [(record.route, record.status) for record in records] == [("/topic", 200), ("/topic", 422)]  # type: ignore[attr-defined]
    assert "private text" not in caplog.text
