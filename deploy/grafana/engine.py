"""What the engine does: its queue, rows, batches, steps, tokens, and the device under it."""

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.panels import CHOSEN, Series, dashboard_of, graph, mean, number, quantiles, rate, total

_STEP = (0.5, 0.95, 0.99)


def engine() -> dashboard.Dashboard:
    """LexiMind: engine."""
    waits = f"sum by (le, task, priority) (rate(leximind_queue_wait_seconds_bucket{{{CHOSEN}}}[$__rate_interval]))"
    return dashboard_of(
        "leximind-engine",
        "LexiMind: engine",
        "Queue, decoder rows, batches, step times and tokens of the engine, and the device that it runs on.",
        items=[
            number(
                "Ready",
                "Instances that answer /health/ready with 200.",
                "short",
                Series(total("ready"), "ready"),
                limits=[(1, "green")],
                base="red",
                alerts=["LexiMindNotReady", "LexiMindTargetDown"],
            ),
            number(
                "Model",
                "What answers: checkpoint, number format, device.",
                "short",
                Series(f"leximind_model_info{{{CHOSEN}}}", "{{checkpoint}} · {{dtype}} · {{device}}"),
                names=True,
                width=8,
            ),
            number(
                "Version",
                "What is running.",
                "short",
                Series(f"leximind_build_info{{{CHOSEN}}}", "{{version}} · Python {{python}}"),
                names=True,
            ),
            number(
                "Up since",
                "Start of the instance that has run for longest.",
                "dateTimeFromNow",
                Series(f"1000 * min (process_start_time_seconds{{{CHOSEN}}})", "start"),
            ),
            number(
                "Reloads that failed",
                "Within the time shown; the checkpoint of before answers on.",
                "short",
                Series(f'sum (increase(leximind_reloads_total{{{CHOSEN},outcome="failed"}}[$__range]))', "failed"),
                limits=[(1, "red")],
                alerts=["LexiMindReloadFailed"],
            ),
            "Queue and rows",
            graph(
                "Tokens that wait",
                "Source tokens before the encoder. The autoscaler goes by their number per replica.",
                "short",
                [Series(total("queue_tokens"), "tokens")],
                alerts=["LexiMindQueueGrowing"],
            ),
            graph(
                "Wait for the encoder, p95",
                "From acceptance, by task and priority.",
                "s",
                [Series(f"histogram_quantile(0.95, {waits})", "{{task}} {{priority}}")],
            ),
            graph(
                "Decoder rows",
                "Rows in flight and rows possible (a beam is a row), and the mean rows of a step.",
                "short",
                [
                    Series(total("kv_slots_used"), "in flight"),
                    Series(total("kv_slots_total"), "possible"),
                    Series(mean("decode_batch_rows"), "mean of a step"),
                ],
                alerts=["LexiMindSlotsExhausted"],
            ),
            "Batches and steps",
            graph(
                "Decode step",
                "One step over all rows in flight.",
                "s",
                quantiles("decode_step_seconds", of=_STEP),
                alerts=["LexiMindStepTimeDrift"],
            ),
            graph(
                "Decode step against the day before",
                "Mean of ten minutes by instance, and 1.5 times the slowest ten minutes of the day before, above which "
                "an alert fires.",
                "s",
                [
                    Series(f"instance:leximind_decode_step_seconds:mean10m{{{CHOSEN}}}", "{{instance}}"),
                    Series(
                        "1.5 * max_over_time(instance:leximind_decode_step_seconds:mean10m"
                        f"{{{CHOSEN}}}[1d] offset 30m)",
                        "{{instance}}, limit",
                    ),
                ],
                alerts=["LexiMindStepTimeDrift"],
            ),
            graph(
                "Encoder batch",
                "One batch, with its heads.",
                "s",
                quantiles("encode_seconds", of=_STEP),
            ),
            graph(
                "Tokens of an encoder batch",
                "Mean, padding included; at most --max-batch-tokens.",
                "short",
                [Series(mean("encode_batch_tokens"), "tokens")],
            ),
            graph(
                "Padding",
                "Share of the encoder's work that is padding, mean over batches.",
                "percentunit",
                [Series(mean("padding_ratio"), "padding")],
                limits=[(0.3, "orange")],
            ),
            graph(
                "Steps a second",
                "How often the encoder and the decoder run.",
                "ops",
                [
                    Series(rate("decode_step_seconds_count"), "decode"),
                    Series(rate("encode_seconds_count"), "encode"),
                ],
            ),
            graph(
                "Drafts",
                "Share of drafted tokens that were right, and drafted tokens for each step; empty where nothing is "
                "drafted.",
                "short",
                [
                    Series(
                        f"{rate('draft_tokens_accepted_total')} / ({rate('draft_tokens_proposed_total')} > 0)",
                        "right, of drafted",
                    ),
                    Series(
                        f"{rate('draft_tokens_proposed_total')} / ({rate('decode_step_seconds_count')} > 0)",
                        "drafted a step",
                    ),
                    Series(
                        f"{rate('draft_tokens_accepted_total')} / ({rate('decode_step_seconds_count')} > 0)",
                        "right a step",
                    ),
                ],
            ),
            "Tokens and device",
            graph(
                "Tokens a second",
                "Of encoded sources, and of summaries that are complete.",
                "short",
                [Series(rate("input_tokens_sum"), "in"), Series(rate("output_tokens_sum"), "out")],
            ),
            graph(
                "Tokens of a request",
                "Median and p95 of sources and of summaries.",
                "short",
                [
                    Series(one.promql, f"{name} {one.legend}")
                    for name, metric in (("source", "input_tokens"), ("summary", "output_tokens"))
                    for one in quantiles(metric, of=(0.5, 0.95))
                ],
            ),
            graph(
                "GPU memory",
                "By kind; empty without a GPU.",
                "bytes",
                [Series(f"sum by (kind) (leximind_gpu_memory_bytes{{{CHOSEN}}})", "{{kind}}")],
            ),
            graph(
                "Processor",
                "Cores in use by each instance.",
                "short",
                [Series(f"rate(process_cpu_seconds_total{{{CHOSEN}}}[$__rate_interval])", "{{instance}}")],
                width=12,
            ),
            graph(
                "Resident memory",
                "Of each instance: weights, buffers, Python.",
                "bytes",
                [Series(f"process_resident_memory_bytes{{{CHOSEN}}}", "{{instance}}")],
                width=12,
            ),
        ],
    )
