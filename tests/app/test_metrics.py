"""The metrics table: names, buckets that fit the work, and registries that do not collide."""

import re

from prometheus_client import CollectorRegistry

from app.metrics import Metrics

NAMES = set(
    """
    requests_total request_failures_total request_duration_seconds queue_wait_seconds encode_seconds
    decode_step_seconds time_to_first_token_seconds time_per_output_token_seconds input_tokens output_tokens
    draft_tokens_proposed_total draft_tokens_accepted_total
    encode_batch_tokens decode_batch_rows padding_ratio queue_requests queue_tokens active_requests kv_slots_used
    queue_requests_limit queue_tokens_limit active_requests_limit tokenizer_waiting_bytes tokenizer_waiting_bytes_limit
    kv_slots_total gpu_memory_bytes model_info build_info reloads_total open_connections open_connections_limit
    buffered_bytes buffered_bytes_limit ready
    """.split()
)


def families(metrics: Metrics) -> set[str]:
    return set(re.findall(r"^# TYPE leximind_(\w+) ", metrics.render().decode(), re.MULTILINE))


def bounds(metrics: Metrics, name: str) -> list[float]:
    pattern = rf'leximind_{name}_bucket{{le="([0-9.e+-]+)"}}'
    return [float(bound) for bound in re.findall(pattern, metrics.render().decode())]


def test_every_metric_is_an_attribute_and_is_rendered_under_its_prefixed_name() -> None:
    metrics = Metrics()
    assert families(metrics) == NAMES
    assert all(hasattr(metrics, name) for name in NAMES)


def test_two_apps_in_a_process_do_not_share_their_metrics() -> None:
    first, second = Metrics(), Metrics(CollectorRegistry())
    first.queue_requests.set(3)
    assert second.registry.get_sample_value("leximind_queue_requests") == 0


def test_step_buckets_reach_from_a_gpu_to_a_cpu() -> None:
    steps = bounds(Metrics(), "decode_step_seconds")
    assert steps == sorted(steps)
    assert steps[0] <= 0.0001
    assert steps[-1] >= 0.5


def test_render_says_its_type() -> None:
    assert Metrics.content_type.startswith("text/plain")


def test_there_is_no_gpu_series_without_a_gpu() -> None:
    assert b"leximind_gpu_memory_bytes{" not in Metrics().render()
