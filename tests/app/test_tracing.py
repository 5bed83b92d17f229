"""Spans of real requests to the real app, as the SDK gives them to an exporter."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app.flags import SettingsError, settings_from
from support.example_requests import ANSWERED, LONG
from support.services import Hold, Serving
from support.waiting import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque"}
COUNTS = {"texts", "tokens", "place", "batch_sources", "batch_rows", "input_tokens", "output_tokens"}
NAMES = {"request_id", "model", "priority"}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr("app.tracing.OTLPSpanExporter", lambda: exporter)
    monkeypatch.setattr("app.tracing.BatchSpanProcessor", SimpleSpanProcessor)
    return exporter


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def split(spans: Sequence[ReadableSpan]) -> tuple[ReadableSpan, dict[str, list[ReadableSpan]]]:
    """The span of the one request, and those below it by name."""
    [request] = [span for span in spans if span.parent is None or span.parent.is_remote]
    stages: dict[str, list[ReadableSpan]] = {}
    for span in spans:
        if span is not request:
            assert span.parent == request.context
            assert request.start_time
            assert span.start_time
            assert request.end_time
            assert span.end_time
            assert request.start_time <= span.start_time <= span.end_time <= request.end_time
            stages.setdefault(span.name, []).append(span)
    return request, stages


async def test_every_route_is_a_span_with_its_stages_below(serving: Serving, exporter: InMemorySpanExporter) -> None:
    async with serving(tracing=True) as client:
        for route, requests in ANSWERED.items():
            for _, shown, body in requests:
                exporter.clear()
                answer = await client.post(route.replace("{head}", "topic"), json=body, headers=CONTEXT)
                assert answer.status_code == 200, answer.text
                request, stages = split(exporter.get_finished_spans())
                assert request.name == f"POST {route}"
                assert attributes(request)["http.route"] == route
                assert attributes(request)["http.response.status_code"] == 200
                assert attributes(request)["leximind.input_tokens"] > 0
                decodes = attributes(request)["leximind.output_tokens"] > 0
                assert stages.keys() == {"tokenize", "queue", "encode", "write"} | ({"decode"} if decodes else set())
                assert len(stages["queue"]) == len(stages["encode"]), shown
                assert attributes(stages["encode"][0])["leximind.batch_sources"] >= 1
                assert len(stages["write"]) == 1
                for number, span in enumerate(stages["queue"]):
                    assert attributes(span)["leximind.tokens"] > 0
                    assert (span.end_time or 0) <= (stages["encode"][number].start_time or 0) + 1_000_000


async def test_context_comes_in_and_goes_out(serving: Serving, exporter: InMemorySpanExporter) -> None:
    async with serving(tracing=True) as client:
        answer = await client.post("/topic", json={"text": "rain"}, headers=CONTEXT)
        request, _ = split(exporter.get_finished_spans())
        assert request.context
        assert request.parent
        assert f"{request.context.trace_id:032x}" == TRACE
        assert f"{request.parent.span_id:016x}" == PARENT
        assert request.context.trace_state.get("vendor") == "opaque"
        assert answer.headers["traceresponse"] == f"00-{TRACE}-{request.context.span_id:016x}-01"
        exporter.clear()
        await client.post("/topic", json={"text": "rain"}, headers={"traceparent": "00-nonsense"})
        assert split(exporter.get_finished_spans())[0].parent is None
        exporter.clear()
        unsampled = await client.post(
            "/topic", json={"text": "rain"}, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}
        )
        assert unsampled.status_code == 200
        assert exporter.get_finished_spans() == ()


async def test_spans_hold_counts_and_fixed_names_alone(serving: Serving, exporter: InMemorySpanExporter) -> None:
    async with serving(tracing=True, api_keys="secret-key") as client:
        headers = {"X-API-Key": "secret-key", "X-Request-Id": "known-id"}
        body = {"text": ["unmistakable words", LONG], "max_new_tokens": 8, "support": True}
        answer = await client.post("/summarize?unmistakable=words", json=body, headers=headers)
        assert answer.status_code == 422
        answer = await client.post("/summarize", json=body, headers=headers)
        assert answer.status_code == 200
        await client.post("/unmistakable/words", json=body, headers=headers)
    spans = exporter.get_finished_spans()
    for span in spans:
        for name, value in attributes(span).items():
            if name.startswith("leximind."):
                assert name.removeprefix("leximind.") in COUNTS | NAMES
                assert isinstance(value, int) or name.removeprefix("leximind.") in NAMES
            else:
                assert name in {"http.request.method", "http.route", "http.response.status_code", "error.type"}
    told = json.dumps([json.loads(span.to_json()) for span in spans])
    for secret in ("unmistakable", "words", "secret", "CHAPTER", *(one["summary"] for one in answer.json())):
        assert secret not in told
    assert "POST unmatched" in told


async def test_refused_request_is_a_span_with_its_status(serving: Serving, exporter: InMemorySpanExporter) -> None:
    async with serving(tracing=True, max_concurrent_requests=1, max_new_tokens=8) as client:
        for body, status in (({"text": ""}, 422), ({"text": "a", "max_new_tokens": 99}, 422), ({"nothing": 1}, 422)):
            exporter.clear()
            assert (await client.post("/summarize", json=body)).status_code == status
            request, stages = split(exporter.get_finished_spans())
            assert attributes(request)["http.response.status_code"] == status
            assert stages.keys() <= {"tokenize", "write"}
            assert request.status.is_unset
        for probe in ("/health/live", "/health/ready", "/metrics"):
            exporter.clear()
            assert "traceresponse" not in (await client.get(probe)).headers
            assert exporter.get_finished_spans() == ()


async def test_failed_request_is_an_error_and_ends_its_stages(
    serving: Serving, exporter: InMemorySpanExporter, hold: Hold
) -> None:
    async with serving(tracing=True) as client:
        with hold:
            first = asyncio.create_task(client.post("/topic", json={"text": "rain"}))
            await asyncio.to_thread(hold.reached.wait, 30)
            late = asyncio.create_task(
                client.post("/topic", json={"text": "snow"}, headers={"X-Request-Timeout-Ms": "50"})
            )
            await until(lambda: sum(span.name == "tokenize" for span in exporter.get_finished_spans()) == 2)
            await asyncio.sleep(0.1)  # its time is over when the model's thread goes on
        assert (await first).status_code == 200
        assert (await late).status_code == 504
    [request] = [span for span in exporter.get_finished_spans() if span.status.status_code is StatusCode.ERROR]
    stages = [span.name for span in exporter.get_finished_spans() if span.parent == request.context]
    assert sorted(stages) == ["queue", "tokenize", "write"]
    assert attributes(request)["error.type"] == "504"


async def test_client_that_leaves_ends_its_stages(serving: Serving, exporter: InMemorySpanExporter) -> None:
    async with serving(tracing=True) as client:
        app, has_begun = client._transport.app, False  # type: ignore[attr-defined]
        body = json.dumps({"text": LONG, "max_new_tokens": 400, "min_new_tokens": 400}).encode()
        is_read = False

        async def receive() -> dict[str, Any]:
            nonlocal is_read, has_begun
            if not is_read:
                is_read = True
                return {"type": "http.request", "body": body, "more_body": False}
            await until(lambda: any(span.name == "encode" for span in exporter.get_finished_spans()))
            has_begun = True
            return {"type": "http.disconnect"}

        async def send(_: dict[str, Any]) -> None:
            pass

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/summarize", "headers": headers, "query_string": b""}
        await app(
            {**scope, "http_version": "1.1", "scheme": "http", "server": ("x", 80), "client": ("x", 1)}, receive, send
        )
    assert has_begun
    request, stages = split(exporter.get_finished_spans())
    assert attributes(request)["http.response.status_code"] == 499
    assert len(stages["decode"]) == len(stages["queue"]) > 1


def test_tracing_that_is_off_imports_nothing() -> None:
    program = """
import sys
from app.main import create_app
from app.settings import Settings
create_app(Settings())
names = ("app.tracing", "opentelemetry.sdk", "opentelemetry.exporter")  # FastAPI imports the API where there is one
assert not [name for name in sys.modules if name.startswith(names)]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_tracing_without_its_extra_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(SettingsError, match=r"--tracing \(LEXIMIND_TRACING\) .*pip install 'leximind\[tracing\]'"):
        settings_from({"tracing": True})


async def test_operators_variables_name_the_service(
    serving: Serving, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resource() -> dict[str, Any]:
        exporter.clear()
        async with serving(tracing=True) as client:
            assert (await client.post("/topic", json={"text": "rain"})).status_code == 200
        return dict(split(exporter.get_finished_spans())[0].resource.attributes)

    assert (await resource())["service.name"] == "leximind"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "summaries")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    named = await resource()
    assert (named["service.name"], named["deployment.environment.name"]) == ("summaries", "test")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with serving(tracing=True) as client:
        exporter.clear()
        assert "traceresponse" not in (await client.post("/topic", json={"text": "rain"})).headers
        assert exporter.get_finished_spans() == ()
