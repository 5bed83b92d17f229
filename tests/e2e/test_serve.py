"""`leximind serve` as a user meets it: start, answer, refuse, end."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.waiting import wait_for

pytestmark = pytest.mark.slow

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
Serve = Callable[..., Any]


def metric(url: str, line: str) -> float:
    found = re.search(rf"^{re.escape(line)} (\S+)$", httpx.get(f"{url}/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def raw_request(body: bytes, path: str = "/summarize") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_answers_every_route_and_ends_on_sigterm(serve: Serve) -> None:
    server = serve()
    for path in ("/summarize", "/emotions", "/topic", "/analyze"):
        answer = httpx.post(server.url + path, json={"text": NEWS}, timeout=30)
        assert answer.status_code == 200
        assert answer.headers["X-Request-Id"]
    assert httpx.get(server.url + "/nothing").status_code == 404
    probe = httpx.head(server.url + "/health/ready")
    assert (probe.status_code, probe.content, probe.headers["Content-Length"]) == (200, b"", "18")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) in (0, -signal.SIGTERM)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert NEWS not in log
    assert "route=/summarize status=200" in log
    messages = [line.split("] ", 1)[1].split(" ")[0] for line in log.splitlines()]
    assert messages == ["listening", "terms", "ready", "POST", "POST", "POST", "POST", "GET", "draining:"]


def test_sigterm_lets_requests_in_progress_finish(serve: Serve) -> None:
    server = serve()
    body = {"text": [f"{NEWS} {number}" for number in range(16)], "max_new_tokens": 256, "min_new_tokens": 250}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(httpx.post, server.url + "/summarize", json=body, timeout=60)
        wait_for(lambda: metric(server.url, "leximind_kv_slots_used") > 0)
        server.process.send_signal(signal.SIGTERM)
        answer = running.result()
    assert answer.status_code == 200
    assert len(answer.json()) == 16
    assert server.process.wait(20) in (0, -signal.SIGTERM)


def test_sigterm_cuts_what_takes_longer_than_the_drain_and_says_so(serve: Serve) -> None:
    server = serve("--drain-timeout-s", "0.2")
    texts = [f"{NEWS} {number}" for number in range(32)]  # seconds of work
    body = {"text": texts, "max_new_tokens": 500, "min_new_tokens": 499, "num_beams": 4}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(httpx.post, server.url + "/summarize", json=body, timeout=60)
        wait_for(lambda: metric(server.url, "leximind_kv_slots_used") > 0)
        server.process.send_signal(signal.SIGTERM)
        answer = running.result()
    assert answer.status_code == 503
    assert "ask again" in answer.json()["detail"]
    assert server.process.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_ctrl_c_cuts_off_what_is_in_progress_and_says_so(serve: Serve, signals: tuple[int, int]) -> None:
    server = serve()
    texts = [f"{NEWS} {number}" for number in range(32)]  # seconds of work
    body = {"text": texts, "max_new_tokens": 500, "min_new_tokens": 499, "num_beams": 4}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(httpx.post, server.url + "/summarize", json=body, timeout=60)
        wait_for(lambda: metric(server.url, "leximind_kv_slots_used") > 0)
        server.process.send_signal(signals[0])
        wait_for(lambda: "draining: " in server.log.read_text())
        server.process.send_signal(signals[1])
        answer = running.result()
    assert answer.status_code == 503
    assert "ask again" in answer.json()["detail"]
    server.process.wait(20)
    assert "Ctrl-C came" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_client_whose_answer_had_begun_before_the_drain_may_ask_again_on_its_connection(serve: Serve) -> None:
    server = serve()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"content-type": "application/json"}
    body = {"text": NEWS, "stream": True, "max_new_tokens": 500, "min_new_tokens": 499}
    connection.request("POST", "/summarize", json.dumps(body), headers)
    stream = connection.getresponse()
    stream.readline()
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "draining: " in server.log.read_text())
    assert b"event: summary" in stream.read()
    connection.request("POST", "/topic", json.dumps({"text": NEWS}), headers)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (503, "close")
    assert server.process.wait(20) == 0


def test_clients_without_a_key_hold_no_place(serve: Serve) -> None:
    server = serve("--api-keys", "key", "--max-concurrent-requests", "1")
    with ExitStack() as open_clients:
        for _ in range(3):  # each announces a body that it never sends
            client = open_clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(raw_request(b"x" * 100)[:-100])
        time.sleep(0.3)
        answer = httpx.post(server.url + "/topic", json={"text": NEWS}, headers={"X-API-Key": "key"}, timeout=30)
    assert answer.status_code == 200


def test_client_that_hangs_up_frees_the_model(serve: Serve) -> None:
    server = serve()
    body = json.dumps({"text": [NEWS] * 16, "max_new_tokens": 500, "min_new_tokens": 499}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(raw_request(body))
        wait_for(lambda: metric(server.url, "leximind_kv_slots_used") > 0)
    wait_for(lambda: metric(server.url, "leximind_active_requests") == 0)
    wait_for(lambda: metric(server.url, "leximind_kv_slots_used") == 0)
    assert metric(server.url, "leximind_output_tokens_count") == 0  # none was decoded to its end
    assert metric(server.url, 'leximind_request_failures_total{reason="cancelled"}') == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_last_round_of_a_long_text_is_streamed_as_it_is_decoded(serve: Serve, version: str) -> None:
    server = serve()
    text = " ".join(f"Shares of the chip maker rose {number} percent on Tuesday." for number in range(60))
    body = {"text": text, "on_long": "reduce", "target_tokens": 60, "max_new_tokens": 60, "min_new_tokens": 30}
    answer = httpx.post(f"{server.url}/summarize", json=body, timeout=60).json()
    assert answer["rounds"] > 1
    request = raw_request(json.dumps({**body, "stream": True}).encode()).replace(
        b"HTTP/1.1\r\n", b"HTTP/%b\r\nConnection: close\r\n" % version.encode()
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        stream = http.client.HTTPResponse(connection)
        stream.begin()
        blocks = stream.read().decode().strip().split("\n\n")
    events = [
        (event.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for event, data in (block.split("\n") for block in blocks)
    ]
    assert (stream.getheader("Transfer-Encoding") is None) == (version == "1.0")
    pieces = [data["text"] for event, data in events if event == "token"]
    assert "".join(pieces) == answer["summary"]
    assert len(pieces) > answer["output_tokens"] / 2
    assert events[-1] == ("summary", answer)


def test_client_that_hangs_up_on_a_stream_frees_the_model(serve: Serve) -> None:
    server = serve()
    body = {"text": NEWS, "stream": True, "max_new_tokens": 500, "min_new_tokens": 499}
    with httpx.stream("POST", server.url + "/summarize", json=body, timeout=30) as answer:
        next(answer.iter_lines())
    wait_for(lambda: metric(server.url, "leximind_active_requests") == 0)
    wait_for(lambda: metric(server.url, "leximind_kv_slots_used") == 0)
    assert metric(server.url, 'leximind_request_failures_total{reason="cancelled"}') == 1


def test_reader_that_stops_reading_stalls_no_other(serve: Serve) -> None:
    server = serve()
    body = json.dumps({"text": NEWS, "stream": True, "max_new_tokens": 500, "min_new_tokens": 499}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.sendall(raw_request(body))
        assert httpx.post(server.url + "/summarize", json={"text": NEWS}, timeout=30).status_code == 200
        wait_for(lambda: metric(server.url, "leximind_output_tokens_count") == 2)  # made whether it is read or not


def test_ten_megabytes_are_answered_and_not_cut_off(serve: Serve) -> None:
    server = serve("--api-keys", "k")
    for key, status in (("k", 413), ("other", 401)):
        # This client sends all before it reads anything, as many do, and keeps no connection.
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        headers = {"X-API-Key": key, "Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", "/topic", b'{"text": "' + b"a" * 10_000_000 + b'"}', headers)
        assert connection.getresponse().status == status
        connection.close()
    chunks = (b"a" * 100_000 for _ in range(100))
    headers = {"X-API-Key": "k", "content-type": "application/json"}
    assert httpx.post(server.url + "/topic", content=chunks, headers=headers).status_code == 413
    assert httpx.post(server.url + "/topic", json={"text": "a"}, headers={"X-API-Key": "k"}).status_code == 200


def test_body_that_does_not_come_is_408(serve: Serve) -> None:
    server = serve("--deadline-s", "0.3")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(raw_request(b"x" * 100)[:-50])
        answer = client.makefile("rb").readline()
    assert b" 408 " in answer


def test_threads_of_clients_get_their_own_answers(serve: Serve) -> None:
    server = serve()
    texts = [f"{NEWS} That was number {number}." for number in range(40)]
    alone = httpx.post(server.url + "/summarize", json={"text": texts[:32]}, timeout=60).json()

    def ask(text: str) -> Any:
        return httpx.post(server.url + "/summarize", json={"text": text}, timeout=60).json()

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, texts[:32])) == alone


def test_taken_port_is_one_line_and_exit_code_2(start: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start("--port", str(port))
        assert server.process.wait(30) == 2
    [line] = server.log.read_text().splitlines()
    assert line.startswith(f"leximind: cannot listen on 127.0.0.1:{port}")
    assert "--port" in line


def test_bad_checkpoint_is_exit_code_1_with_the_reason(start: Serve, tmp_path: Path) -> None:
    server = start("--checkpoint", str(tmp_path))
    assert server.process.wait(30) == 1
    log = server.log.read_text()
    assert "Traceback" not in log
    assert log.splitlines()[-1].startswith("leximind: ")


def test_environment_is_read_and_a_flag_wins(checkpoint_folder: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "serve", "--checkpoint", str(checkpoint_folder)]
    from_environment = {"LEXIMIND_PORT": "99999", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}
    ended = subprocess.run(command, env=from_environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "99999" in ended.stderr
    ended = subprocess.run(
        [*command, "--port", "88888"], env=from_environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "88888" in ended.stderr
    assert "99999" not in ended.stderr


def test_json_logs_are_json(serve: Serve) -> None:
    server = serve("--log-json")
    httpx.post(server.url + "/topic", json={"text": NEWS}, headers={"X-Request-Id": "abc"})
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    entries = [json.loads(line) for line in server.log.read_text().splitlines()]
    [access] = [entry for entry in entries if entry["request_id"] == "abc"]
    assert (access["route"], access["status"]) == ("/topic", 200)
