"""Documents a second of `leximind bulk`, of the same model without an engine, and of the server, on the same rows.

    python -m benchmarks.bulk CORPUS.jsonl [--rows 1000] [--threads 1] [--update-readme]

CORPUS.jsonl has a text a row under `text`. Offline: all texts are tokenized, sorted by length and run in whole batches,
each to its end, as a script of one's own would do it. Server: `leximind serve` on the loopback, asked for 32 texts a
request, eight requests at once. Seconds of the processors stand beside the rates, since a neighbour on the machine
changes them less; loading is in neither.
"""

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from app.answers import analyze_answer
from app.bulk.columns import answer_columns, answer_names
from app.bulk.inputs import table_sources
from app.local import Asker, Output, Query, fill, open_job, run_service
from app.planning import Planner
from app.service import Service
from app.text_request import TextRequest
from benchmarks import ours, report, servers
from model.choices import BUNDLED
from model.inference.decoding.batch import decode
from model.storage.checkpoint import ServedCheckpoint

TASKS = {
    "classify": ("emotions", "topic"),
    "summarize": ("summarize",),
    "both": ("summarize", "emotions", "topic"),
}
_ITEMS, _AT_ONCE = 32, 8
_BATCH_TOKENS, _BATCH_ROWS = 8192, 64
Measured = tuple[float, float]  # rows a second, seconds of the processors


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each task three ways, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--output", type=Path, default=report.FOLDER)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with args.corpus.open(encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in islice(file, args.rows)]
        source = folder / "rows.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        flags = {"checkpoint": args.checkpoint, "threads": args.threads, "device": "cpu"}
        rows = []
        for task, names in TASKS.items():
            bulk, offline = run_service(flags, lambda service, names=names: _here(service, names, source, texts))  # type: ignore[misc]
            rows.append([task, *bulk, *offline, *_served(args.checkpoint, names, texts, args.threads, folder)])
    words = sum(len(text.split()) for text in texts) / len(texts)
    data = {"facts": report.facts(), "rows": rows, "num_rows": len(texts), "words": words}
    report.save("bulk", data, markdown(data), args.output)
    print(markdown(data))
    if args.update_readme:
        report.update_readme("bulk", markdown(data))


def markdown(data: dict[str, Any]) -> str:
    """A line for each task."""
    header = ["task"]
    for name in ("bulk", "offline", "server"):
        header += [f"{name}, rows/s", f"{name}, CPU s"]
    header.append("bulk ÷ offline, by CPU s")
    lines = [
        [task, *(f"{value:,.1f}" for value in values), f"{values[3] / values[1]:.2f}"] for task, *values in data["rows"]
    ]
    return (
        f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\n{data['num_rows']:,} rows of "
        f"{data['words']:.0f} words on average.\n"
    )


async def _here(service: Service, tasks: tuple[str, ...], source: Path, texts: list[str]) -> tuple[Measured, Measured]:
    asker = Asker(service, Query(analyze_answer, TextRequest(tasks)))
    columns = answer_columns(asker.checkpoint.tasks, tasks, "")
    sources = table_sources([str(source)], "text", answer_names(tasks, ""), columns)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out"
        job = open_job(asker.resolved, sources, Output(shard_rows=1000), target)
        try:
            started_at, used_before = time.perf_counter(), time.process_time()
            await fill(target, job.unfinished, asker, "")
            bulk = len(texts) / (time.perf_counter() - started_at), time.process_time() - used_before
        finally:
            job.close()
    started_at, used_before = time.perf_counter(), time.process_time()
    await asyncio.to_thread(_offline, asker.checkpoint, asker.request, texts)
    return bulk, (len(texts) / (time.perf_counter() - started_at), time.process_time() - used_before)


@torch.inference_mode()
def _offline(checkpoint: ServedCheckpoint, request: TextRequest, texts: list[str]) -> None:
    backend = checkpoint.backend
    plans = Planner(checkpoint, 10**9).plan(texts, request, math.inf)
    queue = sorted((one for plan in plans for one in plan.requests), key=lambda one: len(one.input_ids))
    while queue:
        fitting = [place for place, one in enumerate(queue, 1) if place * len(one.input_ids) <= _BATCH_TOKENS]
        size = max(1, min(len(fitting), _BATCH_ROWS if queue[0].options else len(queue)))
        batch, queue = queue[:size], queue[size:]
        states, mask = ours.encode(backend, [one.input_ids for one in batch])
        if batch[0].heads:
            backend.classify(states, mask, batch[0].heads)
        if options := [one.options for one in batch if one.options is not None]:
            for result in decode(backend, states, mask, options):
                checkpoint.tokenizer.decode(result.token_ids)


def _served(checkpoint: Path, tasks: tuple[str, ...], texts: list[str], threads: int, logs: Path) -> Measured:
    server, port = servers.ours("auto"), servers.free_port()
    command = [sys.executable, *server.arguments(checkpoint, port, threads)]
    requests = [texts[start : start + _ITEMS] for start in range(0, len(texts), _ITEMS)]
    with servers.running(command, port, server.health, logs / "server.log") as (url, pid):

        def ask(some: list[str]) -> None:
            body = json.dumps({"text": some, "tasks": tasks}).encode()
            headers = {"content-type": "application/json", "x-request-timeout-ms": "600000"}
            with urllib.request.urlopen(urllib.request.Request(f"{url}/analyze", body, headers), timeout=600) as answer:
                answer.read()

        ask(texts[:1])
        started_at, used_before = time.perf_counter(), _processor_s(pid)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(ask, requests))
        return len(texts) / (time.perf_counter() - started_at), _processor_s(pid) - used_before


def _processor_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
