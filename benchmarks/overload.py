"""Goodput under ten times the load that a server can carry: the bundled model, the client on a core of its own.

    python -m benchmarks.overload --seconds 20

The server has all cores but one and the client that one, so that what refusals cost the client is not taken from the
server. Peak: a closed loop of 64 clients. Then an open loop of ten times that rate, whose refused requests do not come
again.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter

import httpx

GOOD_WITHIN_S = 10.0
_CLIENTS = 64
_FACTOR = 10
TEXT = "The council voted on Tuesday to build a new bridge over the river. Engineers had asked for it for years. "
# Heavy enough that one core of Python can offer ten times the peak.
BODY = {"text": [f"{TEXT * 5}{number}" for number in range(16)], "max_new_tokens": 128, "min_new_tokens": 128}


async def measure(url: str, seconds: float) -> dict[str, object]:
    """Peak and what is left of it under overload, in answers a second that came within ten."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000)
    async with httpx.AsyncClient(base_url=url, timeout=90, limits=limits, trust_env=False) as client:
        await _until_ready(client)
        ends: list[float] = []
        stop_at = time.perf_counter() + seconds

        async def again_and_again() -> None:
            while time.perf_counter() < stop_at:
                if (await client.post("/summarize", json=BODY)).status_code == 200:
                    ends.append(time.perf_counter())

        await asyncio.gather(*(again_and_again() for _ in range(_CLIENTS)))
        peak = sum(end > stop_at - seconds * 2 / 3 for end in ends if end <= stop_at) / (seconds * 2 / 3)
        count = round(_FACTOR * peak * seconds)
        outcomes: Counter[str] = Counter()
        waits_s: list[int] = []

        async def once(at: float) -> None:
            await asyncio.sleep(at - time.perf_counter())
            try:
                response = await client.post("/summarize", json=BODY)
            except httpx.HTTPError as error:
                outcomes[type(error).__name__] += 1
                return
            is_good = response.status_code == 200 and time.perf_counter() - at <= GOOD_WITHIN_S
            outcomes["good" if is_good else "late" if response.status_code == 200 else str(response.status_code)] += 1
            if "retry-after" in response.headers:
                waits_s.append(int(response.headers["retry-after"]))

        began_at = time.perf_counter()
        await asyncio.gather(*(once(began_at + number / (_FACTOR * peak)) for number in range(count)))
        took_s = time.perf_counter() - began_at
    answered = outcomes["good"] + outcomes["late"]
    return {
        "peak_per_s": round(peak, 1),
        "offered_per_s": round(_FACTOR * peak, 1),
        "answered_per_s": round(answered / took_s, 1),
        "good_per_s": round(outcomes["good"] / seconds, 1),
        "outcomes": dict(outcomes),
        "retry_after_s": [min(waits_s), sorted(waits_s)[len(waits_s) // 2], max(waits_s)] if waits_s else [],
    }


async def _until_ready(client: httpx.AsyncClient) -> None:
    for _ in range(600):
        try:
            if (await client.get("/health/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the server does not get ready; see its log above")


def main() -> None:
    """Start the server, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two loads")
    parser.add_argument("serve", nargs="*", help="flags for the server, after --")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.sched_setaffinity(0, cores[:-1] or cores)
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--log-level", "warning", *options.serve]
    server = subprocess.Popen(command)
    os.sched_setaffinity(0, cores[-1:])
    try:
        print(json.dumps(asyncio.run(measure(f"http://127.0.0.1:{port}", options.seconds))))
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
