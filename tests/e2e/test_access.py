"""Who may call a real process: forged addresses, keys that rotate, secrets that were never set."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

Serve = Callable[..., Any]
BODY = {"text": "Shares rose."}


def statuses(url: str, headers: list[dict[str, str]]) -> list[int]:
    with httpx.Client() as client:
        return [client.post(f"{url}/topic", json=BODY, headers=one).status_code for one in headers]


def test_forged_addresses_are_one_caller_unless_the_proxy_is_trusted(serve: Serve) -> None:
    forged = [{"X-Forwarded-For": f"198.51.100.{number}"} for number in range(30)]
    server = serve("--requests-per-second", "0.01")
    assert statuses(server.url, forged) == [200] + [429] * 29
    server = serve("--requests-per-second", "0.01", "--trusted-proxies", "127.0.0.1")
    assert statuses(server.url, forged) == [200] * 30
    one_network = [{"X-Forwarded-For": f"2001:db8::{number}"} for number in range(3)]
    no_address = [{"X-Forwarded-For": "a" * length} for length in (7_000, 7_001)]
    assert statuses(server.url, one_network + no_address) == [200, 429, 429, 200, 429]
    # What a client claims stands left of what the proxy adds.
    claimed = [{"X-Forwarded-For": f"203.0.113.{number}, 192.0.2.1"} for number in range(3)]
    assert statuses(server.url, claimed) == [200, 429, 429]


def test_keys_rotate_on_sighup_while_the_service_runs(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("web-1 open-sesame\n")
    server = serve("--api-keys-file", str(path))

    def status(key: str) -> int:
        return httpx.post(f"{server.url}/topic", json=BODY, headers={"X-API-Key": key}).status_code

    def reload(content: str, message: str) -> None:
        path.write_text(content)
        count = server.log.read_text().count(message)
        server.process.send_signal(signal.SIGHUP)
        give_up = time.monotonic() + 10
        while server.log.read_text().count(message) == count:
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < give_up, server.log.read_text()
            time.sleep(0.02)

    assert [status("open-sesame"), status("shut-sesame")] == [200, 401]
    reload("web-1 open-sesame\nweb-2 shut-sesame\n", "keys are read again")
    assert [status("open-sesame"), status("shut-sesame")] == [200, 200]
    reload("web-2 shut-sesame\n", "keys are read again")
    assert [status("open-sesame"), status("shut-sesame")] == [401, 200]
    reload("web-2 shut-sesame third fourth\n", "keys stay as they were")
    assert [status("open-sesame"), status("shut-sesame")] == [401, 200]
    server.process.terminate()
    server.process.wait(20)
    log = server.log.read_text()
    assert "line 1" in log
    assert "sesame" not in log


def test_secret_that_was_never_set_ends_the_start(checkpoint_folder: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "serve", "--checkpoint", str(checkpoint_folder), "--port", "0"]
    ended = subprocess.run(
        command, env={**os.environ, "LEXIMIND_API_KEYS": ""}, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "leximind: --api-keys (LEXIMIND_API_KEYS) is not allowed: it holds no key; leave it out to be open to all\n"
    )
