"""How much is left: every limit of the service beside its use, and what decides how many replicas there should be."""

from grafana_foundation_sdk.builders import dashboard, timeseries

from deploy.grafana.panels import CHOSEN, Series, bars, dashboard_of, graph, number, rate, total

# Work alone; a probe's answer is none.
_ANSWERED = 'outcome="answered",route=~"(/hf)?/(summarize|emotions|topic|analyze|predict|classify/.head.)"'
_NEARLY, _FULL = (0.7, "orange"), (0.9, "red")
# (metric, its limit, what it is, the setting that limits it, the alert)
_LIMITED = (
    ("active_requests", "active_requests_limit", "Requests in progress", "--max-concurrent-requests", "Refusing"),
    ("queue_requests", "queue_requests_limit", "Sources that wait", "--max-queued-requests", "Refusing"),
    ("queue_tokens", "queue_tokens_limit", "Tokens that wait", "--max-queued-tokens", "QueueGrowing"),
    ("kv_slots_used", "kv_slots_total", "Decoder rows", "--max-decode-rows", "SlotsExhausted"),
    ("tokenizer_waiting_bytes", "tokenizer_waiting_bytes_limit", "Text at the tokenizer", "a fixed limit", "Refusing"),
    ("buffered_bytes", "buffered_bytes_limit", "Bytes of bodies", "--max-buffered-bytes", "Refusing"),
    ("open_connections", "open_connections_limit", "Connections", "--max-connections", "Refusing"),
)


def capacity() -> dashboard.Dashboard:
    """LexiMind: capacity."""
    requests = 'sum (job_status:leximind_requests:rate5m{job=~"$job"})'
    refused = 'sum (job_status:leximind_requests:rate5m{job=~"$job",status="429"})'
    shares = [Series(_share(used, limit), title) for used, limit, title, _, _ in _LIMITED]
    descriptors = f"max (process_open_fds{{{CHOSEN}}} / process_max_fds{{{CHOSEN}}})"
    return dashboard_of(
        "leximind-capacity",
        "LexiMind: capacity",
        "Every limit beside what uses it, and what decides on the number of replicas.",
        items=[
            number(
                "Replicas ready",
                "Instances that answer /health/ready with 200.",
                "short",
                Series(total("ready"), "ready"),
                limits=[(1, "green")],
                base="red",
                alerts=["LexiMindNotReady"],
            ),
            number(
                "Tokens that wait, per replica",
                "What the autoscaler goes by; deploy/kubernetes adds replicas from 8,192 on.",
                "short",
                Series(_per_replica(total("queue_tokens")), "tokens"),
                limits=[(8192, "orange"), (32768, "red")],
                alerts=["LexiMindQueueGrowing"],
                width=5,
            ),
            number(
                "Requests a second, per replica",
                "Answered requests for work.",
                "reqps",
                Series(_per_replica(rate("request_duration_seconds_count", _ANSWERED)), "requests"),
                width=5,
            ),
            number(
                "Tokens out a second, per replica",
                "Of summaries that are complete.",
                "short",
                Series(_per_replica(rate("output_tokens_sum")), "tokens"),
                width=5,
            ),
            number(
                "Refused",
                "Share of requests that were refused (429), over five minutes.",
                "percentunit",
                Series(f"{refused} / ({requests} > 0)", "refused"),
                limits=[(0.01, "orange"), (0.05, "red")],
                alerts=["LexiMindRefusing"],
                width=5,
            ),
            bars(
                "Use of each limit",
                "The fullest instance, now. Orange from 70 %, red from 90 %.",
                [*shares, Series(descriptors, "File descriptors")],
                [_NEARLY, _FULL],
            ),
            "Each limit over time",
            *(_limited(*one) for one in _LIMITED),
            graph(
                "Processor",
                "Cores in use by all instances.",
                "short",
                [Series(f"sum (rate(process_cpu_seconds_total{{{CHOSEN}}}[$__rate_interval]))", "cores")],
            ),
            graph(
                "Fullest limit",
                "The largest share of each limit on any instance: what will refuse first.",
                "percentunit",
                shares,
                limits=[_NEARLY, _FULL],
                maximum=1,
            ),
        ],
    )


def _limited(used: str, limit: str, title: str, setting: str, alert: str) -> timeseries.Panel:
    return graph(
        title,
        f"Use and limit ({setting}), summed over the instances.",
        "bytes" if "bytes" in used else "short",
        [Series(total(used), "used"), Series(total(limit), "limit")],
        alerts=[f"LexiMind{alert}"],
    )


def _share(used: str, limit: str) -> str:
    return f"max (leximind_{used}{{{CHOSEN}}} / leximind_{limit}{{{CHOSEN}}})"


def _per_replica(promql: str) -> str:
    return f"{promql} / ({total('ready')} > 0)"
