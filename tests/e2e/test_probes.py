"""What an orchestrator sees of a real process: readiness before the end, a hanging model, a model that failed."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.waiting import wait_for

pytestmark = pytest.mark.slow

BODY = {"text": "Shares of the chip maker rose twelve percent on Tuesday."}

# A process whose model hangs, or fails from the second request on, at what the first line says.
_FAULTY = """
import sys, time
from app.engine.runner import Runner

encode, fault = Runner.encode, sys.argv.pop(1)
count = 0

def faulty(self, requests):
    global count
    count += 1
    if fault == "hang" and count == 2:
        time.sleep(3)
    if fault == "fail" and count >= 2:
        raise RuntimeError("injected")
    return encode(self, requests)

Runner.encode = faulty
from app.cli import main
main()
"""


def status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0


@contextmanager
def faulty(fault: str, checkpoint: Path, log: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The first encoding is the warm-up's, the second the first client's."""
    command = [sys.executable, "-c", _FAULTY, fault, "serve", "--checkpoint", str(checkpoint), "--device", "cpu"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", "0", *flags], stdout=output, stderr=output)
    try:
        wait_for(lambda: " ready " in log.read_text() or process.poll() is not None, within_s=60)
        url = next(word for word in log.read_text().split() if word.startswith("url=")).removeprefix("url=")
        yield url, process
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_readiness_ends_first_and_requests_are_taken_for_a_while(
    serve: Callable[..., Any], is_interrupted: bool
) -> None:
    server = serve("--shutdown-delay-s", "60" if is_interrupted else "3")
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: status(f"{server.url}/health/ready") == 503, within_s=60)
    assert status(f"{server.url}/health/live") == 200
    answer = httpx.post(f"{server.url}/topic", json=BODY, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Connection"] == "close"
    if is_interrupted:
        server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0
    assert "not ready any more" in server.log.read_text()


def test_hanging_step_ends_liveness_until_it_is_over(checkpoint_folder: Path, tmp_path: Path) -> None:
    with (
        faulty("hang", checkpoint_folder, tmp_path / "log", "--watchdog-s", "0.5") as (url, _),
        ThreadPoolExecutor() as pool,
    ):
        assert status(f"{url}/health/live") == 200
        answer = pool.submit(httpx.post, f"{url}/topic", json=BODY, timeout=30)
        wait_for(lambda: status(f"{url}/health/live") == 503, within_s=60)
        assert "0.5 are allowed (watchdog_s)" in httpx.get(f"{url}/health/live").json()["detail"]
        assert answer.result().status_code == 200
        assert status(f"{url}/health/live") == 200


def test_model_that_fails_for_good_ends_the_process_with_a_code_of_its_own(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    with faulty("fail", checkpoint_folder, tmp_path / "log") as (url, process):
        assert httpx.post(f"{url}/topic", json=BODY, timeout=30).status_code in (500, 503)
        assert process.wait(20) == 3
    assert "the model failed, and the service must be restarted" in (tmp_path / "log").read_text()


def test_checkpoint_that_cannot_be_loaded_is_another_code(start: Callable[..., Any], tmp_path: Path) -> None:
    server = start("--checkpoint", str(tmp_path))
    assert server.process.wait(60) == 1
