"""Open-loop load: the phases, what is made of their answers, and a run against a service that keeps up or does not."""

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from model.choices import BUNDLED
from support.servers import started_servers, wait_until_ready

# Locust finds it beside its file; shapes.py itself would replace this process's sockets.
_SPEC = importlib.util.spec_from_file_location("phases", Path(__file__).with_name("phases.py"))
assert _SPEC
assert _SPEC.loader
phases: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["phases"] = phases
_SPEC.loader.exec_module(phases)

SHAPES = Path(__file__).with_name("shapes.py")
TOPIC = {"topic": "Sports", "score": 1.0, "scores": [{"label": "Sports", "score": 1.0}], "model": "tiny"}


@contextmanager
def one_at_a_time(service_s: float) -> Iterator[str]:
    """URL of a server whose every answer takes this long, one after the other."""
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
            content = json.dumps([TOPIC] * len(text) if isinstance(text, list) else TOPIC).encode()
            with turn:
                time.sleep(service_s)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 1000
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "--locustfile", str(SHAPES), "--host", url, "--headless"]
    command += ["--only-summary", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def phases_of(*outcomes: tuple[int, int, int]) -> list[Any]:
    """A phase of 10 s each, of arrivals answered in 100 ms, refused, and answers completed in it."""
    found = []
    for number, (answered, refused, completed) in enumerate(outcomes):
        phase = phases.Phase(10.0 * number, 10.0 * number + 10, 10 * (number + 1), completed=completed)
        for index in range(answered + refused):
            phase.add(100.0, refused=index >= answered, wrong=False)
        found.append(phase)
    return found


def test_phases_follow_each_other_to_the_end() -> None:
    assert [one.rate for one in phases.schedule("ramp", 40, 60)] == list(range(4, 41, 4))
    assert [one.rate for one in phases.schedule("spike", 40, 60)] == [20, 40, 20]
    for arrivals in ("constant", "ramp", "spike"):
        made = phases.schedule(arrivals, 40, 60)
        assert made[0].start_s == 0
        assert made[-1].end_s == pytest.approx(60)
        assert all(one.end_s == after.start_s for one, after in pairwise(made))


def test_knee_is_the_last_rate_before_answers_fall_behind() -> None:
    assert phases.knee(phases_of((100, 0, 100), (200, 0, 195), (300, 0, 220), (400, 0, 400))) == 20
    assert phases.knee(phases_of((100, 0, 100), (190, 10, 200))) == 10  # refused at once is not kept up with
    assert phases.knee(phases_of((100, 0, 50))) == 0


def test_every_limit_that_is_broken_is_said() -> None:
    good = phases_of((100, 0, 100))
    assert phases.violations(good, max_p95_ms=100, max_refused=0) == []
    assert "take 100 ms; 99 are allowed" in phases.violations(good, 99, 0)[0]
    refused = phases_of((100, 25, 125))
    assert phases.violations(refused, 100, 0.1) == ["20.0% are refused; 10.0% are allowed (--max-refused)"]
    good[0].add(1, refused=False, wrong=True)
    assert phases.violations(good, 100, 0) == ["1 of 101 answers are wrong"]
    assert phases.violations(phases_of((0, 0, 0)), 100, 0) == ["nothing was answered"]


@pytest.mark.slow
def test_a_ramp_finds_where_a_service_falls_behind_and_does_not_wait_for_it(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    with one_at_a_time(0.05) as url:  # 20 a second
        options = ["--arrivals", "ramp", "--rate", "50", "--seconds", "20", "--tags", "topic", "--html", str(report)]
        ran = run(url, *options, "--max-p95-ms", "1000")
    assert ran.returncode == 1, ran.stderr
    assert "95 % of the answers take" in ran.stderr
    found = re.search(r"^knee: (\d+) arrivals/s$", ran.stdout, re.MULTILINE)
    assert found, ran.stdout
    assert 5 <= int(found[1]) <= 30, ran.stdout
    rows = [line.split() for line in ran.stdout.splitlines() if re.match(r"^ +\d+ +\d", line)]
    assert float(rows[-1][3]) > 5 * float(rows[0][3]), ran.stdout  # arrivals went on while others waited
    assert report.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_the_service_keeps_pace_with_a_constant_rate(tmp_path: Path) -> None:
    servers = started_servers(tmp_path, BUNDLED)
    server = wait_until_ready(next(servers)())
    ran = run(server.url, "--rate", "5", "--seconds", "15", "--max-refused", "0")
    next(servers, None)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
