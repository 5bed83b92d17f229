"""The image serves: as its user, on a read-only root, every route, until SIGTERM and the end of what was in flight."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from support.containers import Served
from support.images import TAG, Builder

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."

# Prints what the service loads and has no byte code of.
UNCOMPILED = """
import os, sys
import app.cli, app.server
files = {m.__spec__.origin: m.__spec__.cached for m in sys.modules.values() if getattr(m, "__spec__", None)}
print([f for f, c in files.items() if c and f.startswith("/opt/leximind/") and not os.path.exists(c)])
"""


def bodies(description: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any] | None]:
    """A body for each route of an OpenAPI description, by path and method."""
    found: dict[tuple[str, str], dict[str, Any] | None] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            body = None
            if content:
                schema = description["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                body = dict.fromkeys(schema["required"], NEWS)
            found[path, method] = body
    return found


def wait_for(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_every_route_is_answered(served: Served) -> None:
    with httpx.Client(base_url=served.server.url, timeout=120, trust_env=False) as client:
        routes = bodies(client.get("/openapi.json").json())
        assert {"/summarize", "/emotions", "/topic", "/analyze", "/predict", "/metrics", "/hf/topic"} <= {
            path for path, _ in routes
        }
        for (path, method), body in routes.items():
            answer = client.request(method, path.replace("{head}", "topic"), json=body)
            assert answer.status_code == 200, (path, answer.text)
        assert client.post("/topic", json={"text": NEWS}).json()["topic"]
        assert "swagger" in client.get("/docs").text.lower()
        assert client.post("/summarize", json={"text": NEWS, "stream": True}).text.startswith("event: ")
    assert "Traceback" not in served.container.log.read_text()


def test_it_is_an_ordinary_user_and_writes_nowhere_but_in_tmp(served: Served) -> None:
    assert served.container.execute("id", "-u").stdout.strip() == "10001"
    for path in ("/opt/leximind/new", "/home/leximind/new", "/etc/new"):
        assert "Read-only file system" in served.container.execute("touch", path).stderr
    assert served.container.execute("touch", "/tmp/new").returncode == 0
    status = served.container.execute("cat", "/proc/1/status").stdout
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


def test_kernels_are_there_and_load(served: Served) -> None:
    code = "from model.kernels.library import library; assert library() is not None"
    ran = served.container.execute("python3", "-c", code)
    assert ran.returncode == 0, ran.stderr


def test_everything_that_it_imports_has_byte_code(served: Served) -> None:
    ran = served.container.execute("python3", "-c", UNCOMPILED)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_health_check_asks_the_port_that_is_set_and_no_proxy(build: Builder, served: Served) -> None:
    kind, *command = build.config(TAG)["Healthcheck"]["Test"]
    assert kind == "CMD"
    checked = served.container.execute(*command)
    assert checked.returncode == 0, checked.stderr  # http_proxy of the container leads nowhere
    checked = served.container.execute(*command, LEXIMIND_PORT="1")
    assert checked.returncode == 1
    assert checked.stderr.startswith("127.0.0.1:1: ")


def test_command_line_answers(served: Served) -> None:
    ran = served.container.execute("leximind", "topic", "The home side won the final.", "--json")
    assert json.loads(ran.stdout)["model"] == "tiny", ran.stderr


def test_sigterm_lets_requests_in_progress_finish(served: Served) -> None:
    """The last test of this file: the container is gone after it."""
    url = served.server.url
    body = {"text": [f"{NEWS} {number}" for number in range(16)], "max_new_tokens": 256, "min_new_tokens": 250}
    with ThreadPoolExecutor() as pool, httpx.Client(trust_env=False, timeout=120) as client:
        running = pool.submit(client.post, f"{url}/summarize", json=body)
        wait_for(lambda: "leximind_kv_slots_used 0.0" not in client.get(f"{url}/metrics").text)
        served.container.terminate()
        answer = running.result()
    assert answer.status_code == 200
    assert len(answer.json()) == 16
    assert served.container.process.wait(60) == 0
    assert "draining" in served.container.log.read_text()
