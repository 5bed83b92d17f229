"""What serving costs beside the model: HTTP, JSON, tokenizing and scheduling a request; and a served batch's rate.

    python -m benchmarks.overhead [--quick] [--dtype bfloat16] [--update-readme]

The server of the first part is confined to one core and answers one short classification at a time. Its processor
time is the operating system's count; the model's share is its own `leximind_encode_seconds`, which is wall time: on a
busy machine the difference means nothing.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks import report
from benchmarks.interpreters import Worker, interpreters
from benchmarks.servers import Server, free_port, ours, running
from benchmarks.weights import BASE, CACHE, SMOKE, Weights, prepare
from model.choices import BUNDLED
from model.tasks import FLAN_PROMPT
from model.tokenizer import Tokenizer

_TEXT = "The home side won the final by two goals to one, with both goals late in the second half."
_SOURCE_TOKENS = 256
_WORKERS = {"float32": "ours fp32", "bfloat16": "ours bf16", "int8": "ours int8"}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few requests, and a two-layer network for the batch")
    parser.add_argument("--dtype", default="bfloat16", choices=_WORKERS, help="of the served batch")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the served batch")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=report.FOLDER)
    args = parser.parse_args(argv)
    weights = prepare(SMOKE if args.quick else BASE, args.cache)
    data = {
        "facts": report.facts(),
        "dtype": args.dtype,
        "request": request_cost(20 if args.quick else 400, weights.folder),
        "batch": served_batch(weights, args.dtype, args.threads, *((4, 16) if args.quick else (32, 64))),
    }
    name = "overhead-quick" if args.quick else "overhead"
    report.save(name, data, markdown(data), args.output)
    print(markdown(data))
    if args.update_readme:
        report.update_readme("overhead", markdown(data))


def markdown(data: dict[str, Any]) -> str:
    """Both parts as one table."""
    request, batch = data["request"], data["batch"]
    latency_ms = request["latency_ms"]
    lines = [
        ["a request: processor time, ms", f"{request['processor_ms']:.2f}"],
        ["of it the model, ms", f"{request['model_ms']:.2f}"],
        ["**HTTP, JSON, tokenizing and scheduling, ms**", f"{request['processor_ms'] - request['model_ms']:.2f}"],
        ["its latency, median, ms", f"{latency_ms:.2f}"],
        ["its latency less the model, client and loopback included, ms", f"{latency_ms - request['model_ms']:.2f}"],
        [f"{batch['size']} texts offline, {data['dtype']}, tokens/s", f"{batch['offline_per_s']:.0f}"],
        ["the same served as one request, tokens/s", f"{batch['served_per_s']:.0f}"],
        ["**served ÷ offline**", f"{batch['served_per_s'] / batch['offline_per_s']:.3f}"],
    ]
    return f"{report.caption(data['facts'])}\n{report.table(['overhead', ''], lines)}\n"


def request_cost(num_requests: int, logs: Path) -> dict[str, float]:
    """Milliseconds a request of the server's processor time, of the model in it, and of latency."""
    with _confined(), _serving(ours("float32"), BUNDLED, 1, logs / "overhead.log") as (client, process_id):
        for _ in range(20):
            _post(client, "/topic", {"text": _TEXT})
        model_s, processor_s = _model_seconds(client), _processor_seconds(process_id)
        latencies = [_post(client, "/topic", {"text": _TEXT}) for _ in range(num_requests)]
        processor_s = _processor_seconds(process_id) - processor_s
        model_s = _model_seconds(client) - model_s
    return {
        "processor_ms": 1e3 * processor_s / num_requests,
        "model_ms": 1e3 * model_s / num_requests,
        "latency_ms": 1e3 * median(latencies),
    }


def served_batch(weights: Weights, dtype: str, threads: int, size: int, num_new_tokens: int) -> dict[str, float]:
    """New tokens a second of one batch, offline and as one request; medians of three, taken in turn."""
    texts, sources = _texts(weights, size)
    options = ours(dtype).body("", num_new_tokens)
    worker = Worker(_WORKERS[dtype], interpreters([])[0], weights, threads)
    offline, served = [], []
    try:
        worker.ready()
        with _serving(ours(dtype), weights.ours, threads, weights.folder / "served.log") as (client, _):
            for _ in range(4):
                order = {"do": "generate", "sources": sources, "num_new_tokens": num_new_tokens, "num_beams": 1}
                offline.append(worker.ask(**order)["seconds"])
                served.append(_post(client, "/summarize", options | {"text": texts}))
    finally:
        worker.close()
    num_tokens = size * num_new_tokens
    return {  # the first of each warmed up
        "size": size,
        "offline_per_s": num_tokens / median(offline[1:]),
        "served_per_s": num_tokens / median(served[1:]),
    }


def _texts(weights: Weights, size: int) -> tuple[list[str], list[list[int]]]:
    """Texts that fill the source with their prompt, and their ids."""
    tokenizer, language = Tokenizer(weights.ours / "spiece.model"), weights.language()
    texts, sources = [], []
    for seed in range(size):
        words = language.text(_SOURCE_TOKENS, seed).split()
        while len(ids := tokenizer.encode_source(" ".join(words), FLAN_PROMPT)) > _SOURCE_TOKENS:
            words.pop()
        texts.append(" ".join(words))
        sources.append(ids)
    return texts, sources


@contextmanager
def _serving(server: Server, checkpoint: Path, threads: int, log: Path) -> Iterator[tuple[httpx.Client, int]]:
    port = free_port()
    command = [sys.executable, *server.arguments(checkpoint, port, threads)]
    with (
        running(command, port, server.health, log) as (url, process_id),
        httpx.Client(base_url=url, timeout=120, trust_env=False) as client,
    ):
        yield client, process_id


@contextmanager
def _confined() -> Iterator[None]:
    """What is started within keeps to one core; this process comes back to all of them."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> float:
    started_at = time.perf_counter()
    client.post(path, json=body).raise_for_status()
    return time.perf_counter() - started_at


def _model_seconds(client: httpx.Client) -> float:
    found = re.search(r"^leximind_encode_seconds_sum (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def _processor_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
