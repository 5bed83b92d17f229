"""What bulk work costs those who wait: single requests on an idle server, and beside requests of 32 texts.

    python -m benchmarks.priorities [--seconds 10] [--rounds 4] [--update-readme] [-- FLAGS FOR THE SERVER]

The bundled model on all cores but one, the clients on that one (`sched_setaffinity`). Phases take turns, so that what
else the machine does falls on all alike: nothing beside the single requests; bulk work as `batch`; the same as
`interactive`, which is what it would cost without priorities.
"""

import argparse
import http.client
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.servers import free_port, running

_CLIENTS = 4  # of bulk requests, each with one in progress
_NUM_TEXTS = 32
_PHASES = ("idle", "batch", "interactive")
_TARGETS = {"/topic": 1.5, "/summarize": 3.0}
_TOPICS_A_SUMMARY = 4
_PAUSE_S = (0.01, 0.05)  # between two single requests
_SETTLE_S = 1.5  # of bulk work before it is measured beside
_TEXT = (
    "The city council voted on Tuesday to close the old harbour bridge to cars from next spring. Cyclists welcomed the "
    "decision, but shop owners nearby fear that they will lose customers. Case {number}."
)


class Client:
    """One connection of the least overhead that the standard library has."""

    def __init__(self, port: int, priority: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Content-Type": "application/json", "X-Request-Priority": priority}

    def ask(self, path: str, text: str | list[str]) -> tuple[Any, float]:
        """The answer, and the seconds that it took.

        Raises:
            RuntimeError: any answer but 200.
        """
        body = json.dumps({"text": text}).encode()
        began_at = time.perf_counter()
        self._connection.request("POST", path, body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - began_at
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {answer!r}")
        return json.loads(answer), seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Start the server, measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--rounds", type=int, default=4, help="of all phases")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="where results are written")
    parser.add_argument("serve", nargs="*", help="flags for the server, after --")
    args = parser.parse_args(argv)
    cores, port = sorted(os.sched_getaffinity(0)), free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--log-level", "warning", *args.serve]
    known = report.facts()
    os.sched_setaffinity(0, cores[:-1] or cores)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(command, port, "/health/ready", Path(folder) / "server.log"),
    ):
        os.sched_setaffinity(0, cores[-1:])
        data = {"facts": known, "results": measure(port, args.seconds, args.rounds)}
    report.save("priorities", data, markdown(data), args.output)
    print(markdown(data))
    if args.update_readme:
        report.update_readme("priorities", markdown(data))


def measure(port: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Milliseconds of single requests by phase and path, and what bulk work was done in a second."""
    latencies: dict[tuple[str, str], list[float]] = defaultdict(list)
    texts_per_s: dict[str, list[float]] = defaultdict(list)
    _ask_single(port, 1.0, random.Random(-1))
    for number in range(rounds):
        for phase in _PHASES:
            draw = random.Random(number)  # the same requests in every phase of a round
            if phase == "idle":
                seen = _ask_single(port, seconds, draw)
            else:
                with _BulkWork(port, phase) as bulk:
                    seen = _ask_single(port, seconds, draw)
                    texts_per_s[phase].append(bulk.texts_per_s())
            for path, ones in seen.items():
                latencies[phase, path] += ones
    return {
        "latency_ms": {path: {phase: _percentiles(latencies[phase, path]) for phase in _PHASES} for path in _TARGETS},
        "bulk_texts_per_s": {phase: statistics.mean(ones) for phase, ones in texts_per_s.items()},
    }


def markdown(data: dict[str, Any]) -> str:
    """The table: a line for each path and phase."""
    lines = []
    for path, phases in data["results"]["latency_ms"].items():
        for phase, one in phases.items():
            ratio = one["p95"] / phases["idle"]["p95"]
            target = f"≤ {_TARGETS[path]:g}" if phase == "batch" else ""
            bulk = data["results"]["bulk_texts_per_s"].get(phase)
            name = {"idle": "nothing", "batch": "bulk work as batch", "interactive": "the same as interactive"}[phase]
            lines.append(
                [
                    f"one text to `{path}`",
                    name,
                    *(f"{one[key]:.1f}" for key in ("p50", "p95", "p99")),
                    f"{ratio:.2f}",
                    target,
                    "" if bulk is None else f"{bulk:.0f}",
                    str(one["count"]),
                ]
            )
    header = ["single request", "beside", "p50 ms", "p95 ms", "p99 ms", "p95 ÷ idle", "target", "bulk texts/s", "asked"]
    return (
        f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\n{_CLIENTS} clients send {_NUM_TEXTS} texts "
        "a request, by turns to `/summarize` and `/topic`, again as soon as they are answered; one client sends "
        f"single texts, {_TOPICS_A_SUMMARY} to `/topic` for one to `/summarize`, with pauses of "
        f"{_PAUSE_S[0] * 1000:g} to {_PAUSE_S[1] * 1000:g} ms.\n"
    )


def _ask_single(port: int, seconds: float, draw: random.Random) -> dict[str, list[float]]:
    client, seen = Client(port, "interactive"), defaultdict(list)
    stop_at, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < stop_at:
        number += 1
        path = "/topic" if number % (_TOPICS_A_SUMMARY + 1) else "/summarize"
        _, took_s = client.ask(path, _TEXT.format(number=draw.randrange(10**6)))
        seen[path].append(took_s * 1000)
        time.sleep(draw.uniform(*_PAUSE_S))
    return seen


class _BulkWork:
    """Bulk clients in a process of their own, which gives way to that of the single requests on their core."""

    def __init__(self, port: int, priority: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._count, self._stop = context.Value("q", 0), context.Event()
        self._process = context.Process(target=_send_bulk, args=(port, priority, self._count, self._stop))

    def __enter__(self) -> "_BulkWork":
        self._process.start()
        while not self._count.value:
            time.sleep(0.05)
        time.sleep(_SETTLE_S)
        self._began_at, self._before = time.perf_counter(), self._count.value
        return self

    def texts_per_s(self) -> float:
        """Since it was entered."""
        return (self._count.value - self._before) / (time.perf_counter() - self._began_at)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._process.join()


def _send_bulk(port: int, priority: str, count: Any, stop: Event) -> None:
    os.nice(10)

    def again_and_again(number: int) -> None:
        client, draw = Client(port, priority), random.Random(number)
        while not stop.is_set():
            for path in _TARGETS:
                client.ask(path, [_TEXT.format(number=draw.randrange(10**6)) for _ in range(_NUM_TEXTS)])
                with count.get_lock():
                    count.value += _NUM_TEXTS

    threads = [threading.Thread(target=again_and_again, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"count": len(ordered)} | {
        f"p{q}": ordered[max(math.ceil(q / 100 * len(ordered)), 1) - 1] for q in (50, 95, 99)
    }


if __name__ == "__main__":
    main()
