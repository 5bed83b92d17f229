"""A hub on loopback that speaks as much of the Hugging Face API as a download needs, and small data sets for it."""

import csv
import gzip
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from training.acquisition.sources import SOURCES

GO_EMOTIONS = "google-research-datasets/go_emotions/simplified"
AG_NEWS = "fancyzhx/ag_news/data"
CNN = "abisee/cnn_dailymail/3.0.0"
BOOKS = "common-pile/project_gutenberg_filtered/project_gutenberg-dolma-0000.json.gz"

_WORDS = (
    "river council bridge harbour winter market doctor engine garden letter music ocean village captain student "
    "theatre mountain company minister teacher railway picture forest kitchen soldier painter island lawyer"
).split()


def sentence(number: int, length: int = 12) -> str:
    """One that shares no run of three words with that of another number, or hardly any."""
    picks = hashlib.sha256(str(number).encode()).digest()
    words = [f"{_WORDS[pick % len(_WORDS)]}{number if place % 3 == 0 else ''}" for place, pick in enumerate(picks)]
    return " ".join(words[:length]).capitalize() + "."


def text(number: int, num_sentences: int = 5) -> str:
    """A few sentences of one number."""
    return " ".join(sentence(number * 100 + each) for each in range(num_sentences))


def book(number: int, num_paragraphs: int = 12) -> str:
    """A book of prose with a head, a heading, and a line of verse."""
    paragraphs = ["Project Gutenberg's Etext of a book.", "CHAPTER I", "Roses are red\nviolets blue\nlines are short\n"]
    return "\r\n\r\n".join(paragraphs + [text(number * 1000 + each, 8) for each in range(num_paragraphs)])


def parquet_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of a Parquet file."""
    out = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(list(rows)), out, compression="none")
    return out.getvalue()


def csv_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of a CSV file."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def json_lines_file(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of a `.json.gz` file."""
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def articles(start: int, num_rows: int) -> list[dict[str, Any]]:
    """CNN/DailyMail."""
    numbers = range(start, start + num_rows)
    return [
        {"article": text(n), "highlights": f"{sentence(n * 100)[:-1]} .\nMore follows .", "id": f"a{n}"}
        for n in numbers
    ]


def chapters(start: int, num_rows: int) -> list[dict[str, Any]]:
    """BookSum; the number of the book is that of the row."""
    numbers = range(start, start + num_rows)
    return [{"bid": n, "chapter": text(n, 8) + "\n\nThe end.", "summary_text": sentence(n)} for n in numbers]


def comments(start: int, num_rows: int) -> list[dict[str, Any]]:
    """GoEmotions."""
    return [{"text": sentence(n), "labels": [n % 28], "id": f"c{n}"} for n in range(start, start + num_rows)]


def news(start: int, num_rows: int) -> list[dict[str, Any]]:
    """AG News."""
    return [{"text": f"It#39;s so. {text(n, 2)}", "label": n % 4} for n in range(start, start + num_rows)]


def books(start: int, num_rows: int) -> list[dict[str, Any]]:
    """Project Gutenberg."""
    numbers = range(start, start + num_rows)
    return [{"id": str(n), "text": book(n), "metadata": {"license": "Public Domain"}} for n in numbers]


def small_files() -> dict[str, bytes]:
    """Every file of every source by `repo/path`, a few rows each, none like another."""
    made: dict[str, bytes] = {}
    rows = {"cnn_dailymail": articles, "booksum": chapters, "goemotions": comments, "ag_news": news, "gutenberg": books}
    encode = {".parquet": parquet_file, ".csv": csv_file, "json.gz": json_lines_file}
    start = 1000
    for source in SOURCES:
        for split, paths in source.files.items():
            for path in paths:
                num_rows = 40 if split == "train" else 8
                encoder = next(encoder for ending, encoder in encode.items() if path.endswith(ending))
                made[f"{source.repo}/{path}"] = encoder(rows[source.name](start, num_rows))
                start += 1000
    return made


@dataclass
class SmallHub:
    """`files` by `repo/path`. `asked` is what was asked for: (method, path, where the answer began)."""

    files: dict[str, bytes]
    url: str = ""
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    stall_after: int | None = None  # bytes of a file after which nothing more comes
    announced_size: int | None = None  # of every file, instead of the true one
    corrupt: bool = False  # the bytes are not those whose hash was announced

    def fetched(self) -> list[str]:
        """Files that were asked for."""
        return [path for method, path, _ in self.asked if method == "GET"]


@contextmanager
def serving(hub: SmallHub) -> Iterator[SmallHub]:
    """Within the block, `hub` answers at its `url`."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            repo = "/".join(unquote(self.path).split("/")[3:5])  # /api/datasets/OWNER/NAME/paths-info/REVISION
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
            hub.asked.append(("POST", repo, 0))
            self._answer(json.dumps([_announce(hub, repo, p) for p in asked if f"{repo}/{p}" in hub.files]).encode())

        def do_GET(self) -> None:
            _, _, owner, name, _, _, *path = unquote(self.path).split("/")  # /datasets/OWNER/NAME/resolve/REV/PATH
            key = "/".join([owner, name, *path])
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            hub.asked.append(("GET", key, start))
            content = hub.files[key]
            body = (bytes(len(content)) if hub.corrupt else content)[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            self.wfile.write(body[: hub.stall_after])
            if hub.stall_after is not None and len(body) > hub.stall_after:
                self.wfile.flush()
                stopped.wait()

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _announce(hub: SmallHub, repo: str, path: str) -> dict[str, Any]:
    content = hub.files[f"{repo}/{path}"]
    size = hub.announced_size or len(content)
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
    return {"type": "file", "path": path, "size": size, "oid": "0" * 40, "lfs": lfs}


def refused(run: Callable[[], Any]) -> str:
    """What the command says when it ends with an error."""
    with pytest.raises(SystemExit) as stop:
        run()
    assert isinstance(stop.value.code, str)
    return stop.value.code


def places(tmp_path: Path) -> list[str]:
    """The command's folders below `tmp_path`, as it takes them."""
    return ["--output", str(tmp_path / "data"), "--raw", str(tmp_path / "raw")]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a file as it writes them."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def left_out(folder: Path) -> list[dict[str, Any]]:
    """What did not come along, with reasons."""
    return rows_of(folder / "left_out.jsonl.gz")


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a data folder."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest
