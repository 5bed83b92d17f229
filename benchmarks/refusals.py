"""What a refused request costs the server in processor time, which a busy machine does not change much.

    python -m benchmarks.refusals [--update-results]

The model is held, so that a full queue stays full, and the server's processor time goes to refusals alone: of the
request of `benchmarks.overload`, of one short text, and of one long one. Beside them an answer to the first, alone;
batched it takes less. At ten times the peak nine are refused for each that is answered, on the same core.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks import report
from benchmarks.interpreters import ROOT
from benchmarks.overload import BODY, TEXT
from benchmarks.servers import free_port

RESULTS = report.FOLDER / "reliability.md"
BODIES: dict[str, dict[str, Any]] = {
    "16 texts": BODY,
    "a text": {"text": TEXT * 5, "max_new_tokens": 16},
    "a long text": {"text": TEXT * 600, "max_new_tokens": 16},
}
_CLIENTS = 8
# Holds the model from the first file of that name on.
_HELD = """
import sys, time
from pathlib import Path
from app.engine.runner import Runner

encode, hold = Runner.encode, Path(sys.argv.pop(1))

def held(self, requests):
    while hold.exists():
        time.sleep(0.2)
    return encode(self, requests)

Runner.encode = held
from app.cli import main
main()
"""


async def measure(count: int, folder: Path) -> dict[str, float]:
    """Milliseconds of processor time: of an answer, and of a refusal by body."""
    port, hold = free_port(), folder / "hold"
    command = [sys.executable, "-c", _HELD, str(hold), "serve", "--port", str(port), "--threads", "1"]
    command += ["--max-queued-requests", "160", "--deadline-s", "600", "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=ROOT)
    limits = httpx.Limits(max_connections=None)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=600, limits=limits, trust_env=False
        ) as client:
            await _until_ready(client)
            spent = {"an answer": await _spent(process.pid, client, BODY, 4, 200)}
            hold.touch()
            waiting = []
            for body in [BODY] * 20 + [BODIES["a text"]] * 20:
                waiting.append(asyncio.create_task(client.post("/summarize", json=body)))
                await asyncio.sleep(0.05)  # the last ones are refused
            for name, body in BODIES.items():
                spent[name] = await _spent(process.pid, client, body, count, 429)
            hold.unlink()
            await asyncio.gather(*waiting)
    finally:
        process.terminate()
        process.wait(60)
    return spent


async def _spent(pid: int, client: httpx.AsyncClient, body: dict[str, Any], count: int, status: int) -> float:
    content = json.dumps(body).encode()
    left = count

    async def ask() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            answer = await client.post("/summarize", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == status, answer.text

    before = _processor_s(pid)
    await asyncio.gather(*(ask() for _ in range(_CLIENTS if status == 429 else 1)))
    return (_processor_s(pid) - before) * 1000 / count


def _processor_s(pid: int) -> float:
    """Of all threads, in nanoseconds by the scheduler."""
    return sum(int((one / "schedstat").read_text().split()[0]) for one in Path(f"/proc/{pid}/task").iterdir()) / 1e9


async def _until_ready(client: httpx.AsyncClient) -> None:
    give_up = time.monotonic() + 120
    while True:
        try:
            if (await client.get("/health/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > give_up:
            raise SystemExit("the server does not get ready; see its log above")
        await asyncio.sleep(0.2)


def markdown(data: dict[str, Any]) -> str:
    """One line for each."""
    names = {name: name if name == "an answer" else f"refusal of {name}" for name in data["ms"]}
    lines = [[names[name], f"{ms:.2f}"] for name, ms in data["ms"].items()]
    return f"{report.caption(data['facts'])}\n{report.table(['', 'processor, ms'], lines)}\n"


def main() -> None:
    """Measure, print, and keep on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="refusals of each kind")
    parser.add_argument("--update-results", action="store_true", help=f"put the table into {RESULTS.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = {"facts": report.facts(), "ms": asyncio.run(measure(options.count, Path(folder)))}
    print(markdown(data))
    if options.update_results:
        report.update_readme("refusals", markdown(data), RESULTS)


if __name__ == "__main__":
    main()
