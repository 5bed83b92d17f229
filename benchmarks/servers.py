"""The servers under load, each a real process on the loopback that is ended with everything that it started."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.interpreters import ROOT

_READY_WITHIN_S = 240.0  # an export to OpenVINO included
_STOP_WITHIN_S = 15.0


@dataclass(frozen=True)
class Server:
    """How a server is started and asked. It serves a checkpoint folder if it is ours, the whole weights otherwise.

    `requires` names the distributions that its interpreter must have.
    """

    name: str
    requires: tuple[str, ...]
    arguments: Callable[[Path, int, int], list[str]]  # folder, port, threads
    health: str
    path: str
    body: Callable[[str, int], dict[str, Any]]  # text, new tokens
    is_whole: Callable[[dict[str, Any], int], bool] = lambda answer, wanted: answer["output_tokens"] == wanted
    headers: Mapping[str, str] = field(default_factory=dict)

    def of_priority(self, priority: str) -> "Server":
        """The same, asked with this priority, which only ours knows."""
        return replace(self, headers={"X-Request-Priority": priority})

    def topics(self) -> "Server":
        """The same, asked for a text's topic, which only ours has."""
        return replace(
            self, path="/topic", body=lambda text, _: {"text": text}, is_whole=lambda answer, _: "topic" in answer
        )


def ours(dtype: str) -> Server:
    """LexiMind as `leximind serve` starts it."""
    return Server(
        name=f"ours {dtype}",
        requires=("torch", "fastapi", "uvicorn", "pydantic-settings", "typer"),
        arguments=lambda folder, port, threads: [
            *("-c", "from app.cli import main; main()", "serve", "--checkpoint", str(folder)),
            *("--port", str(port), "--device", "cpu", "--dtype", dtype, "--threads", str(threads)),
            *("--log-level", "warning"),
        ],
        health="/health/ready",
        path="/summarize",
        body=lambda text, num_new_tokens: {
            "text": text,
            "max_new_tokens": num_new_tokens,
            "min_new_tokens": num_new_tokens,
            "no_repeat_ngram_size": 0,
            "on_long": "truncate",
        },
    )


def _litserve(name: str, module: str, requires: tuple[str, ...]) -> Server:
    return Server(
        name=f"LitServe + {name}",
        requires=("litserve", "transformers", "torch", *requires),
        arguments=lambda folder, port, threads: [
            *("-m", f"benchmarks.peers.{module}", "--folder", str(folder)),
            *("--port", str(port), "--threads", str(threads)),
        ],
        health="/health",
        path="/predict",
        body=lambda text, num_new_tokens: {"text": text, "max_new_tokens": num_new_tokens},
    )


SERVERS = (
    ours("bfloat16"),
    ours("int8"),
    _litserve("transformers bf16", "litserve_transformers", ()),
    _litserve("OpenVINO int8", "litserve_openvino", ("optimum-intel", "openvino")),
)


@contextmanager
def running(command: list[str], port: int, health: str, log: Path) -> Iterator[tuple[str, int]]:
    """The URL and process id of a server once it is healthy; ended, with its children, at the end.

    Raises:
        RuntimeError: it ended or did not become healthy; the message is the end of its log.
    """
    with log.open("w") as output:
        # A session of its own, so that what it starts can be ended with it.
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url + health, log)
        yield url, process.pid
    finally:
        _end(process)


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up = time.monotonic() + _READY_WITHIN_S
    while not _is_healthy(url):
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError("does not serve: " + " ".join(log.read_text(errors="replace").splitlines()[-2:]))
        time.sleep(0.2)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=_STOP_WITHIN_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
