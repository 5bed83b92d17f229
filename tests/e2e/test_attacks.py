"""Attacks on the sockets of `leximind serve`, one a test, bounded in count and time."""

import contextlib
import http.client
import json
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from support.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
Serve = Callable[..., Any]


@pytest.fixture(scope="module")
def server(serve_shared: Serve) -> Any:
    """With limits that a test can wait for; what it has counted before is each test's to subtract."""
    limits = ("--header-timeout-s", "1", "--body-timeout-s", "3", "--write-timeout-s", "1", "--max-cost", "10000000")
    return serve_shared(*limits, "--max-buffered-bytes", "4000000", "--max-concurrent-requests", "8", "--log-json")


def head(path: str = "/topic", length: int = 100, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def whole(body: Any, path: str = "/topic", *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(path, len(data), *headers) + data


def connect(server: Any, *parts: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with contextlib.suppress(OSError):  # refused already
        for part in parts:
            client.sendall(part)
    return client


def connect_narrowly(server: Any, request: bytes) -> socket.socket:
    """A client that reads nothing and whose segments are small, so that the kernel takes little in its place."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.settimeout(20)
    client.connect(("127.0.0.1", server.port))
    client.sendall(request)
    return client


def is_open(client: socket.socket) -> bool:
    """Whether the server has not closed it; what it sent is thrown away."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    client.settimeout(20)
    received = b""
    while part := client.recv(65536):
        received += part
    return received


def metric(server: Any, line: str) -> float:
    found = re.search(rf"^leximind_{re.escape(line)} (\S+)$", httpx.get(f"{server.url}/metrics", timeout=20).text, re.M)
    return float(found[1]) if found else 0.0


@contextmanager
def descriptors(soft: int, hard: int) -> Iterator[None]:
    """For processes that are started meanwhile; this one gets its own back, so only the soft limit can be lowered."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def longest_stall_s(server: Any, attack: Callable[[], Any]) -> float:
    """How long the event loop answers no probe while `attack` runs."""
    longest = 0.0
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(connection), ThreadPoolExecutor(1) as pool:
        attacking = pool.submit(attack)
        while not attacking.done():
            asked_at = time.monotonic()
            connection.request("GET", "/health/live")
            assert connection.getresponse().read()
            longest = max(longest, time.monotonic() - asked_at)
        attacking.result()
    return longest


def test_idle_connections_beyond_the_limit_exclude_no_other(serve: Serve) -> None:
    server = serve("--max-connections", "50")
    with ExitStack() as connections:
        held = [connections.enter_context(connect(server)) for _ in range(150)]
        for _ in range(5):
            assert httpx.post(f"{server.url}/topic", json={"text": NEWS}, timeout=10).status_code == 200
        wait_for(lambda: sum(map(is_open, held)) < 50)
        assert metric(server, "open_connections") <= 50
        assert metric(server, "open_connections_limit") == 50
    assert len(server.log.read_bytes()) < 10_000


def test_descriptors_are_raised_and_the_connections_stay_below_them(serve: Serve) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with descriptors(256, hard):
        server = serve()
    with ExitStack() as connections:
        for _ in range(400):
            connections.enter_context(connect(server))
        assert httpx.get(f"{server.url}/health/live", timeout=10).status_code == 200
        assert metric(server, "open_connections") > 256
        assert metric(server, "open_connections_limit") <= hard - 100
    assert "out of system resource" not in server.log.read_text()


def test_headers_have_a_time_limit(server: Any) -> None:
    with connect(server) as silent, connect(server, b"POST /topic HTTP/1.1\r\nHost:") as slow:
        assert everything(silent) == b""
        assert everything(slow).startswith(b"HTTP/1.1 408 ")


def test_headers_without_end_are_refused(server: Any) -> None:
    headers = (b"X-Y: " + b"z" * 500 + b"\r\n") * 20
    with connect(server, b"GET / HTTP/1.1\r\n") as client:
        for _ in range(40):
            client.sendall(headers)
            time.sleep(0.002)  # as they are refused, the rest is thrown away
        assert everything(client).startswith(b"HTTP/1.1 431 ")


def test_slow_bodies_take_no_place_and_have_a_time_limit(server: Any) -> None:
    with ExitStack() as connections:
        slow = [connections.enter_context(connect(server, head(), b"{")) for _ in range(100)]
        for _ in range(20):
            assert httpx.post(f"{server.url}/topic", json={"text": NEWS}, timeout=10).status_code == 200
        assert metric(server, "active_requests") == 0
        assert all(everything(client).startswith(b"HTTP/1.1 408 ") for client in slow)


def test_slow_body_that_is_not_read_is_cut_off(server: Any) -> None:
    with connect(server, b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n") as client:
        give_up = time.monotonic() + 15
        while is_open(client):
            assert time.monotonic() < give_up
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                client.sendall(b"x")


def test_stalled_bodies_stay_within_a_budget_and_exclude_no_other(server: Any) -> None:
    with ExitStack() as connections:
        part = head(length=900_000), b"x" * 890_000
        stalled = [connections.enter_context(connect(server, *part)) for _ in range(12)]
        wait_for(lambda: metric(server, "buffered_bytes") > 3_000_000)
        body = {"text": NEWS, "top_k": 1}
        assert httpx.post(f"{server.url}/topic", json=body, timeout=10).status_code == 200
        assert metric(server, "buffered_bytes") <= metric(server, "buffered_bytes_limit") == 4_000_000
        wait_for(lambda: sum(map(is_open, stalled)) <= 4)
    wait_for(lambda: metric(server, "buffered_bytes") == 0)


def test_body_in_chunks_of_a_byte_stalls_no_other(server: Any) -> None:

    def attack() -> None:
        start = (
            b"POST /topic HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with connect(server, start) as client:
            try:
                for _ in range(130):
                    client.sendall(b"1\r\nx\r\n" * 10_000)
            except OSError:
                return  # refused
            assert everything(client).startswith(b"HTTP/1.1 413 ")

    assert longest_stall_s(server, attack) < 0.7


def test_million_containers_stall_no_other(server: Any) -> None:
    body = b'{"text": [' + b"[]," * 690_000 + b"[]]}"

    def attack() -> None:
        for _ in range(3):
            headers = {"content-type": "application/json"}
            answer = httpx.post(f"{server.url}/topic", content=body, headers=headers, timeout=20)
            assert answer.status_code == 400
            assert "690003 lists and objects" in answer.json()["detail"]

    assert longest_stall_s(server, attack) < 0.35


def test_drain_says_that_the_connection_closes_and_resets_no_connection(serve: Serve) -> None:
    server = serve()
    with ExitStack() as clients:
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(20)]
        for connection in connections:
            clients.callback(connection.close)
            connection.request("POST", "/topic", json.dumps({"text": NEWS}), {"content-type": "application/json"})
            assert connection.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining" in server.log.read_text())
        for connection in connections:
            connection.request("POST", "/topic", json.dumps({"text": NEWS}), {"content-type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Connection"]) == (503, "close")
            answer.read()
    assert server.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clean_drain_is_exit_status_0(serve: Serve, number: int) -> None:
    server = serve()
    with connect(server):  # a moment later it is closed
        server.process.send_signal(number)
        assert server.process.wait(10) == 0
    assert "Traceback" not in server.log.read_text()


def test_client_that_reads_nothing_holds_no_drain(serve: Serve) -> None:
    server = serve("--drain-timeout-s", "20")
    with connect_narrowly(server, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100):
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0


def test_answer_that_is_not_read_is_cut_off(server: Any) -> None:
    with connect_narrowly(server, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100):
        wait_for(lambda: metric(server, "open_connections") >= 2)
        wait_for(lambda: metric(server, "open_connections") == 1)
    assert metric(server, 'requests_total{route="/openapi.json",status="200"}') < 100


@pytest.mark.parametrize("more", [b"P", whole({"text": "a"})])
def test_what_is_sent_after_the_body_hides_no_disconnect(server: Any, more: bytes) -> None:
    body = {"text": [NEWS] * 16, "max_new_tokens": 500, "min_new_tokens": 499, "num_beams": 4}
    cancelled, finished = 'request_failures_total{reason="cancelled"}', "output_tokens_count"
    before = metric(server, cancelled), metric(server, finished)
    with connect(server, whole(body, "/summarize"), more):
        wait_for(lambda: metric(server, "kv_slots_used") > 0)
    wait_for(lambda: metric(server, "kv_slots_used") == 0)
    assert (metric(server, cancelled), metric(server, finished)) == (before[0] + 1, before[1])  # not decoded to the end


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("/topic", 5, "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        b"POST /topic HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        head("/topic", 5, "Content-Length: 6") + b"hello",
        b"A" * 9000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_ambiguous_requests_are_400_and_the_connection_closes(server: Any, request_bytes: bytes) -> None:
    logged = len(server.log.read_bytes())
    with connect(server, request_bytes) as client:
        answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert b"connection: close" in answer
    assert len(server.log.read_bytes()) - logged < 1000


def test_offered_upgrade_is_left_unused(server: Any) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    requests = whole({"text": NEWS}, "/topic", *offer), whole({"text": NEWS}, "/topic", "Connection: close")
    with connect(server, *requests) as client:
        assert everything(client).count(b"HTTP/1.1 200 ") == 2


def test_access_log_has_counts_and_names_and_no_text(server: Any) -> None:
    logged = len(server.log.read_text().splitlines())
    for path, body in (
        ("/summarize", {"text": NEWS, "max_new_tokens": 5}),
        ("/summarize", {"text": NEWS, "max_new_tokens": 5, "stream": True}),
        ("/topic", {"text": NEWS}),
    ):
        httpx.post(server.url + path, json=body, timeout=20).raise_for_status()
    entries = [json.loads(line) for line in server.log.read_text().splitlines()[logged:]]
    lines = [entry for entry in entries if entry["logger"] == "leximind.access"]
    for line in lines:
        assert line["input_tokens"] > 5
        assert (line["model"], line["priority"]) == ("random", "interactive")
    assert [line["output_tokens"] for line in lines[:2]] == [5, 5]
    assert "chip maker" not in server.log.read_text()


def test_refusals_are_separate_from_answers_in_durations(server: Any) -> None:
    counts = [
        f'request_duration_seconds_count{{outcome="{one}",priority="interactive",route="/topic"}}'
        for one in ("answered", "refused")
    ]
    before = [metric(server, count) for count in counts]
    httpx.post(f"{server.url}/topic", json={"text": NEWS}, timeout=20)
    httpx.post(f"{server.url}/topic", json={"text": ""}, timeout=20)
    assert [metric(server, count) for count in counts] == [one + 1 for one in before]


def test_stream_that_is_not_read_frees_its_place_and_is_cancelled(server: Any) -> None:
    cancelled = 'request_failures_total{reason="cancelled"}'
    before = metric(server, cancelled)
    text = " ".join(f"{NEWS} {number}." for number in range(80))
    body = {"text": text, "stream": True, "max_new_tokens": 500, "min_new_tokens": 499}
    with connect_narrowly(server, whole(body, "/summarize")):
        wait_for(lambda: metric(server, "active_requests") == 1)
        wait_for(lambda: metric(server, "active_requests") == 0, within_s=25)
        assert metric(server, cancelled) == before + 1
    entry = json.loads(server.log.read_text().splitlines()[-1])
    assert (entry["route"], entry["status"]) == ("/summarize", 499)


def test_headers_have_a_greatest_number(server: Any) -> None:
    with connect(server, head("/topic", 0, *["a:"] * 10_000)) as client:
        assert everything(client).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "filler", [b"0\r\n" + b"a:b\r\n" * 13_000, b"0\r\na: ", b"1;"], ids=["many", "long", "extension"]
)
def test_what_surrounds_a_body_is_bounded(server: Any, filler: bytes) -> None:
    start = b"POST /topic HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(server, start, filler) as client:
        client.settimeout(2)
        with contextlib.suppress(OSError):  # refused and closed
            for _ in range(100):
                client.sendall(b"a:b\r\n" * 13_000 if b":b" in filler else b"y" * 65_000)
                time.sleep(0.002)
        assert everything(client).startswith(b"HTTP/1.1 431 ")


def test_thousands_of_requests_at_once_on_a_connection_are_refused(server: Any) -> None:
    refused = 'requests_total{route="unmatched",status="429"}'
    before = metric(server, refused)
    with connect(server, whole({"text": NEWS}) + b"GET / HTTP/1.1\r\n\r\n" * 3_500) as client:
        wait_for(lambda: not is_open(client))
    assert metric(server, refused) == before + 1


def test_answers_that_are_not_read_exclude_no_other(serve: Serve) -> None:
    server = serve("--max-connections", "20")
    with ExitStack() as connections:
        for _ in range(20):
            requests = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100
            connections.enter_context(connect_narrowly(server, requests))
        time.sleep(2.5)  # a second of it is what anyone may leave unread
        for _ in range(5):
            assert httpx.get(f"{server.url}/health/live", timeout=10).status_code == 200


def test_unfinished_body_that_is_not_read_holds_no_drain(serve: Serve) -> None:
    server = serve()
    with connect(server, b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx") as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0


def test_unfinished_body_of_work_is_refused_in_a_drain(serve: Serve) -> None:
    server = serve()
    with connect(server, head(), b"{") as client:
        wait_for(lambda: metric(server, "buffered_bytes") > 0)
        server.process.send_signal(signal.SIGTERM)
        assert everything(client).startswith(b"HTTP/1.1 503 ")
    assert server.process.wait(15) == 0
