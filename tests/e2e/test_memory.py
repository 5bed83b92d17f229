"""A real process whose address space ends: what fits in parts is answered as before, the rest with 507."""

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.choices import BUNDLED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits a running process by prlimit"),
]

# Beams reserve keys and values for all tokens that they may write: 6 MB here for a thousand of one row, in float32.
_FLAGS = ("--checkpoint", str(BUNDLED), "--dtype", "float32", "--max-new-tokens", "100000", "--max-cost", "10000000")
_FREE_BYTES = 192 * 2**20
TEXTS = [f"Shares of the chip maker rose {number} percent on Tuesday, after a good quarter." for number in range(8)]
SUMMARIES = {"text": TEXTS, "num_beams": 4, "max_new_tokens": 2500}  # 480 MB at once, 60 MB each
TOO_LARGE = {"text": TEXTS[0], "num_beams": 8, "max_new_tokens": 20_000}  # 960 MB


def address_space(process_id: int) -> int:
    found = re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_what_fits_is_answered_as_before_and_what_does_not_is_507(serve: Callable[..., Any]) -> None:
    server = serve(*_FLAGS)

    def ask(path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(server.url + path, json=body, timeout=120)

    before = [ask("/summarize", SUMMARIES), ask("/topic", {"text": TEXTS})]
    assert [one.status_code for one in before] == [200, 200]
    assert "memory does not suffice" not in server.log.read_text()
    limit = address_space(server.process.pid) + _FREE_BYTES
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))

    refused = ask("/summarize", TOO_LARGE)
    assert refused.status_code == 507
    problem = refused.json()
    assert problem["error_type"] == "memory"
    assert "8 x 20000 tokens to write" in problem["detail"]
    assert "Retry-After" not in refused.headers

    after = [ask("/summarize", SUMMARIES), ask("/topic", {"text": TEXTS})]
    assert [one.json() for one in after] == [one.json() for one in before]
    log = server.log.read_text()
    assert re.search(r"memory does not suffice for \d+ requests at once; in parts: .*can't allocate memory", log)
    metrics = httpx.get(f"{server.url}/metrics", timeout=20).text
    assert 'leximind_request_failures_total{reason="memory"} 1.0' in metrics
    assert "leximind_kv_slots_used 0.0" in metrics
    assert server.process.poll() is None
