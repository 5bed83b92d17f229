"""A real server that sends its traces to a real endpoint of OTLP over HTTP, and to one that is not there."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support.waiting import wait_for

pytestmark = pytest.mark.slow

BODY = {"text": "Shares of the chip maker rose twelve percent on Tuesday.", "max_new_tokens": 8}
LONG = {**BODY, "max_new_tokens": 500, "min_new_tokens": 500}


class Collector(ThreadingHTTPServer):
    """Keeps what is exported to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[ExportTraceServiceRequest] = []
        self.headers: list[Any] = []

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.server.headers.append(self.headers)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def status_of(span: Span) -> int:
    return next(one.value.int_value for one in span.attributes if one.key == "http.response.status_code")


def test_collector_receives_the_spans_of_answers_streams_and_clients_that_leave(
    serve: Callable[..., Any], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=one")
    server = serve("--tracing")
    assert httpx.post(f"{server.url}/summarize", json=BODY, timeout=30).status_code == 200
    streamed = httpx.post(f"{server.url}/summarize", json={**BODY, "stream": True}, timeout=30)
    assert streamed.status_code == 200
    with httpx.stream("POST", f"{server.url}/summarize", json={**LONG, "stream": True}, timeout=30) as leaving:
        next(leaving.iter_lines())
    assert httpx.post(f"{server.url}/summarize", json={}, timeout=30).status_code == 422
    wait_for(lambda: "status=499" in server.log.read_text())
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0  # after the last spans are sent
    assert all(headers["x-tenant"] == "one" for headers in collector.headers)
    resource = collector.received[0].resource_spans[0].resource
    assert {one.key: one.value.string_value for one in resource.attributes}["service.name"] == "leximind"
    by_status: dict[int, list[tuple[Span, set[str]]]] = {}
    for span in collector.spans():
        if span.kind == Span.SPAN_KIND_SERVER:
            stages = {one.name for one in collector.spans() if one.parent_span_id == span.span_id}
            by_status.setdefault(status_of(span), []).append((span, stages))
    everything = {"tokenize", "queue", "encode", "decode", "write"}
    assert [stages for _, stages in by_status[200]] == [everything, everything]
    assert [stages for _, stages in by_status[499]] == [everything]
    assert [stages for _, stages in by_status[422]] == [{"write"}]
    traces = {span.trace_id.hex() for one in by_status.values() for span, _ in one}
    assert streamed.headers["traceresponse"].split("-")[1] in traces
    assert all(f"trace_id={trace}" in server.log.read_text() for trace in traces)


def test_collector_that_is_not_there_costs_no_answer_and_ends_no_drain_late(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
        server = serve("--tracing")
        for _ in range(20):
            assert httpx.post(f"{server.url}/summarize", json=BODY, timeout=30).status_code == 200
        began_at = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - began_at < 20
