"""Real processes whose surroundings fail: killed, cut off, without disk, with another time, and left by a thousand."""

import contextlib
import http.client
import json
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.depth import depth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(depth(300, 3600))]

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
JSON = {"content-type": "application/json"}
ADMIN = {"X-API-Key": "operator"}
Serve = Callable[..., Any]
Same = Callable[[Any, Any], bool]

# What the model computes of a text that repeats a word is not a number.
_NOT_A_NUMBER = """
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
def spoil(backend):
    encode = backend.encode
    def spoiled(self, input_ids, encoder_mask):
        states = encode(self, input_ids, encoder_mask)
        last = input_ids.gather(1, encoder_mask.sum(1, keepdim=True) - 2)  # before the end token
        repeats = ((input_ids == last) & encoder_mask).sum(1) > 8
        return states.masked_fill(repeats[:, None, None], float("nan"))
    backend.encode = spoiled
spoil(NativeBackend), spoil(TorchBackend)
"""
# A day back and forth, five times a second.
_JUMPING_CLOCK = """
import time
now, now_ns = time.time, time.time_ns
def jump():
    return 86_400 if int(time.monotonic() * 5) % 2 else -86_400
time.time = lambda: now() + jump()
time.time_ns = lambda: now_ns() + jump() * 10**9
"""
# Saves over a checkpoint again and again in children that it kills; a line for each.
_KILLED_WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from model.storage.checkpoint import load_checkpoint
from model.storage.saving import save_checkpoint
target, count, spiece = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
base = load_checkpoint(target, torch.device("cpu"))
for number in range(count):
    child = os.fork()
    if not child:
        while True:
            for card in ("one", "other"):
                save_checkpoint(target, base.model, spiece, base.tasks, card=card)
    time.sleep(random.Random(number).uniform(0.02, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(number, flush=True)
    sys.stdin.readline()
"""


def wait_for(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def metric(server: Any, line: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    found = re.search(rf"^leximind_{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def whole(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


def topic(server: Any, **options: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/topic", json={"text": NEWS}, timeout=60, **options)


def test_numbers_that_are_none_fail_their_own_request_and_the_service_goes_on(serve: Serve, same: Same) -> None:
    server = serve(patch=_NOT_A_NUMBER)
    expected = topic(server).json()
    with ThreadPoolExecutor(8) as pool:
        for path in ("/topic", "/summarize"):
            broken = [
                pool.submit(httpx.post, server.url + path, json={"text": f"{number} " * 30}, timeout=60)
                for number in range(5, 9)
            ]
            sound = [pool.submit(topic, server) for _ in range(8)]
            for one in broken:
                assert one.result().status_code == 500, one.result().text
                assert "not finite" in one.result().json()["detail"]
            assert all(same(one.result().json(), expected) for one in sound)
    assert httpx.get(f"{server.url}/health/ready").status_code == 200


def test_wall_clock_that_jumps_changes_nothing(serve: Serve) -> None:
    server = serve(
        "--deadline-s", "20", "--requests-per-second", "1000", "--idle-timeout-s", "20", patch=_JUMPING_CLOCK
    )
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(20):
            assert client.post("/topic", json={"text": NEWS}).status_code == 200
            time.sleep(0.05)
        datetime.fromisoformat(client.get("/info").json()["loaded_at"])
    dates = {line[:10] for line in server.log.read_text().splitlines()}
    assert len(dates) >= 2  # it did jump
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_full_disk_under_the_log_costs_no_answer(serve: Serve) -> None:
    server = serve(log=Path("/dev/full"))
    for _ in range(5):
        assert topic(server).status_code == 200
    assert topic(server, headers={"content-type": "text/plain"}).status_code == 415
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0


def test_client_that_closes_its_half_frees_its_place(serve: Serve) -> None:
    server = serve()
    body = {"text": [NEWS] * 16, "max_new_tokens": 500, "min_new_tokens": 499, "num_beams": 4}
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(whole("/summarize", body))
        wait_for(lambda: metric(server, "kv_slots_used") > 0)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000) == b""
        wait_for(lambda: metric(server, "kv_slots_used") == 0)
    assert metric(server, 'request_failures_total{reason="cancelled"}') == 1


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    server = serve()
    paths = ["/topic", "/emotions", "/summarize"] * 13
    bodies = [{"text": f"{NEWS} Number {number}."} for number in range(len(paths))]
    with httpx.Client(base_url=server.url, timeout=60) as alone:
        answers = [alone.post(path, json=body).json() for path, body in zip(paths, bodies, strict=True)]
    *earlier, last = map(whole, paths, bodies)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(b"".join([*earlier, last.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)]))
        received = b"".join(iter(lambda: client.recv(65536), b""))
    for expected in answers:
        head, _, received = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert length
        assert json.loads(received[: int(length[1])]) == expected
        received = received[int(length[1]) :]
    assert received == b""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_thousand_clients_that_leave_leave_nothing_behind(serve: Serve, stream: bool) -> None:
    """A hundred of them in a quick run; some close, some reset, some before their request is whole."""
    server = serve()
    expected = topic(server).json()
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    request = whole("/summarize", {"text": NEWS, "max_new_tokens": 400, "min_new_tokens": 400, "stream": stream})
    draw = random.Random(0)

    def leave(number: int) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            client.sendall(request if number % 5 else request[: draw.randrange(len(request))])
            if stream and number % 3 == 0 and number % 5:
                assert client.recv(1)
            else:
                time.sleep(draw.uniform(0, 0.05))
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(leave, range(depth(100, 1000))))
    gauges = ("active_requests", "queue_requests", "queue_tokens", "kv_slots_used", "buffered_bytes")
    wait_for(lambda: not any(metric(server, name) for name in gauges))
    wait_for(lambda: len(list(descriptors.iterdir())) <= before + 1)  # the probe's own
    assert topic(server).json() == expected
    assert metric(server, 'request_failures_total{reason="cancelled"}') > 10
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "raised exception" not in log


def test_server_killed_while_it_reloads_starts_again_on_the_same_folder(serve: Serve, checkpoint_folder: Path) -> None:
    flags = ("--admin-keys", "operator", "--reload-root", str(checkpoint_folder.parent))
    draw = random.Random(0)
    for _ in range(depth(2, 20)):
        server = serve(*flags)
        answer = topic(server)
        assert answer.status_code == 200
        with ThreadPoolExecutor(1) as pool:
            reloading = pool.submit(httpx.post, f"{server.url}/admin/reload", json={}, headers=ADMIN, timeout=60)
            time.sleep(draw.uniform(0, 0.2))
            server.process.kill()
            with contextlib.suppress(httpx.TransportError):
                reloading.result()
        server.process.wait(10)
    assert topic(serve(*flags)).json() == answer.json()


def test_writer_killed_while_it_saves_leaves_what_can_be_reloaded(
    serve: Serve, checkpoint_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints" / "written"
    shutil.copytree(checkpoint_folder, folder)
    server = serve("--checkpoint", str(folder), "--admin-keys", "operator", "--reload-root", str(folder.parent))
    count = depth(4, 40)
    command = [sys.executable, "-c", _KILLED_WRITERS, str(folder), str(count), str(checkpoint_folder / "spiece.model")]
    seen = Counter[str]()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin
        assert writers.stdout
        for _ in range(count):
            writers.stdout.readline()
            reloaded = httpx.post(f"{server.url}/admin/reload", json={}, headers=ADMIN, timeout=60)
            assert reloaded.status_code == 200, reloaded.text
            answer = topic(server)
            assert answer.status_code == 200
            assert answer.headers["X-LexiMind-Checkpoint"] == reloaded.json()["checkpoint"]
            seen[reloaded.json()["checkpoint"]] += 1
            writers.stdin.write("\n")
            writers.stdin.flush()
    assert writers.returncode == 0
    assert all(name.startswith("written@") for name in seen)


class Asking(threading.Thread):
    """A client that keeps its connection and asks until it is told that the service ends."""

    def __init__(self, server: Any, expected: dict[str, Any], same: Same, kind: str) -> None:
        super().__init__()
        self._server, self._expected, self._same, self._kind = server, expected, same, kind
        self.num_answers = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        path = "/topic" if self._kind == "topic" else "/summarize"
        options = {"topic": {}, "summary": {"max_new_tokens": 60}, "stream": {"max_new_tokens": 60, "stream": True}}
        body = json.dumps({"text": NEWS, **options[self._kind]})
        last_at = 0.0
        while True:
            try:
                connection.request("POST", path, body, JSON)
                response = connection.getresponse()
                text = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                # Closed by the drain after a second without a request, or refused as it is over.
                if isinstance(error, ConnectionRefusedError) or time.monotonic() - last_at > 0.5:
                    return
                self.wrong.append(repr(error))
                return
            if response.status == 503:
                return
            answer = json.loads(text.strip().rpartition("data: ")[2] if self._kind == "stream" else text)
            if response.status != 200 or not self._same(answer, self._expected[path]):
                self.wrong.append(text)
            self.num_answers += 1
            last_at = time.monotonic()
            if response.headers["Connection"] == "close":
                return


def test_sigterm_under_load_loses_nothing_that_was_accepted(serve: Serve, same: Same) -> None:
    """Twice in a quick run, twenty times in a full one."""
    draw = random.Random(0)
    for _ in range(depth(2, 20)):
        server = serve("--drain-timeout-s", "60")
        expected = {
            path: httpx.post(server.url + path, json={"text": NEWS, **options}, timeout=60).json()
            for path, options in (("/topic", {}), ("/summarize", {"max_new_tokens": 60}))
        }
        asking = [Asking(server, expected, same, kind) for kind in ("topic", "summary", "stream") * 4]
        for one in asking:
            one.start()
        time.sleep(draw.uniform(0.5, 1.5))
        server.process.send_signal(signal.SIGTERM)
        for one in asking:
            one.join()
        assert [wrong for one in asking for wrong in one.wrong] == []
        assert sum(one.num_answers for one in asking) > len(asking)
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log.read_text()
