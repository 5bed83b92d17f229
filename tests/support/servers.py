"""`leximind serve` in a process of its own, on loopback."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

READY_WITHIN_S = 180.0  # of a machine that has other things to do; one that has not takes 5


@dataclass(frozen=True)
class Server:
    """A running `leximind serve`; its log so far is in `log`."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path


def started_servers(folder: Path, checkpoint_folder: Path) -> Iterator[Callable[..., Server]]:
    """One function that starts a server with given flags, not awaited; all end when the generator goes on.

    Python in `patch` runs in the server's process before its first line. Its output goes to `log`, or a file.
    """
    servers: list[Server] = []

    def run(*flags: str, patch: str = "", log: Path | None = None) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        log = log or folder / f"{len(servers)}.log"
        program = ["-c", f"{patch}\nfrom app.cli import main\nmain()"] if patch else ["-m", "app.cli"]
        command = [sys.executable, *program, "serve", "--port", str(port), "--threads", "1", "--device", "cpu"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--checkpoint", str(checkpoint_folder), *flags], stdout=output, stderr=output
            )
        servers.append(Server(f"http://127.0.0.1:{port}", port, process, log))
        return servers[-1]

    yield run
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(10)


def wait_until_ready(server: Server) -> Server:
    """`server`, once it answers that it is ready; what it logged if it ends or takes too long."""
    give_up = time.monotonic() + READY_WITHIN_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/health/ready", timeout=2):
            return server
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < give_up, server.log.read_text()
        time.sleep(0.1)
