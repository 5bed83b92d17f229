"""A short headless Locust run against a real server process: every endpoint is asked and no answer is wrong."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model.storage.checkpoint import BUNDLED

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
ENDPOINTS = {"/summarize", "/emotions", "/topic", "/analyze"}
READY_WITHIN_S = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:  # not listening yet, or 503 while it loads
        return False


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of `leximind serve` in its own process, on the bundled checkpoint or, where there is none, random weights."""
    checkpoint = BUNDLED if BUNDLED.is_dir() else request.getfixturevalue("checkpoint_folder")
    port = free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-c", "from app.cli import main; main()", "serve", "--device", "cpu", "--threads", "1"]
    command += ["--checkpoint", str(checkpoint), "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up = time.monotonic() + READY_WITHIN_S
    while not is_ready(url):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.2)


def run_locust(url: str, *, seconds: int, tags: Sequence[str] = ()) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, statistics (an entry for each line of Locust's table), and all that it printed for people."""
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--host", url, "--headless", "--json"]
    command += ["--only-summary", "--users", "6", "--spawn-rate", "6", "--stop-timeout", "20"]
    command += ["--run-time", f"{seconds}s", *(["--tags", *tags] if tags else [])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    assert ended.stdout, ended.stderr
    stats, end = json.JSONDecoder().raw_decode(ended.stdout)
    return ended.returncode, stats, ended.stdout[end:] + ended.stderr


@pytest.mark.slow
def test_a_mixed_load_gets_right_answers_from_every_endpoint(server: str) -> None:
    returncode, stats, table = run_locust(server, seconds=15)
    assert returncode == 0, table
    answered = {entry["name"]: entry["num_requests"] - entry["num_failures"] for entry in stats}
    assert all(answered.get(endpoint, 0) > 0 for endpoint in ENDPOINTS), answered
    assert sum(entry["num_failures"] for entry in stats) == 0, table


@pytest.mark.slow
def test_a_wrong_answer_is_a_failure() -> None:
    scores = [{"label": "Sports", "score": 0.9}, {"label": "World", "score": 0.9}]
    answer = {"topic": "Sports", "score": 0.9, "scores": scores, "model": "tiny"}
    with canned(200, {}, answer) as url:
        returncode, stats, table = run_locust(url, seconds=2, tags=["topic"])
    assert returncode == 1
    assert "topic scores do not sum to 1" in table
    assert all(entry["num_failures"] == entry["num_requests"] for entry in stats)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "expected", "name"), [({"Retry-After": "1"}, 0, "/topic (refused)"), ({}, 1, "/topic")]
)
def test_only_a_refusal_that_says_when_to_come_back_is_no_failure(
    headers: dict[str, str], expected: int, name: str
) -> None:
    with canned(429, headers, {"status": 429}) as url:
        returncode, stats, table = run_locust(url, seconds=2, tags=["topic"])
    assert returncode == expected, table
    assert {entry["name"] for entry in stats} == {name}


@contextmanager
def canned(status: int, headers: dict[str, str], body: dict[str, Any]) -> Iterator[str]:
    """URL of a server that gives this one answer to every POST."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
