"""The closed loop and the mix of topics and summaries, against real servers on the loopback."""

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, serving
from benchmarks.load import Mix, repeat
from benchmarks.outcomes import Outcome, closed_summary
from benchmarks.servers import Server, ours
from benchmarks.stages import KINDS, ClosedLoop, OpenLoop, TopicsBeside
from benchmarks.texts import News

MIX = Mix("test", (3, 9), (1, 5))


class Answers(BaseHTTPRequestHandler):
    """Answers each request in full after 20 ms, but every seventh with 503; counts how many it has at once."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    asked = at_once = most_at_once = 0

    def do_POST(self) -> None:
        kind = type(self)
        with self.lock:
            kind.asked += 1
            number = kind.asked
            kind.at_once += 1
            kind.most_at_once = max(kind.most_at_once, kind.at_once)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.02)
        with self.lock:
            kind.at_once -= 1
        answer = json.dumps({"output_tokens": body["max_new_tokens"]}).encode()
        self.send_response(200 if number % 7 else 503)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def answering() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_clients_of_a_closed_loop_have_one_request_each_and_every_one_is_accounted_for() -> None:
    with answering() as url:
        outcomes = asyncio.run(repeat(ours("int8"), url, MIX, num_clients=3, duration_s=0.5, language=News()))
    assert Answers.most_at_once == 3
    assert len(outcomes) == Answers.asked > 9
    assert sum(one.status == 503 for one in outcomes) == Answers.asked // 7
    assert all(one.at_s < 0.5 for one in outcomes)
    assert all(0.02 <= one.latency_s < 5 for one in outcomes if one.status == 200)
    assert closed_summary(outcomes, 0.5)["refused"] == Answers.asked // 7


def test_a_closed_loop_is_measured_after_its_first_third_and_until_its_end() -> None:
    answered = [Outcome(at_s, latency_s, 200) for at_s, latency_s in ((0, 1), (0, 4), (4, 1), (4, 2), (8, 3))]
    measured = closed_summary([*answered, Outcome(1, math.inf, 429), Outcome(2, math.inf, 599)], duration_s=9.0)
    assert measured == {
        "answered": 3,
        "answered_per_s": 0.5,
        "p50_s": 2,
        "p90_s": 4,
        "refused": 1,
        "failed": 1,
    }
    assert closed_summary([Outcome(1, math.inf, 429)], 9.0)["p50_s"] is None


def test_an_answer_without_a_topic_is_none() -> None:
    server: Server = ours("int8").topics().of_priority("batch")
    assert server.body("text", 7) == {"text": "text"}
    assert server.headers == {"X-Request-Priority": "batch"}
    assert server.is_whole({"topic": "World"}, 7)
    assert not server.is_whole({"summary": "World"}, 7)


def test_stages_are_read_as_their_kind_has_them() -> None:
    assert KINDS["open"].parse("mixed:2.5:30") == OpenLoop("mixed", 2.5, 30)
    assert KINDS["closed"].parse("uniform:64:30") == ClosedLoop("uniform", 64, 30)
    assert KINDS["topics"].parse("batch:32:9") == TopicsBeside("batch", 32, 9)
    assert ClosedLoop("uniform", 64, 30).key() == {"mix": "uniform", "clients": 64}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_readme_has_a_place_for_every_kind_of_load(kind: Any) -> None:
    assert f"<!-- {kind.name} -->" in report.README.read_text(encoding="utf-8")


@pytest.mark.slow
def test_topics_are_answered_beside_summaries_of_a_real_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path)]
    stages = ["--stage", "batch:0:0.5", "--stage", "batch:2:1.5"]
    serving.main(["--load", "topics", "--quick", "--only", "ours int8", "--threads", "1", *stages, *where])
    alone, beside = json.loads((tmp_path / "serving-topics-quick.json").read_text())["results"]
    assert (alone["offered"], alone["failed"], alone["unanswered"], alone["summaries"]["answered"]) == (5, 0, 0, 0)
    assert (beside["offered"], beside["failed"], beside["unanswered"]) == (15, 0, 0)
    assert beside["summaries"]["answered"] > 0
    assert beside["summaries"]["failed"] == 0
    assert "| ours int8 | 2 clients, batch |" in capsys.readouterr().out
