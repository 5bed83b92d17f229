"""Traces by OpenTelemetry, sent by OTLP over HTTP: the only file that imports it, and imported where tracing is on.

A request is a span and each of its stages one below it. They have counts, times and fixed names: no text and no key.
Where to send, how much to sample and what to call the service the SDK reads from the standard variables, `OTEL_*`.
"""

from collections.abc import Mapping
from threading import Lock

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from app.version import VERSION

_OWN = "leximind."  # before the names of attributes for which there is no convention


class Tracing:
    """Begins the traces of requests, and sends what has ended in a thread of its own, which no request waits for."""

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_NAME: "leximind", SERVICE_VERSION: VERSION})
        resource = resource.merge(OTELResourceDetector().detect())  # the operator's names win
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("leximind", VERSION)

    def begin(self, method: str, route: str, headers: Mapping[str, str]) -> "RequestTrace | None":
        """A request has come, as part of the trace that its headers name if they do; None if it is not sampled."""
        span = self._tracer.start_span(
            f"{method} {route}",
            propagate.extract(headers),
            trace.SpanKind.SERVER,
            {"http.request.method": method, "http.route": route},
        )
        return RequestTrace(self._tracer, span) if span.is_recording() else None

    def shutdown(self) -> None:
        """Send what is left, for as long as the exporter's timeout; blocks."""
        self._provider.shutdown()


class RequestTrace:
    """The span of one request."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, Context())
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    @property
    def traceresponse(self) -> str:
        """The header that tells the caller (W3C Trace Context, level 2)."""
        context = self._span.get_span_context()
        return f"00-{self.trace_id}-{trace.format_span_id(context.span_id)}-{context.trace_flags:02x}"

    def begin(self, name: str, **counts: int) -> "SpanStages":
        """The stage `name` of this request begins."""
        return SpanStages(self._tracer, self._context, name, counts)

    def end(self, status: int, facts: Mapping[str, str | int]) -> None:
        """It was answered."""
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attributes(_own(facts))
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


class SpanStages:
    """One stage after the other, each a span; the model's thread and the event loop's may say so at once."""

    def __init__(self, tracer: trace.Tracer, context: Context, name: str, counts: Mapping[str, int]) -> None:
        self._tracer = tracer
        self._context = context
        self._lock = Lock()
        self._span: trace.Span | None = self._start(name, counts)

    def enter(self, name: str, **counts: int) -> None:
        """The stage before has ended and `name` begins; nothing once the last has ended."""
        with self._lock:
            if self._span is not None:
                self._span.end()
                self._span = self._start(name, counts)

    def end(self, **counts: int) -> None:
        """The last stage has ended."""
        with self._lock:
            if self._span is not None:
                self._span.set_attributes(_own(counts))
                self._span.end()
                self._span = None

    def _start(self, name: str, counts: Mapping[str, int]) -> trace.Span:
        return self._tracer.start_span(name, self._context, attributes=_own(counts))


def _own(facts: Mapping[str, str | int]) -> dict[str, str | int]:
    return {_OWN + name: value for name, value in facts.items()}
