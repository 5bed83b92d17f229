"""Locust users who ask all four endpoints about real-looking texts and read the answers.

    locust -f tests/load/locustfile.py --host http://127.0.0.1:8000 --headless -u 16 -r 4 -t 1m

Before the users come, every question is asked alone: an answer that differs later is a failure, as is one that breaks
the contract, whatever its status. A refusal (429) that says when to come back is none: it is counted on a line of its
own, and the user waits that long; but more than --max-refused-share of them end the run with 1. --key is for a service
with keys. Knows the service by HTTP alone, and the label sets by `model.tasks`.
"""

import json
import logging
import math
import random
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from locust import FastHttpUser, between, events, tag, task
from locust.contrib.fasthttp import FastResponse
from locust.env import Environment
from locust.exception import ResponseError

from model.tasks import EMOTIONS, TOPICS

TEXTS: dict[str, list[str]] = json.loads((Path(__file__).parent / "texts.json").read_text(encoding="utf-8"))
LONG_TEXTS = TEXTS["news"] + TEXTS["dialogues"] + TEXTS["abstracts"]
ALL_TEXTS = LONG_TEXTS + TEXTS["comments"]
DECODINGS: list[dict[str, Any]] = [{}, {"num_beams": 2}, {"do_sample": True, "temperature": 0.8, "seed": 7}]
LONGEST_WAIT_S = 10
NUM_QUESTIONS = 6  # of each task
SCORE_TOLERANCE = 1e-3  # what a batch may change of a head's score in 16 bits
REFUSED = " (refused)"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A request, and what its answer must be like whatever the model says."""

    path: str
    body: dict[str, Any]
    check: Callable[[Any], None]


class Reader(FastHttpUser):
    """Someone who mostly classifies, often summarizes, and sometimes wants everything at once."""

    wait_time = between(0.1, 0.5)

    @tag("summarize")
    @task(4)
    def summarize(self) -> None:
        self._ask("summarize")

    @tag("emotions")
    @task(3)
    def emotions(self) -> None:
        self._ask("emotions")

    @tag("emotions")
    @task(1)
    def emotions_of_several(self) -> None:
        self._ask("emotions_of_several")

    @tag("topic")
    @task(3)
    def topic(self) -> None:
        self._ask("topic")

    @tag("topic")
    @task(1)
    def topic_of_several(self) -> None:
        self._ask("topic_of_several")

    @tag("analyze")
    @task(2)
    def analyze(self) -> None:
        self._ask("analyze")

    def _ask(self, name: str) -> None:
        number = random.randrange(NUM_QUESTIONS)
        question, wait_s = QUESTIONS[name][number], 0
        headers = headers_of(self.environment)
        with self.client.post(question.path, json=question.body, headers=headers, catch_response=True) as response:
            if response.status_code == 429:
                wait_s = retry_after(response)
                response.request_meta["name"] = f"{question.path}{REFUSED}"
                response.success()
            elif response.status_code != 200:
                raise WrongAnswer(f"status {response.status_code}: {(response.text or '')[:200]}")
            else:
                answer = parsed(response)
                question.check(answer)
                checkpoint, expected = KNOWN[name, number]
                if checkpoint == (response.headers or {}).get(CHECKPOINT):  # another may be served by now
                    expect(is_same(answer, expected), f"{name} {number} is not answered as alone: {answer}"[:300])
        time.sleep(min(wait_s, LONGEST_WAIT_S))


CHECKPOINT = "X-LexiMind-Checkpoint"
KNOWN: dict[tuple[str, int], tuple[str | None, Any]] = {}  # checkpoint and answer of each question, asked alone


@events.init_command_line_parser.add_listener
def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--key", default="", help="API key of the service", env_var="LOCUST_KEY", is_secret=True)  # type: ignore[call-arg]  # Locust's own
    parser.add_argument(
        "--max-refused-share", type=float, default=0.05, help="of all requests; more of them end the run with 1"
    )


@events.init.add_listener
def learn(environment: Environment, **_: Any) -> None:
    """Ask every question of the tasks that run (--tags), alone and before the run's time begins."""
    tags = environment.parsed_options.tags
    tasks = {one for one in Reader.tasks if not tags or one.locust_tag_set & set(tags)}
    try:
        for name in sorted(one.__name__ for one in tasks):
            for number, question in enumerate(QUESTIONS[name]):
                KNOWN[name, number] = answered_alone(environment, question)
    except (requests.RequestException, ResponseError) as error:
        raise SystemExit(f"the answers to compare with are not to be had from {environment.host}: {error}") from None


def answered_alone(environment: Environment, question: Question) -> tuple[str | None, Any]:
    while True:
        url = f"{environment.host}{question.path}"
        response = requests.post(url, json=question.body, headers=headers_of(environment), timeout=120)
        if response.status_code != 429:
            break
        time.sleep(retry_after(response))
    response.raise_for_status()
    question.check(answer := parsed(response))
    return response.headers.get(CHECKPOINT), answer


@events.quitting.add_listener
def limit_refusals(environment: Environment, **_: Any) -> None:
    """Fail the run if more was refused than was allowed; Locust fails it for wrong answers by itself."""
    num_refused = sum(entry.num_requests for (name, _), entry in environment.stats.entries.items() if REFUSED in name)
    share, limit = (
        num_refused / max(environment.stats.total.num_requests, 1),
        environment.parsed_options.max_refused_share,
    )
    if share > limit:
        logger.error("%.1f %% of all requests were refused, %.1f %% are allowed", share * 100, limit * 100)
        environment.process_exit_code = 1


def headers_of(environment: Environment) -> dict[str, str]:
    key = environment.parsed_options.key
    return {"Authorization": f"Bearer {key}"} if key else {}


def is_same(one: Any, other: Any) -> bool:
    """Equal but for the last digits of scores, by which labels may change places."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=SCORE_TOLERANCE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, by_label(one), by_label(other)))
    return bool(one == other)


def by_label(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda one: one["label"]) if items and "label" in items[0] else items


class WrongAnswer(ResponseError):
    """An answer that breaks the contract; Locust counts it as a failure under its message."""


def expect(holds: bool, message: str) -> None:
    if not holds:
        raise WrongAnswer(message)


def parsed(response: FastResponse | requests.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise WrongAnswer(f"not JSON: {(response.text or '')[:100]!r}") from error


def retry_after(response: FastResponse | requests.Response) -> int:
    """Seconds that a refusal asks us to wait."""
    value = str((response.headers or {}).get("Retry-After", ""))
    expect(value.isdigit() and int(value) > 0, f"refused with Retry-After {value!r}, not a whole number of seconds")
    return int(value)


def check_each(answers: Any, count: int, check: Callable[[Any], None]) -> None:
    expect(isinstance(answers, list) and len(answers) == count, f"a list of {count} is not answered by one of {count}")
    for answer in answers:
        check(answer)


def check_summary(answer: Any, max_new_tokens: int) -> None:
    fields = {"summary", "finish_reason", "input_tokens", "output_tokens", "chunks", "model"}
    expect(isinstance(answer, dict) and answer.keys() >= fields, f"/summarize lacks one of {sorted(fields)}")
    expect(bool(answer["summary"].strip()), "empty summary")
    expect(answer["finish_reason"] in ("stop", "length"), f"finish_reason {answer['finish_reason']!r}")
    expect(1 <= answer["output_tokens"] <= max_new_tokens * answer["chunks"], "output_tokens beyond max_new_tokens")
    expect(answer["input_tokens"] > 8, f"input_tokens {answer['input_tokens']} for a paragraph")


def check_emotions(answer: Any) -> None:
    expect(isinstance(answer, dict) and answer.keys() >= {"emotions", "model"}, "/emotions lacks a field")
    check_scores(answer["emotions"], EMOTIONS)


def check_all_emotions(answer: Any) -> None:
    check_emotions(answer)
    expect(len(answer["emotions"]) == len(EMOTIONS), "threshold 0 does not give every label")


def check_topic(answer: Any) -> None:
    expect(isinstance(answer, dict) and answer.keys() >= {"topic", "score", "scores", "model"}, "/topic lacks a field")
    scores = answer["scores"]
    check_scores(scores, TOPICS)
    expect(math.isclose(sum(one["score"] for one in scores), 1, abs_tol=1e-3), "topic scores do not sum to 1")
    expect([answer["topic"], answer["score"]] == [scores[0]["label"], scores[0]["score"]], "topic is not the best one")


def check_scores(scores: Any, labels: tuple[str, ...]) -> None:
    """Known labels, each once, with probabilities, best first."""
    values = [one["score"] for one in scores]
    names = [one["label"] for one in scores]
    expect(set(names) <= set(labels) and len(set(names)) == len(names), f"labels {names}")
    expect(all(0 <= value <= 1 for value in values), f"scores {values}")
    expect(values == sorted(values, reverse=True), "scores are not best first")


def check_analysis(answer: Any, max_new_tokens: int) -> None:
    expect(isinstance(answer, dict) and answer.keys() >= {"summary", "emotions", "topic"}, "/analyze lacks a task")
    check_summary(answer["summary"], max_new_tokens)
    check_emotions(answer["emotions"])
    check_topic(answer["topic"])


def questions() -> dict[str, list[Question]]:
    """By task of `Reader`; the same in every run and process."""
    draw = random.Random(0)

    def summary() -> Question:
        longest = draw.choice([16, 32, 64])
        body = {"text": draw.choice(LONG_TEXTS), "max_new_tokens": longest, "min_new_tokens": 8}
        return Question("/summarize", body | draw.choice(DECODINGS), partial(check_summary, max_new_tokens=longest))

    def several(path: str, texts: list[str], check: Callable[[Any], None]) -> Question:
        return Question(path, {"text": texts}, partial(check_each, count=len(texts), check=check))

    def analysis() -> Question:
        body = {"text": draw.choice(LONG_TEXTS), "summary": {"max_new_tokens": 32, "min_new_tokens": 8}}
        return Question("/analyze", body, partial(check_analysis, max_new_tokens=32))

    made: dict[str, Callable[[], Question]] = {
        "summarize": summary,
        "emotions": lambda: Question(
            "/emotions", {"text": draw.choice(ALL_TEXTS), "threshold": 0.0}, check_all_emotions
        ),
        "emotions_of_several": lambda: several("/emotions", draw.sample(TEXTS["comments"], k=4), check_emotions),
        "topic": lambda: Question("/topic", {"text": draw.choice(TEXTS["news"])}, check_topic),
        "topic_of_several": lambda: several("/topic", draw.sample(LONG_TEXTS, k=3), check_topic),
        "analyze": analysis,
    }
    return {name: [make() for _ in range(NUM_QUESTIONS)] for name, make in made.items()}


QUESTIONS = questions()
