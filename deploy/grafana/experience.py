"""What users of the service notice: whether they are answered, how soon, and how much is useful."""

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.panels import CHOSEN, Series, dashboard_of, graph, number, quantiles, rate

_CHOSEN_ROUTES = 'route=~"$route"'
_ANSWERED = f'outcome="answered",priority!="batch",{_CHOSEN_ROUTES}'
# The objectives and burn rates of the alerts, as shares.
_ERRORS = [(0.006, "orange"), (0.0144, "red")]
_SLOW = [(0.06, "orange"), (0.144, "red")]
_OBJECTIVE_S = 5.0


def experience() -> dashboard.Dashboard:
    """LexiMind: users' experience."""
    taken = f'sum (increase(leximind_requests_total{{{CHOSEN},{_CHOSEN_ROUTES},status=~"2..|5.."}}[$__range]))'
    failed = f'sum (increase(leximind_requests_total{{{CHOSEN},{_CHOSEN_ROUTES},status=~"5.."}}[$__range]))'
    slow = f'sum (increase(leximind_request_duration_seconds_bucket{{{CHOSEN},{_ANSWERED},le="5.0"}}[$__range]))'
    answered = f"sum (increase(leximind_request_duration_seconds_count{{{CHOSEN},{_ANSWERED}}}[$__range]))"
    in_time = rate("request_duration_seconds_bucket", f'{_ANSWERED},le="5.0"')
    by_route = (
        f"sum by (le, route) (rate(leximind_request_duration_seconds_bucket{{{CHOSEN},{_ANSWERED}}}[$__rate_interval]))"
    )
    budget = "LexiMindErrorBudgetBurn"
    latency = "LexiMindLatencyBudgetBurn"
    return dashboard_of(
        "leximind-experience",
        "LexiMind: users' experience",
        "Rate, errors, latency and goodput of requests for work. Objectives: 99.9 % of requests that were taken are "
        "answered, 99 % of answers take at most 5 s.",
        with_routes=True,
        items=[
            number(
                "Answered",
                "Share of requests that were taken and answered, over the time shown; refusals (429) and bad input are "
                "not counted. Objective: 99.9 %.",
                "percentunit",
                Series(f"1 - {failed} / ({taken} > 0)", "answered"),
                limits=[(0.99, "orange"), (0.999, "green")],
                base="red",
                alerts=[budget],
            ),
            number(
                "Within 5 s",
                "Share of answers that took at most 5 s to their last byte, over the time shown. Objective: 99 %.",
                "percentunit",
                Series(f"{slow} / ({answered} > 0)", "within 5 s"),
                limits=[(0.94, "orange"), (0.99, "green")],
                base="red",
                alerts=[latency],
            ),
            number(
                "Requests a second",
                "All requests for work, refused ones too.",
                "reqps",
                Series(rate("requests_total", _CHOSEN_ROUTES), "requests"),
                alerts=["LexiMindNoTraffic"],
            ),
            number(
                "p95",
                "95 % of answers take at most this long.",
                "s",
                quantiles("request_duration_seconds", _ANSWERED, (0.95,))[0],
                limits=[(_OBJECTIVE_S, "red")],
                alerts=[latency],
            ),
            number(
                "First token, p95",
                "95 % of summaries begin at most this long after acceptance.",
                "s",
                quantiles("time_to_first_token_seconds", of=(0.95,))[0],
                limits=[(1.0, "orange"), (_OBJECTIVE_S, "red")],
            ),
            number(
                "Alerts that fire",
                "Of any severity; Prometheus's page /alerts names them.",
                "short",
                Series('count (ALERTS{alertstate="firing",job=~"$job"}) or vector(0)', "firing"),
                limits=[(1, "red")],
            ),
            "Rate and errors",
            graph(
                "Requests a second, by route",
                "Whatever their answer.",
                "reqps",
                [Series(rate("requests_total", _CHOSEN_ROUTES, "route"), "{{route}}")],
                stacked=True,
            ),
            graph(
                "Requests a second, by status",
                "200 answered, 422 bad input, 429 refused with the time to retry, 499 the client left, 500 the "
                "engine failed, 503 not ready, 504 the deadline passed.",
                "reqps",
                [Series(f"{rate('requests_total', _CHOSEN_ROUTES, 'status')} > 0", "{{status}}")],
                stacked=True,
                alerts=["LexiMindFailing"],
            ),
            graph(
                "Share of requests that fail",
                "Over 5 min and 1 h, of all routes. From the orange line on a ticket, from the red one a page.",
                "percentunit",
                [
                    Series('job:leximind_request_errors:ratio_rate5m{job=~"$job"}', "5 min"),
                    Series('job:leximind_request_errors:ratio_rate1h{job=~"$job"}', "1 h"),
                ],
                limits=_ERRORS,
                alerts=[budget],
            ),
            "Latency",
            graph(
                "Latency",
                "From a request's head to the last byte of its answer; the red line is the objective.",
                "s",
                quantiles("request_duration_seconds", _ANSWERED),
                limits=[(_OBJECTIVE_S, "red")],
                alerts=[latency],
            ),
            graph(
                "Latency, p95 by route",
                "Summaries take as long as they have tokens; classification takes one pass of the encoder.",
                "s",
                [Series(f"histogram_quantile(0.95, {by_route})", "{{route}}")],
                limits=[(_OBJECTIVE_S, "red")],
            ),
            graph(
                "Share of answers slower than 5 s",
                "Over 5 min and 1 h, of all routes. From the orange line on a ticket, from the red one a page.",
                "percentunit",
                [
                    Series('job:leximind_slow_answers:ratio_rate5m{job=~"$job"}', "5 min"),
                    Series('job:leximind_slow_answers:ratio_rate1h{job=~"$job"}', "1 h"),
                ],
                limits=_SLOW,
                alerts=[latency],
            ),
            graph(
                "Time to first token",
                "From acceptance to a summary's first token: the wait in the queue, the encoder, one decode step.",
                "s",
                quantiles("time_to_first_token_seconds"),
            ),
            graph(
                "Time per output token",
                "A summary's mean gap between its tokens after the first.",
                "s",
                quantiles("time_per_output_token_seconds"),
            ),
            graph(
                "Goodput",
                "Requests a second that were answered within 5 s, below all that came: the gap is what users lost.",
                "reqps",
                [Series(rate("requests_total", _CHOSEN_ROUTES), "offered"), Series(in_time, "answered within 5 s")],
            ),
            "Refused and failed",
            graph(
                "Refusals a second",
                "By the limit that was reached; each has the time to retry.",
                "reqps",
                [Series('sum by (reason) (job_reason:leximind_refusals:rate5m{job=~"$job"})', "{{reason}}")],
                stacked=True,
                alerts=["LexiMindRefusing"],
                width=12,
            ),
            graph(
                "Failures a second",
                "engine: the model failed; deadline: the time was over; cancelled: the client left or did not read; "
                "validation: bad input.",
                "reqps",
                [
                    Series(
                        rate("request_failures_total", 'reason=~"engine|deadline|cancelled|validation"', "reason"),
                        "{{reason}}",
                    )
                ],
                stacked=True,
                alerts=["LexiMindFailing"],
                width=12,
            ),
        ],
    )
