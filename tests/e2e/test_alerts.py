"""A real Prometheus watches a real service through a good hour, a bad one and its end, an hour being a minute.

Every expression of every dashboard, rule and alert is evaluated, and every alert fires that load, signals and a broken
checkpoint can bring about. LexiMindFailing is brought about by a step that takes longer than the watchdog allows.
"""

import contextlib
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.queries import dashboard_queries, rule_queries, rules
from model.choices import BUNDLED
from support.prometheus import minutes_to_seconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
]

TEXT = "Shares of the chip maker rose twelve percent on Tuesday, after it had reported record profits. " * 3
SHORT = {"text": TEXT, "max_new_tokens": 24}
# Ten seconds for as many as may be in progress, where one takes a quarter of a second.
LONG = {"text": TEXT, "max_new_tokens": 512, "min_new_tokens": 512}
ADMIN = {"Authorization": "Bearer operator"}
# One row decodes, so that long summaries wait for each other, and more of them than may be in progress.
FLAGS = ("--max-decode-rows", "1", "--max-concurrent-requests", "40", "--max-queued-tokens", "2048")
NUM_CLIENTS = 48
STOPPED_S, RUNNING_S = 0.15, 0.05
# Has no series where there is no GPU.
NEEDS_GPU = "leximind_gpu_memory_bytes"


class Watch:
    """What Prometheus knows since it knows its target, which takes it five seconds."""

    def __init__(self, url: str) -> None:
        self._url = url
        give_up = time.monotonic() + 60
        while not self._is_up():
            assert time.monotonic() < give_up
            time.sleep(0.5)
        self._since = time.monotonic()

    def _is_up(self) -> bool:
        with contextlib.suppress(httpx.TransportError, ValueError):
            return bool(self.ask('up == 1 unless on () ALERTS{alertname="LexiMindTargetDown"}'))
        return False

    def ask(self, promql: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": promql}, timeout=10).json()
        assert answer["status"] == "success", (promql, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def fired(self) -> set[tuple[str, str]]:
        """(name, severity) of every alert that has fired so far."""
        seconds = int(time.monotonic() - self._since) + 1
        series = self.ask(f'last_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')
        return {(one["metric"]["alertname"], one["metric"]["severity"]) for one in series}

    def until_fired(self, within_s: float, *alerts: tuple[str, str]) -> None:
        """Wait for all of `alerts`."""
        give_up = time.monotonic() + within_s
        while missing := set(alerts) - self.fired():
            assert time.monotonic() < give_up, f"not fired: {missing}; fired: {self.fired()}"
            time.sleep(0.5)


@contextlib.contextmanager
def load(num_clients: int, ask: Callable[[httpx.Client], object]) -> Iterator[None]:
    """`num_clients` of them call `ask` again and again; a refusal is waited out, a server that is gone ends one."""
    over = threading.Event()

    def client() -> None:
        with httpx.Client(timeout=60) as http, contextlib.suppress(httpx.TransportError):
            while not over.is_set():
                ask(http)

    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(client) for _ in range(num_clients)]
        try:
            yield
        finally:
            over.set()
        for one in clients:
            one.result()


def posts(url: str, body: dict[str, Any], every_s: float = 0.0, **headers: str) -> Callable[[httpx.Client], object]:
    """A client's call, and its wait after it."""

    def ask(http: httpx.Client) -> None:
        status = http.post(url, json=body, headers=headers).status_code
        time.sleep(0.25 if status == 429 else every_s)

    return ask


def evaluated(promql: str) -> str:
    """As Grafana would send it, with everything chosen, a rate over five scrapes, and a minute being a second."""
    promql = minutes_to_seconds(promql).replace("$__rate_interval", "5s").replace("$__range", "60s")
    return re.sub(r"\$\w+", ".*", promql)


@pytest.mark.skipif(not BUNDLED.is_dir(), reason="there is no bundled checkpoint")
def test_every_expression_has_data_and_every_alert_fires(
    start: Callable[..., Any], prometheus: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "checkpoints" / "broken").mkdir(parents=True)
    admin = ("--admin-keys", "operator", "--reload-root", str(tmp_path / "checkpoints"))
    server = start("--checkpoint", str(BUNDLED), *FLAGS, *admin, "--shutdown-delay-s", "60", "--watchdog-s", "0.1")
    while not is_ready(server.url):
        assert server.process.poll() is None, server.log.read_text()
        time.sleep(0.2)
    watch = Watch(prometheus(server.port, "operator"))

    # A good hour: some requests of every kind, and no alert.
    good = time.monotonic() + 40
    with load(1, lambda http: [posts(server.url + path, body, 0.05)(http) for path, body in every_route()]):
        while time.monotonic() < good:
            time.sleep(1)
            assert not watch.fired()
    # Overload: one row decodes for all.
    with load(NUM_CLIENTS, posts(f"{server.url}/summarize", LONG)):
        watch.until_fired(
            60,
            ("LexiMindSlotsExhausted", "ticket"),
            ("LexiMindQueueGrowing", "ticket"),
            ("LexiMindRefusing", "ticket"),
            ("LexiMindLatencyBudgetBurn", "page"),
        )
        every_expression_is_evaluated(watch)
    # Deadlines that cannot be met, a machine that is taken away for most of the time, a checkpoint that is none.
    assert httpx.post(f"{server.url}/admin/reload", json={"checkpoint": "broken"}, headers=ADMIN).status_code == 422
    hasty = posts(f"{server.url}/summarize", LONG, 0.02, **{"X-Request-Timeout-Ms": "20"})
    with load(2, hasty), load(2, lambda http: http.get(f"{server.url}/health/live")), load(1, pauses(server.process)):
        watch.until_fired(
            60,
            ("LexiMindReloadFailed", "ticket"),
            ("LexiMindErrorBudgetBurn", "page"),
            ("LexiMindErrorBudgetBurn", "ticket"),
            ("LexiMindLatencyBudgetBurn", "ticket"),
            ("LexiMindStepTimeDrift", "ticket"),
            ("LexiMindFailing", "page"),
        )
    # It leaves, half an hour in which nobody asks.
    server.process.send_signal(signal.SIGTERM)
    watch.until_fired(45, ("LexiMindNotReady", "page"), ("LexiMindNoTraffic", "info"))
    server.process.kill()
    watch.until_fired(20, ("LexiMindTargetDown", "page"))
    assert watch.fired() == {(one["alert"], one["labels"]["severity"]) for one in rules() if "alert" in one}


def every_route() -> list[tuple[str, dict[str, Any]]]:
    texts = {"/emotions": {"text": TEXT}, "/topic": {"text": [TEXT] * 3}, "/classify/topic": {"text": TEXT}}
    return [*texts.items(), ("/summarize", SHORT), ("/analyze", {"text": TEXT, "summary": {"max_new_tokens": 8}})]


def every_expression_is_evaluated(watch: Watch) -> None:
    """Those of dashboards and recording rules have values; those of alerts have them only while they fire."""
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    for where, promql in [*dashboard_queries(), *rule_queries()]:
        series = watch.ask(evaluated(promql))
        if where in alerts or NEEDS_GPU in promql:
            continue
        assert series, f"{where}: no series for {promql}"
        values = [float(one["value"][1]) for one in series]
        assert any(value == value for value in values), f"{where}: nothing but NaN for {promql}"


def pauses(process: Any) -> Callable[[httpx.Client], None]:
    """The process stands still for three quarters of the time, as on a machine that others use."""

    def pause(_: httpx.Client) -> None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(STOPPED_S)
        process.send_signal(signal.SIGCONT)
        time.sleep(RUNNING_S)

    return pause


def is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/ready", timeout=2).status_code == 200
    return False
