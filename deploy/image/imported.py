"""Prints the Python files below FOLDER that the service imports until it has answered every route once.

`python3 imported.py FOLDER`, where the service is installed. The routes are those of its own description.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from app.cli import main

_READY_WITHIN_S = 180
_TEXT = "The home side won the final by two goals to one."


def body_of(operation: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any] | None:
    """A body that a route takes, by the one field that it requires; None for a route that takes none."""
    if "requestBody" not in operation:
        return None
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    return dict.fromkeys(schemas[reference.rpartition("/")[2]]["required"], _TEXT)


def ask(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    """The answer's body.

    Raises:
        SystemExit: the answer is not 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {} if body is None else {"Content-Type": "application/json"})
        answer = connection.getresponse()
        read = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{method} {path}: {answer.status} {read.decode()}")
    return read


def ask_everything(port: int) -> None:
    """Wait until the service is ready, and ask each route once, and a stream."""
    give_up = time.monotonic() + _READY_WITHIN_S
    while True:
        with contextlib.suppress(OSError, SystemExit):
            ask(port, "GET", "/health/ready")
            break
        if time.monotonic() > give_up:
            raise SystemExit(f"the service was not ready within {_READY_WITHIN_S} s")
        time.sleep(0.1)
    description = json.loads(ask(port, "GET", "/openapi.json"))
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            body = body_of(operation, description["components"]["schemas"])
            ask(port, method.upper(), path.replace("{head}", "topic"), body)
    ask(port, "POST", "/summarize", {"text": _TEXT, "stream": True})
    ask(port, "GET", "/docs")


def imported(folder: str) -> list[str]:
    """Source files below `folder` of the modules that are loaded."""
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    return sorted(file for file in files if file.startswith(f"{folder}/") and file.endswith(".py"))


def run() -> None:
    """`leximind serve`, in this process, until it has answered everything."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    problems: list[BaseException] = []

    def client() -> None:
        try:
            ask_everything(port)
        except BaseException as problem:
            problems.append(problem)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda *_: None)  # before the service has its own handler
    threading.Thread(target=client, daemon=True).start()
    sys.argv[1:] = ["serve", "--port", str(port), "--device", "cpu", "--log-level", "warning"]
    with contextlib.suppress(SystemExit):
        main()
    if problems:
        raise problems[0]


if __name__ == "__main__":
    folder = sys.argv[1]
    run()
    print("\n".join(imported(folder)))
