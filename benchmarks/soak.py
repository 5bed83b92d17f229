"""Half an hour of everything at once against a real server, every answer compared with the one that it gets alone.

    python -m benchmarks.soak --minutes 30

Clients in a closed loop ask all tasks of short and long texts, with beams, sampling and streams; some hang up, some
send what is refused, some allow no time; meanwhile checkpoints are exchanged, by request and by SIGHUP, and one that is
damaged is offered. Keys are in use. The exit status is 1 if an answer differs from that of its checkpoint on an idle
server, if anything is answered with what nobody may expect, or if memory, descriptors, threads or slots grow.
"""

import argparse
import asyncio
import itertools
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks import report
from benchmarks.interpreters import ROOT
from benchmarks.servers import free_port
from benchmarks.vitals import Vitals, growth, look, resident_early_and_late
from model.choices import BUNDLED
from model.storage.checkpoint import load_checkpoint
from model.storage.saving import save_checkpoint

RESULTS = report.FOLDER / "reliability.md"
TEXTS: dict[str, list[str]] = json.loads((ROOT / "tests" / "load" / "texts.json").read_text(encoding="utf-8"))
LONG = TEXTS["news"] + TEXTS["dialogues"] + TEXTS["abstracts"]
ADMIN = {"X-API-Key": "operator"}
WORK = {"X-API-Key": "work"}
JSON = {"content-type": "application/json"}
_LOOK_EVERY_S = 5.0
_RELOAD_EVERY_S = 20.0
_QUIET_S = 15.0  # freed memory is returned within ten
_KEPT_FAILURES = 20
_READY_WITHIN_S = 240.0
GAUGES = ("active_requests", "queue_requests", "queue_tokens", "kv_slots_used", "tokenizer_waiting_bytes")

# Path, body, and the status that refuses it.
REFUSED: list[tuple[str, bytes, int]] = [
    ("/summarize", b"", 400),
    ("/topic", b'{"text": ', 400),
    ("/topic", b"\xff\xfe", 400),
    ("/topic", b"[" * 10_001, 400),
    ("/nothing", b"{}", 404),
    ("/classify/nothing", b'{"text": "a"}', 404),
    ("/topic", b'{"text": "' + b"a" * 3_000_000 + b'"}', 413),
    ("/topic", b'{"text": " "}', 422),
    ("/topic", b'{"text": "\\ud800"}', 422),
    ("/emotions", b'{"text": "a", "threshold": 2}', 422),
    ("/summarize", b'{"text": "a", "num_beams": 99}', 422),
    ("/summarize", b'{"text": ["a"], "stream": true}', 422),
    ("/analyze", b'{"text": "a", "tasks": []}', 422),
]


@dataclass(frozen=True)
class Case:
    """A question that can be asked again and again."""

    path: str
    body: dict[str, Any]


@dataclass
class Tally:
    """What came of a soak."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    num_failures: int = 0

    def fail(self, message: str) -> None:
        """Count what must not be, and keep the first."""
        self.num_failures += 1
        if len(self.failures) < _KEPT_FAILURES:
            self.failures.append(message)


def cases(count: int, rng: random.Random) -> list[Case]:
    """Every task, from a word to many chunks, lists, and each way of decoding."""
    made = []
    decodings: list[dict[str, Any]] = [
        {},
        {"num_beams": 4},
        {"do_sample": True, "seed": 7},
        {"repetition_penalty": 1.3},
    ]
    for number in range(count):
        parts = rng.sample(LONG, rng.choice([1, 1, 2, 12]))
        text: Any = rng.choice(
            [rng.choice(TEXTS["comments"]), rng.choice(TEXTS["comments"]).split()[0], " ".join(parts)]
        )
        options = rng.choice(decodings) | {"max_new_tokens": rng.choice([1, 8, 24, 64])}
        if number % 7 == 0:
            text = [text, *rng.sample(LONG, 3)]
        path = ("/summarize", "/topic", "/summarize", "/emotions", "/analyze", "/classify/topic")[number % 6]
        body = {"text": text}
        match path:
            case "/summarize":
                body |= options
            case "/analyze":
                body["summary"] = options
            case "/emotions":
                body["threshold"] = 0.0
        made.append(Case(path, body))
    return made


def equal(one: Any, other: Any) -> bool:
    """Equal but for the last digits of a head's scores, which torch sums in another order in another batch."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=2e-6)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, _by_label(one), _by_label(other)))
    return bool(one == other)


def _by_label(items: list[Any]) -> list[Any]:
    """Scores that are all but equal may change places."""
    return sorted(items, key=lambda one: one["label"]) if items and "label" in items[0] else items


async def answer_of(client: httpx.AsyncClient, case: Case, *, stream: bool = False) -> tuple[str, Any]:
    """Checkpoint and answer; of a stream the last event, whose summary its tokens must have added up to.

    Raises:
        ValueError: another status, or a stream that does not add up.
    """
    body = case.body | ({"stream": True} if stream else {})
    while True:
        response = await client.post(case.path, json=body)
        if response.status_code != 429:
            break
        await asyncio.sleep(int(response.headers["Retry-After"]))
    if response.status_code != 200:
        raise ValueError(f"{response.status_code} {response.text[:200]}")
    checkpoint = response.headers["X-LexiMind-Checkpoint"]
    if not stream:
        return checkpoint, response.json()
    events = [(name, json.loads(data)) for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", response.text)]
    text = "".join(data["text"] for name, data in events if name == "token")
    if events[-1][0] != "summary" or text != events[-1][1]["summary"]:
        raise ValueError(f"a stream that does not add up: {response.text[-300:]}")
    return checkpoint, events[-1][1]


class Soak:
    """The load on one server, whose answers alone are known by checkpoint and case."""

    _client: httpx.AsyncClient

    def __init__(self, process: subprocess.Popen[bytes], asked: Sequence[Case], rng: random.Random) -> None:
        self._process = process
        self._asked = asked
        self._rng = rng
        self._alone: dict[str, list[Any]] = {}
        self.tally = Tally()
        self.looks: list[Vitals] = []

    async def learn(self, client: httpx.AsyncClient) -> None:
        """Ask each checkpoint every case, one after the other."""
        self._client = client
        for name in ("two", "one"):
            (await self._reload(name)).raise_for_status()
            answers = [await answer_of(self._client, case) for case in self._asked]
            self._alone[answers[0][0]] = [answer for _, answer in answers]
        if len(self._alone) < 2 or len({json.dumps(answers) for answers in self._alone.values()}) < 2:
            raise SystemExit("the two checkpoints answer alike")

    async def run(self, client: httpx.AsyncClient, seconds: float, num_clients: int) -> None:
        """Load, exchanges and looks, all at once."""
        self._client = client
        began_at = time.monotonic()
        end = began_at + seconds
        clients = [self._until(end, self._act) for _ in range(num_clients)]
        await asyncio.gather(*clients, self._until(end, self._exchange), self._until(end, self._look, began_at))

    async def _until(self, end: float, action: Any, *args: Any) -> None:
        while time.monotonic() < end:
            try:
                await action(*args)
            except Exception as error:  # any is a finding, and the others go on
                self.tally.fail(f"{type(error).__name__}: {error}"[:300])

    async def _act(self) -> None:
        (action,) = self._rng.choices((self._ask, self._leave, self._send_bad, self._hurry), (75, 10, 10, 5))
        await action()

    async def _ask(self) -> None:
        number = self._rng.randrange(len(self._asked))
        case = self._asked[number]
        can_stream = case.path == "/summarize" and isinstance(case.body["text"], str) and "num_beams" not in case.body
        stream = can_stream and self._rng.random() < 0.5
        checkpoint, answer = await answer_of(self._client, case, stream=stream)
        self.tally.outcomes["streamed" if stream else "answered"] += 1
        if not equal(answer, self._alone[checkpoint][number]):
            self.tally.fail(f"{checkpoint} case {number}: {json.dumps(answer)[:200]}")

    async def _leave(self) -> None:
        body = {"text": self._rng.choice(LONG), "max_new_tokens": 200, "min_new_tokens": 200}
        self.tally.outcomes["left"] += 1
        if self._rng.random() < 0.5:
            async with self._client.stream("POST", "/summarize", json=body | {"stream": True}) as response:
                with suppress(StopAsyncIteration):
                    await anext(response.aiter_lines())
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._rng.uniform(0.0, 0.5)):
                await self._client.post("/summarize", json=body | {"num_beams": self._rng.choice([1, 4])})

    async def _send_bad(self) -> None:
        path, content, status = self._rng.choice(REFUSED)
        response = await self._client.post(path, content=content, headers=JSON)
        self.tally.outcomes["refused"] += 1
        if response.status_code != status:
            self.tally.fail(f"{path} {content[:40]!r}: {response.status_code} {response.text[:200]}")

    async def _hurry(self) -> None:
        headers = {"X-Request-Timeout-Ms": str(self._rng.choice([1, 20, 100]))}
        body = {"text": self._rng.choice(LONG), "max_new_tokens": 64}
        response = await self._client.post("/summarize", json=body, headers=headers)
        self.tally.outcomes["in time" if response.status_code == 200 else "too late"] += 1
        if response.status_code not in (200, 408, 429, 504):  # 408: over before the body was there
            self.tally.fail(f"without time: {response.status_code} {response.text[:200]}")

    async def _exchange(self) -> None:
        await asyncio.sleep(_RELOAD_EVERY_S)
        name = self._rng.choice(("one", "two", "damaged", "SIGHUP"))
        if name == "SIGHUP":
            self._process.send_signal(signal.SIGHUP)
            self.tally.outcomes["reloaded by SIGHUP"] += 1
            return
        response = await self._reload(name)
        self.tally.outcomes[f"reload {response.status_code}"] += 1
        if response.status_code not in ((422, 409) if name == "damaged" else (200, 409)):
            self.tally.fail(f"reload of {name}: {response.status_code} {response.text[:200]}")

    async def _reload(self, name: str) -> httpx.Response:
        return await self._client.post("/admin/reload", json={"checkpoint": name}, headers=ADMIN)

    async def _look(self, began_at: float) -> None:
        self.looks.append(look(self._process.pid, time.monotonic() - began_at))
        await asyncio.sleep(_LOOK_EVERY_S)


def write_checkpoints(source: Path, root: Path, seed: int) -> None:
    """`one` as `source` is, `two` with other weights, and `damaged`."""
    shutil.copytree(source, root / "one")
    loaded = load_checkpoint(root / "one", torch.device("cpu"))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    save_checkpoint(root / "two", loaded.model, root / "one" / "spiece.model", loaded.tasks, card="")
    shutil.copytree(root / "two", root / "damaged")
    with (root / "damaged" / "model.safetensors").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"damaged!")


def connected(url: str) -> httpx.AsyncClient:
    """A client with a key, whose connections are closed with it."""
    # Shorter than the server keeps an idle connection: one that it is about to close would lose the next request.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
    return httpx.AsyncClient(base_url=url, headers=WORK, timeout=900, limits=limits, trust_env=False)


async def gauges_of(url: str) -> dict[str, float]:
    """What must be zero when all is quiet."""
    async with connected(url) as client:
        text = (await client.get("/metrics", headers=ADMIN)).text
    found = {name: re.search(rf"^leximind_{name} (\S+)$", text, re.MULTILINE) for name in GAUGES}
    return {name: float(one[1]) if one else math.nan for name, one in found.items()}


@asynccontextmanager
async def serving(root: Path, log: Path, flags: Sequence[str]) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL and process of a server that is ready; ended with the block if it has not been."""
    port = free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--checkpoint", str(root / "one")]
    command += ["--reload-root", str(root), "--api-keys", "work", "--admin-keys", "operator"]
    command += ["--deadline-s", "600", *flags]  # a slow machine is no finding
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT, stdout=output, stderr=output)
    try:
        url, give_up = f"http://127.0.0.1:{port}", time.monotonic() + _READY_WITHIN_S
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get("/health/ready")).status_code == 200:
                        break
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"does not serve: {log.read_text(errors='replace')[-500:]}")
                await asyncio.sleep(0.2)
        yield url, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


async def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole of it: learn, load, be quiet, end."""
    rng = random.Random(options.seed)
    root = folder / "checkpoints"
    write_checkpoints(options.checkpoint, root, options.seed)
    log = folder / "log"
    async with serving(root, log, options.serve) as (url, process):
        async with connected(url) as client:
            running = Soak(process, cases(options.cases, rng), rng)
            await running.learn(client)
        await asyncio.sleep(_QUIET_S)
        before = look(process.pid, 0.0)
        async with connected(url) as client:
            await running.run(client, options.minutes * 60, options.clients)
        await asyncio.sleep(_QUIET_S)
        after = look(process.pid, options.minutes * 60)
        gauges = await gauges_of(url)
        process.terminate()
        status = await asyncio.to_thread(process.wait, 60)
    tally = running.tally
    for grown in growth(running.looks, before, after):
        tally.fail(f"grown: {grown}")
    for name, value in gauges.items():
        if value:
            tally.fail(f"{name} is {value} when all is quiet")
    text = log.read_text(errors="replace")
    if status or "Traceback" in text:
        tally.fail(f"exit status {status}; {text[-500:]}")
    return {
        "minutes": options.minutes,
        "clients": options.clients,
        "cases": options.cases,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "num_failures": tally.num_failures,
        "failures": tally.failures,
        "resident_mb": resident_early_and_late(running.looks),
        "before": asdict(before),
        "after": asdict(after),
        "most": {name: max(getattr(one, name) for one in running.looks) for name in ("descriptors", "threads")},
        "gauges": gauges,
        "looks": [list(asdict(one).values()) for one in itertools.islice(running.looks, 0, None, 6)],
    }


def markdown(data: dict[str, Any]) -> str:
    """The part of the page of results."""
    soaked, outcomes = data["soak"], data["soak"]["outcomes"]
    before, after = soaked["before"], soaked["after"]
    early, late = soaked["resident_mb"]
    lines = [
        ["answers compared with those alone", f"{outcomes.get('answered', 0) + outcomes.get('streamed', 0)}"],
        ["of them streamed", f"{outcomes.get('streamed', 0)}"],
        ["clients that left", f"{outcomes.get('left', 0)}"],
        ["bad requests refused", f"{outcomes.get('refused', 0)}"],
        ["without time: answered, 408 or 504", f"{outcomes.get('in time', 0)}, {outcomes.get('too late', 0)}"],
        [
            "reloads: done, refused as damaged, 409, by SIGHUP",
            ", ".join(f"{outcomes.get(f'reload {status}', 0)}" for status in (200, 422, 409))
            + f", {outcomes.get('reloaded by SIGHUP', 0)}",
        ],
        ["wrong or unexpected", f"{soaked['num_failures']}"],
        ["resident MB, second fifth and last (medians)", f"{early:.0f}, {late:.0f}"],
        [
            "descriptors before, most, after",
            f"{before['descriptors']}, {soaked['most']['descriptors']}, {after['descriptors']}",
        ],
        ["threads before, most, after", f"{before['threads']}, {soaked['most']['threads']}, {after['threads']}"],
        ["slots and queues after", "all 0" if not any(soaked["gauges"].values()) else json.dumps(soaked["gauges"])],
    ]
    found = "\n".join(f"- {failure}" for failure in soaked["failures"])
    header = [f"{soaked['minutes']:g} minutes, {soaked['clients']} clients", ""]
    return f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\n{found}"


def main() -> None:
    """Soak, keep the results, and exit with 1 on any finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--cases", type=int, default=48, help="different questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    parser.add_argument("--update-results", action="store_true", help=f"put the table into {RESULTS.name}")
    parser.add_argument("serve", nargs="*", help="flags for the server, after --")
    options = parser.parse_args()
    facts = report.facts()
    with tempfile.TemporaryDirectory() as folder:
        data = {"facts": facts, "soak": asyncio.run(soak(options, Path(folder)))}
    print(markdown(data))
    if options.update_results:
        report.update_readme("soak", markdown(data), RESULTS)
    sys.exit(1 if data["soak"]["num_failures"] else 0)


if __name__ == "__main__":
    main()
