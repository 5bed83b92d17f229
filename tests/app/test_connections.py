"""What of `app.connections` needs no server; the limits themselves are attacked in tests/e2e/test_attacks.py."""

import asyncio
import errno
import hashlib
import inspect
import logging
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.server import Server, ServerState

from app.connections import (
    Connection,
    ConnectionLimits,
    Connections,
    Listener,
    connection_limit,
    quiet_exception_handler,
)
from app.metrics import Metrics

_READ_AT = "4b7d950418d92b33"


def test_internals_of_uvicorn_are_those_that_were_read() -> None:
    """`Connection` overrides methods that uvicorn does not promise. Read what changed, then write it here."""
    pinned = Path(__file__).parents[2].joinpath("constraints.txt").read_text()
    assert f"\nuvicorn=={uvicorn.__version__}\n" in pinned
    source = "".join(inspect.getsource(part) for part in (httptools_impl, flow_control, Server))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == _READ_AT


def test_connection_limit_is_below_that_of_descriptors_which_is_raised() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400));"
        "from app.connections import connection_limit;"
        "print(connection_limit(0), connection_limit(50), connection_limit(1000), resource.getrlimit(7)[0])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["272", "50", "272", "400"]
    assert "max_connections is 1000, but only 400 descriptors may be open: it is 272" in ended.stderr
    assert connection_limit(0) <= 4096


class _Exhausted(Listener):
    """As if the process had no descriptor left for `failures` more times."""

    failures = 4

    def _accept(self) -> tuple[int, tuple[str, int]]:  # type: ignore[override]
        if self.failures:
            type(self).failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super()._accept()  # type: ignore[misc]


async def test_listener_without_descriptors_is_quiet_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    loop = asyncio.get_running_loop()
    logged: list[str] = []
    handle_quietly = quiet_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        logged.append(context["message"])
        handle_quietly(loop, context)

    loop.set_exception_handler(handle)
    listener = _Exhausted(fileno=socket.create_server(("127.0.0.1", 0)).detach())

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(answer, sock=listener)
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await reader.read() == b"hello"  # two seconds later, when asyncio has listened again twice
    writer.close()
    server.close()
    await server.wait_closed()
    loop.set_exception_handler(None)
    assert len(logged) == 2  # and not one for every try
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert re.search("no new connections for now: .*Too many open files", caplog.text)


async def _nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    """An app that is not asked."""


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    """Swept as a server does; its limits are short."""
    limits = ConnectionLimits(
        max_connections=8, header_timeout_s=0.5, body_timeout_s=0.5, write_timeout_s=0.5, idle_timeout_s=0.5
    )
    connections = Connections(limits, Metrics())
    watch = asyncio.create_task(connections.watch())
    yield connections
    assert not watch.done()
    watch.cancel()


async def accepted(connections: Connections, app: Any = _nothing) -> tuple[Connection, socket.socket]:
    """The server's end and the client's."""
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    config.load()
    inner, outer = socket.socketpair()
    outer.settimeout(0)
    _, connection = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: Connection(config=config, server_state=ServerState(), app_state={}, connections=connections), inner
    )
    return connection, outer


async def received(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    loop, parts = asyncio.get_running_loop(), [b""]
    async with asyncio.timeout(10):
        while part := await loop.sock_recv(client, 65536):
            parts.append(part)
    return b"".join(parts)


async def test_connection_that_cannot_be_checked_is_closed_and_the_others_keep_their_time_limits(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def check(*_: object) -> None:
        raise OSError("injected")

    broken, client = await accepted(connections)
    _, other = await accepted(connections)
    monkeypatch.setattr(broken, "check", check)
    with client, other:
        assert await received(client) == b""
        assert await received(other) == b""
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_refusal_survives_a_client_that_closed_its_end_meanwhile(
    connections: Connections, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write_eof() -> None:
        raise OSError(errno.ENOTCONN, "injected")

    connection, client = await accepted(connections)
    monkeypatch.setattr(connection.transport, "write_eof", write_eof)
    with client:
        client.send(b"GET / HTTP")
        assert (await received(client)).startswith(b"HTTP/1.1 408 ")
    assert not [record for record in caplog.records if record.exc_info]


async def test_answer_to_a_client_that_left_is_not_written_on(
    connections: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    ended = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        client.close()
        for _ in range(100):  # asyncio warns from the sixth on
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        ended.set()

    _, client = await accepted(connections, app)
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(ended.wait(), 10)
    assert "raised exception" not in caplog.text


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("headers", [[], [(b"Content-Length", b"4")]])
async def test_only_who_knows_chunks_is_sent_some(
    connections: Connections, version: str, headers: list[tuple[bytes, bytes]]
) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for body in (b"one", b"", b"2"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    _, client = await accepted(connections, app)
    with client:
        client.send(f"GET / HTTP/{version}\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".encode())
        head, _, body = (await received(client)).partition(b"\r\n\r\n")
    is_chunked = version == "1.1" and not headers
    assert body == (b"3\r\none\r\n1\r\n2\r\n0\r\n\r\n" if is_chunked else b"one2")
    assert (b"transfer-encoding" in head.lower()) == is_chunked
