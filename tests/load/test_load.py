"""A short headless Locust run against a real server process: every endpoint is asked and no answer is wrong."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model.choices import BUNDLED

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


def run_locust(
    url: str, *options: str, seconds: int, tags: Sequence[str] = ()
) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, statistics (an entry for each line of Locust's table), and all that it printed for people."""
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--host", url, "--headless", "--json"]
    command += ["--only-summary", "--users", "6", "--spawn-rate", "6", "--stop-timeout", "20"]
    command += ["--run-time", f"{seconds}s", *options, *(["--tags", *tags] if tags else [])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if not ended.stdout.startswith(("[", "{")):  # it never came to the users
        return ended.returncode, [], ended.stdout + ended.stderr
    stats, end = json.JSONDecoder().raw_decode(ended.stdout)
    return ended.returncode, stats, ended.stdout[end:] + ended.stderr


@pytest.mark.slow
def test_a_mixed_load_gets_right_answers_from_every_endpoint(server: str) -> None:
    returncode, stats, table = run_locust(server, seconds=15)
    assert returncode == 0, table
    answered = {entry["name"]: entry["num_requests"] - entry["num_failures"] for entry in stats}
    assert all(answered.get(endpoint, 0) > 0 for endpoint in ENDPOINTS), answered
    assert sum(entry["num_failures"] for entry in stats) == 0, table


SCORES = [{"label": "Sports", "score": 0.9}, {"label": "World", "score": 0.1}]
TOPIC = {"topic": "Sports", "score": 0.9, "scores": SCORES, "model": "tiny"}
OTHER = {"topic": "World", "score": 1.0, "scores": [{"label": "World", "score": 1.0}], "model": "tiny"}
NUM_ALONE = 12  # requests before the users come: six of one text, six of several


@pytest.mark.slow
def test_an_answer_that_breaks_the_contract_ends_the_run() -> None:
    answer = {**TOPIC, "scores": [SCORES[0], {"label": "World", "score": 0.9}]}
    with canned(lambda _: answer) as (url, _):
        returncode, _, output = run_locust(url, seconds=2, tags=["topic"])
    assert returncode == 1
    assert "topic scores do not sum to 1" in output


@pytest.mark.slow
def test_an_answer_that_differs_from_the_one_alone_is_a_failure() -> None:
    """Each is right by itself; from the thirtieth on they are those of another text."""
    with canned(lambda number: TOPIC if number < 30 else OTHER) as (url, _):
        returncode, stats, table = run_locust(url, seconds=4, tags=["topic"])
    assert returncode == 1
    assert "is not answered as alone" in table
    assert sum(entry["num_failures"] for entry in stats) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "options", "expected", "name"),
    [
        ({"Retry-After": "1"}, ("--max-refused-share", "1"), 0, "/topic (refused)"),
        ({"Retry-After": "1"}, (), 1, "/topic (refused)"),
        ({}, ("--max-refused-share", "1"), 1, "/topic"),
    ],
)
def test_refusals_that_say_when_to_come_back_are_no_failures_up_to_a_share(
    headers: dict[str, str], options: Sequence[str], expected: int, name: str
) -> None:
    with canned(lambda _: TOPIC, refusal=headers) as (url, _):
        returncode, stats, table = run_locust(url, *options, seconds=2, tags=["topic"])
    assert returncode == expected, table
    assert {entry["name"] for entry in stats} == {name}


@pytest.mark.slow
def test_the_key_goes_with_every_request() -> None:
    with canned(lambda _: TOPIC) as (url, keys):
        run_locust(url, "--key", "k-1", seconds=2, tags=["topic"])
    assert set(keys) == {"Bearer k-1"}


@contextmanager
def canned(
    answer: Callable[[int], Any], *, refusal: dict[str, str] | None = None
) -> Iterator[tuple[str, list[str | None]]]:
    """URL of a server that gives `answer(number)` to each POST, once for each of its texts, and the keys that came.

    With `refusal` its users get a 429 with these headers, while questions before them are answered.
    """
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            number = len(keys)
            keys.append(self.headers["Authorization"])
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
            is_refused = refusal is not None and number >= NUM_ALONE
            one = answer(number)
            content = json.dumps([one] * len(text) if isinstance(text, list) else one).encode()
            self.send_response(429 if is_refused else 200)
            for name, value in {**(refusal or {}), "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", keys
        server.shutdown()
        thread.join()
