"""The pages as a reader follows them: their blocks of code, run in order, and the answers that stand below them.

`PYTHONPATH=tests python -m support.pages` writes the answers anew where they are no longer those of the page; with
names of pages, in those alone.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from model.choices import BUNDLED
from support.example_requests import BRIDGE, LONG, QUAKE, SHARES, THANKS
from support.servers import Server, started_servers, wait_until_ready

REPOSITORY = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").glob("*.md"))]
RUN = ("bash", "python", "javascript")
ANSWERS = ("json", "text")
NODE = shutil.which("node")
_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_SERVE = re.compile(r"^leximind serve\b(?P<flags>[^#\n]*)", re.M)
_COLUMNS = 118
# As the answers are recorded, wherever they are asked again; a processor's own precision differs in the third digit.
_SETTINGS = {"LEXIMIND_DEVICE": "cpu", "LEXIMIND_DTYPE": "float32", "LEXIMIND_THREADS": "1"}
_TOLERANCE = 2e-4


@dataclass(frozen=True)
class Block:
    """A fenced block: `reason` says why it is not run; `answer` is the block that stands right below it."""

    language: str
    text: str
    start: int
    end: int
    reason: str | None = None
    answer: "Block | None" = None


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page that a reader would run, each with its answer."""
    return blocks_in((REPOSITORY / page).read_text(encoding="utf-8"))


def blocks_in(markdown: str) -> list[Block]:
    """As `blocks_of`, of its text."""
    found: list[Block] = []
    for match in _FENCE.finditer(markdown):
        one = Block(match["language"], match["text"], match.start("text"), match.end("text"), match["reason"])
        if one.language in ANSWERS and found and found[-1].answer is None:
            last = found[-1]
            if not markdown[last.end : match.start()].removeprefix("```").strip():
                found[-1] = Block(last.language, last.text, last.start, last.end, last.reason, one)
                continue
        found.append(one)
    return found


def write_files(folder: Path) -> None:
    """What the pages speak of as the reader's own."""
    (folder / "article.txt").write_text(BRIDGE)
    (folder / "novel.txt").write_text(LONG)
    (folder / "articles").mkdir()
    (folder / "more").mkdir()
    (folder / "articles/quake.txt").write_text(QUAKE)
    (folder / "more/shares.txt").write_text(SHARES)
    (folder / "reviews.txt").write_text(f"{THANKS}\nIt broke after a day, and nobody answers my letters.\n")
    rows = [{"id": 1, "body": SHARES}, {"id": 2, "body": QUAKE}]
    (folder / "news.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "crawl").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist([{"text": THANKS}]), folder / "crawl/part-0.parquet")
    (folder / "news.csv").write_text("id,body\n" + "".join(f'{row["id"]},"{row["body"]}"\n' for row in rows))


class Reader:
    """Runs a page's blocks in a folder of its own, against the server that the page starts, or one that is there."""

    def __init__(self, folder: Path, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._own: list[Iterator[Any]] = []
        self._bin = folder / "bin"
        self._bin.mkdir()
        write_files(folder)
        # The commands of an environment that is active.
        for name, command in (("leximind", f"{sys.executable} -m app.cli"), ("python", sys.executable)):
            (self._bin / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (self._bin / name).chmod(0o755)

    def run(self, block: Block) -> str:
        """What the block prints; a block that fails raises `AssertionError` with what it said."""
        text = block.text
        if block.language == "bash":
            for match in _SERVE.finditer(text):
                self._serve(match["flags"].split())
            text = _SERVE.sub(": ", text)
        text = text.replace("localhost:8000", f"127.0.0.1:{self._server.port}")
        commands = {"bash": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}
        commands["javascript"] = [str(NODE), "--input-type=module", "--eval", text]
        path = f"{self._bin}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **_SETTINGS, "PATH": path, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
        done = subprocess.run(
            commands[block.language], cwd=self._folder, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, flags: list[str]) -> None:
        """Start what the page starts, on a free port; it serves the rest of the page."""
        kept = [flag for place, flag in enumerate(flags) if "--port" not in (flag, flags[place - 1] if place else "")]
        folder = self._folder / f"server-{len(self._own)}"
        folder.mkdir()
        servers = started_servers(folder, BUNDLED)
        self._own.append(servers)
        precision = [] if "--dtype" in kept else ["--dtype", "float32"]
        self._server = wait_until_ready(next(servers)(*precision, *kept))

    def close(self) -> None:
        """End the servers that the page started."""
        for servers in self._own:
            next(servers, None)


@contextlib.contextmanager
def shared_server(folder: Path) -> Iterator[Server]:
    """One for all pages that start none themselves."""
    servers = started_servers(folder, BUNDLED)
    yield wait_until_ready(next(servers)("--dtype", "float32"))
    next(servers, None)


def shown(language: str, printed: str) -> str:
    """What a block printed as it stands on a page."""
    if language == "text":
        return "".join(f"{line.rstrip()}\n" for line in printed.strip().splitlines())
    line = json.dumps(_rounded(json.loads(printed)), ensure_ascii=False)
    wrapped = textwrap.wrap(line, _COLUMNS, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{part}\n" for part in wrapped)


def check(answer: Block, printed: str) -> None:
    """Whether a page's answer is what was printed, but for the last digit of its numbers."""
    if answer.language == "text":
        assert shown("text", printed) == answer.text, "record the answers again: make answers"
        return
    expected, found = (json.loads(text.replace("\n", " ")) for text in (answer.text, shown("json", printed)))
    # Numbers are rounded, and other processors add in another order.
    leaves = {
        place: pytest.approx(value, abs=_TOLERANCE) if isinstance(value, float) else value
        for place, value in _leaves(expected).items()
    }
    assert _leaves(found) == leaves, "record the answers again: make answers"


def _leaves(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        # A status in words, which are other ones in other versions of Python.
        parts = [_leaves(part, f"{place}/{name}") for name, part in items if name != "title"]
        return {name: leaf for part in parts for name, leaf in part.items()}
    return {place: value}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def record(page: str, server: Server) -> None:
    """Write what the blocks of `page` print now below them."""
    path = REPOSITORY / page
    markdown = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder), server)
        try:
            answers = []
            for block in blocks_in(markdown):
                if block.language not in RUN or block.reason is not None:
                    continue
                printed = reader.run(block)
                if block.answer is not None:
                    answers.append((block.answer, shown(block.answer.language, printed)))
        finally:
            reader.close()
    for answer, text in reversed(answers):
        markdown = markdown[: answer.start] + text + markdown[answer.end :]
    path.write_text(markdown, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as log, shared_server(Path(log)) as server:
        for name in sys.argv[1:] or PAGES:
            record(name, server)
