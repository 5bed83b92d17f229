"""A book's summary by every way to ask for it, against the engine alone with the same requests.

    python -m benchmarks.long_documents BOOK.txt.gz [--ways chunk,reduce,page] [--threads 2] [--update-readme]

Engine: the rounds that the book makes, each given to the engine as token ids, one after the other. Here: what the
command line does, in this process. REST and its streams: `leximind serve` on the loopback. Page: what `leximind demo`
asks of such a server for its summary, which is of names and numbers of the book alone and says what backs it.
Target: 90 % of the engine's rate. Medians of `--repeats`, taken in turn; loading is in none.
"""

import argparse
import gzip
import math
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import httpx

from app.demo.client import Client
from app.demo.page import _summarize
from app.documents import Documents
from app.engine.engine import Engine
from app.engine.request import EngineRequest
from app.local import run_service
from app.service import Service
from app.text_request import TextRequest
from benchmarks import report, servers
from model.choices import BUNDLED
from model.inference.decoding.options import DecodingOptions

WAYS: dict[str, dict[str, Any]] = {
    "chunk": {},
    "reduce": {"on_long": "reduce"},
    "page": {"on_long": "reduce", "grounded": True, "support": True, "num_beams": 1, "max_new_tokens": 128},
}
_TIMEOUT_S = 600.0
Row = tuple[
    str, list[int], float, list[float]
]  # way; tokens read and written, rounds; seconds of the engine, of others


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("book", type=Path)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--output", type=Path, default=report.FOLDER)
    args = parser.parse_args(argv)
    text = _read(args.book)
    flags = {"checkpoint": args.checkpoint, "threads": args.threads, "device": "cpu", "dtype": args.dtype}
    server, port = servers.ours(args.dtype), servers.free_port()
    command = [sys.executable, *server.arguments(args.checkpoint, port, args.threads), "--deadline-s", str(_TIMEOUT_S)]
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.running(command, port, server.health, Path(folder) / "server.log") as (url, _),
    ):
        rows = run_service(flags, lambda service: _measure(service, url, text, args.ways.split(","), args.repeats))
    data = {"facts": report.facts(), "book": args.book.name, "characters": len(text), "rows": rows}
    report.save("long-documents", data, markdown(data), args.output)
    print(markdown(data))
    if args.update_readme:
        report.update_readme("long-documents", markdown(data))


def markdown(data: dict[str, Any]) -> str:
    """A line for each way to ask."""
    header = ["", "tokens read", "tokens written", "rounds", "engine, s", "here", "REST", "REST, streamed", "page"]
    lines = []
    for way, facts, alone, others in data["rows"]:
        shares = [f"{one:.2f} s ({alone / one:.0%})" for one in others]
        lines.append([way, *(f"{one:,}" for one in facts), f"{alone:.2f}", *shares, *[""] * (4 - len(shares))])
    table = report.table(header, lines)
    return f"{report.caption(data['facts'])}\n{table}\n\n{data['book']}, {data['characters']:,} characters.\n"


def _read(book: Path) -> str:
    if book.suffix == ".gz":
        with gzip.open(book, "rt", encoding="utf-8") as file:
            return file.read()
    return book.read_text(encoding="utf-8")


async def _measure(service: Service, url: str, text: str, ways: Sequence[str], repeats: int) -> list[Row]:
    return [(way, *await _measure_way(service, url, text, WAYS[way], repeats)) for way in ways]


async def _measure_way(
    service: Service, url: str, text: str, body: dict[str, Any], repeats: int
) -> tuple[list[int], float, list[float]]:
    deployment = service.deployment
    engine, documents = deployment.engine, deployment.documents
    rounds = await _rounds_of(documents, engine, text, body)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as http:
        answer: dict[str, Any] = {}

        async def by_engine() -> None:
            for requests in rounds:
                await engine.run_all(requests)

        async def here() -> None:
            await documents.run(await documents.plan([text], _request(body), math.inf))

        async def by_rest() -> None:
            response = await http.post("/summarize", json={"text": text, **body})
            answer.update(response.raise_for_status().json())

        async def by_stream() -> None:
            async with http.stream("POST", "/summarize", json={"text": text, "stream": True, **body}) as response:
                response.raise_for_status()
                async for _ in response.aiter_lines():
                    pass

        async def by_page() -> None:
            async for _ in _summarize(Client(url), text, {"text": text, **body}):
                pass

        asked: list[Callable[[], Awaitable[None]]] = [by_engine, here, by_rest, by_stream]
        if "support" in body:
            asked.append(by_page)
        seconds: list[list[float]] = [[] for _ in asked]
        for _ in range(repeats):
            for ask, taken in zip(asked, seconds, strict=True):
                began = time.perf_counter()
                await ask()
                taken.append(time.perf_counter() - began)
    alone, *others = map(median, seconds)
    return [answer["input_tokens"], answer["output_tokens"], len(rounds)], alone, others


def _request(body: dict[str, Any]) -> TextRequest:
    options = {name: body[name] for name in ("grounded", "num_beams", "max_new_tokens") if name in body}
    return TextRequest(
        ("summarize",),
        options=DecodingOptions(**options),
        on_long=body.get("on_long", "chunk"),
        support="support" in body,
    )


async def _rounds_of(
    documents: Documents, engine: Engine, text: str, body: dict[str, Any]
) -> list[Sequence[EngineRequest]]:
    """The engine's requests of each round, as the documents give them to it."""
    rounds: list[Sequence[EngineRequest]] = []
    admit = engine._admit

    def recorded(requests: Sequence[EngineRequest], **options: Any) -> Any:
        rounds.append(requests)
        return admit(requests, **options)

    with mock.patch.object(engine, "_admit", recorded):
        await documents.run(await documents.plan([text], _request(body), math.inf))
    return rounds


if __name__ == "__main__":
    main()
