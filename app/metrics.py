"""Every Prometheus metric of the service, in one table; knows neither the engine nor HTTP.

Who writes what: the HTTP layer counts requests, failures, durations and `active_requests`, because one of its
requests can be many of the engine's; the engine writes all the rest. Label values come from fixed sets, never
from a client.
"""

import platform
from collections.abc import Iterable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from app.version import VERSION

# What a request can fail of; those of the second line are refusals, each at its own limit.
FAILURES = (
    *("validation", "deadline", "cancelled", "engine", "memory"),
    *("rate_limit", "concurrency", "buffered_bytes", "queue", "tokenizer", "not_ready"),
)

_PREFIX = "leximind_"
# A decode step takes 0.1 ms on a GPU and 50 ms on a CPU, an encoder batch ten times as long, a request 1 ms to 60 s.
_STEP_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_ENCODE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_REQUEST_TOKENS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_BATCH_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)


class Metrics:
    """The metrics of one app, each an attribute named without the prefix, in a registry of its own by default."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        # A second series for each, with the time of its birth, that no query asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._define_connections()
        self._define_requests()
        self._define_work()
        self._define_facts()

    def render(self) -> bytes:
        """All metrics in the text format that Prometheus scrapes; its type is `content_type`."""
        return generate_latest(self.registry)

    def _define_connections(self) -> None:
        self.open_connections = self._gauge("open_connections", "Connections of clients.")
        self.open_connections_limit = self._gauge("open_connections_limit", "Most connections (max_connections).")
        self.buffered_bytes = self._gauge("buffered_bytes", "Bytes of request bodies that are held.")
        self.buffered_bytes_limit = self._gauge("buffered_bytes_limit", "Most of them (max_buffered_bytes).")

    def _define_requests(self) -> None:
        self.requests_total = self._counter("requests_total", "Answered HTTP requests.", "route", "status")
        self.request_failures_total = self._counter("request_failures_total", "Requests without an answer.", "reason")
        for reason in FAILURES:  # at 0 from the start: rate() does not see a series' first value
            self.request_failures_total.labels(reason)
        self.request_duration_seconds = self._histogram(
            "request_duration_seconds",
            "From the request's head to the answer's last byte.",
            _REQUEST_S,
            "route",
            "outcome",  # answered, refused, cancelled or failed
            "priority",  # interactive or batch
        )
        self.active_requests = self._gauge("active_requests", "HTTP requests in progress.")
        self.active_requests_limit = self._gauge("active_requests_limit", "HTTP requests that may be in progress.")
        self.queue_requests = self._gauge("queue_requests", "Accepted sources that wait for the encoder.")
        self.queue_tokens = self._gauge("queue_tokens", "Tokens of the sources that wait for the encoder.")
        self.queue_requests_limit = self._gauge("queue_requests_limit", "Sources that may wait for the encoder.")
        self.queue_tokens_limit = self._gauge("queue_tokens_limit", "Tokens that may wait for the encoder.")
        self.tokenizer_waiting_bytes = self._gauge(
            "tokenizer_waiting_bytes", "Long texts at the tokenizer, in bytes of text that it reads as fast."
        )
        self.tokenizer_waiting_bytes_limit = self._gauge(
            "tokenizer_waiting_bytes_limit", "As much may wait for the tokenizer."
        )
        # task: summarize, the name of one of the checkpoint's heads, or several; priority: interactive or batch
        self.queue_wait_seconds = self._histogram(
            "queue_wait_seconds", "From acceptance to the encoder.", _REQUEST_S, "task", "priority"
        )
        self.time_to_first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "From acceptance to a summary's first token.", _REQUEST_S
        )
        self.time_per_output_token_seconds = self._histogram(
            "time_per_output_token_seconds", "Mean gap between a summary's tokens after the first.", _STEP_S
        )
        self.input_tokens = self._histogram("input_tokens", "Tokens of a source.", _REQUEST_TOKENS)
        self.output_tokens = self._histogram("output_tokens", "Tokens of a summary.", _REQUEST_TOKENS)

    def _define_work(self) -> None:
        self.encode_seconds = self._histogram("encode_seconds", "One encoder batch, with its heads.", _ENCODE_S)
        self.encode_batch_tokens = self._histogram(
            "encode_batch_tokens", "Tokens of an encoder batch, padding included.", _BATCH_TOKENS
        )
        self.padding_ratio = self._histogram("padding_ratio", "Share of an encoder batch that is padding.", _SHARE)
        self.decode_step_seconds = self._histogram("decode_step_seconds", "One decode step over all rows.", _STEP_S)
        self.decode_batch_rows = self._histogram("decode_batch_rows", "Decoder rows in a step.", _ROWS)
        self.draft_tokens_proposed_total = self._counter(
            "draft_tokens_proposed_total", "Tokens that decode steps checked beside the newest of each row."
        )
        self.draft_tokens_accepted_total = self._counter(
            "draft_tokens_accepted_total", "Of the proposed tokens, those that were right, each a step less."
        )
        self.kv_slots_used = self._gauge("kv_slots_used", "Decoder rows in flight.")
        self.kv_slots_total = self._gauge("kv_slots_total", "Decoder rows that may be in flight.")
        # Under the names that the Gateway API inference extension reads of a model server by default.
        self.num_requests_waiting = self._shared_gauge("num_requests_waiting", "Accepted and not yet encoded.")
        self.num_requests_running = self._shared_gauge("num_requests_running", "Encoded and not yet answered.")
        self.kv_cache_usage_perc = self._shared_gauge("kv_cache_usage_perc", "Share of the decoder rows in flight.")

    def _define_facts(self) -> None:
        self.ready = self._gauge("ready", "1 when /health/ready answers 200.")
        # kind: allocated, reserved or total; no series where there is no GPU
        self.gpu_memory_bytes = self._gauge("gpu_memory_bytes", "Memory of the model's GPU.", "kind")
        self.model_info = self._gauge(
            "model_info", "The model that answers; always 1.", "checkpoint", "dtype", "device"
        )
        # outcome: done or failed
        self.reloads_total = self._counter("reloads_total", "Checkpoints loaded while serving.", "outcome")
        for outcome in ("done", "failed"):
            self.reloads_total.labels(outcome)
        self.build_info = self._gauge("build_info", "What is running; always 1.", "version", "python")
        self.build_info.labels(version=VERSION, python=platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)

    def expect(self, statuses: Mapping[str, Iterable[int]]) -> None:
        """Have a series at 0 for each status that a route can answer with."""
        for route, ones in statuses.items():
            for status in ones:
                self.requests_total.labels(route, str(status))

    def _shared_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vllm:{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(_PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(_PREFIX + name, text, labels, buckets=buckets, registry=self.registry)
