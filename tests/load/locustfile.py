"""Locust users who ask all four endpoints about real-looking texts and read the answers.

    locust -f tests/load/locustfile.py --host http://127.0.0.1:8000 --headless -u 16 -r 4 -t 1m

A wrong answer is a failure whatever its status. A refusal (429) that says when to come back is none: it is counted on
a line of its own, and the user waits that long. Knows the service by HTTP alone, and the label sets by `model.tasks`.
"""

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, tag, task
from locust.contrib.fasthttp import FastResponse
from locust.exception import ResponseError

from model.tasks import EMOTIONS, TOPICS

TEXTS: dict[str, list[str]] = json.loads((Path(__file__).parent / "texts.json").read_text(encoding="utf-8"))
LONG_TEXTS = TEXTS["news"] + TEXTS["dialogues"] + TEXTS["abstracts"]
ALL_TEXTS = LONG_TEXTS + TEXTS["comments"]
DECODINGS: list[dict[str, Any]] = [{}, {"num_beams": 2}, {"do_sample": True, "temperature": 0.8, "seed": 7}]
LONGEST_WAIT_S = 10


class Reader(FastHttpUser):
    """Someone who mostly classifies, often summarizes, and sometimes wants everything at once."""

    wait_time = between(0.1, 0.5)

    @tag("summarize")
    @task(4)
    def summarize(self) -> None:
        longest = random.choice([16, 32, 64])
        body = {"text": random.choice(LONG_TEXTS), "max_new_tokens": longest, "min_new_tokens": 8}
        self._ask("/summarize", body | random.choice(DECODINGS), lambda answer: check_summary(answer, longest))

    @tag("emotions")
    @task(3)
    def emotions(self) -> None:
        self._ask("/emotions", {"text": random.choice(ALL_TEXTS), "threshold": 0.0}, check_all_emotions)

    @tag("emotions")
    @task(1)
    def emotions_of_several(self) -> None:
        texts = random.sample(TEXTS["comments"], k=4)
        self._ask("/emotions", {"text": texts}, lambda answers: check_each(answers, len(texts), check_emotions))

    @tag("topic")
    @task(3)
    def topic(self) -> None:
        self._ask("/topic", {"text": random.choice(TEXTS["news"])}, check_topic)

    @tag("topic")
    @task(1)
    def topic_of_several(self) -> None:
        texts = random.sample(LONG_TEXTS, k=3)
        self._ask("/topic", {"text": texts}, lambda answers: check_each(answers, len(texts), check_topic))

    @tag("analyze")
    @task(2)
    def analyze(self) -> None:
        body = {"text": random.choice(LONG_TEXTS), "summary": {"max_new_tokens": 32, "min_new_tokens": 8}}
        self._ask("/analyze", body, lambda answer: check_analysis(answer, 32))

    def _ask(self, path: str, body: dict[str, Any], check: Callable[[Any], None]) -> None:
        wait_s = 0
        with self.client.post(path, json=body, catch_response=True) as response:
            if response.status_code == 429:
                wait_s = retry_after(response)
                response.request_meta["name"] = f"{path} (refused)"
                response.success()
            elif response.status_code != 200:
                raise WrongAnswer(f"status {response.status_code}: {(response.text or '')[:200]}")
            else:
                check(parsed(response))
        time.sleep(min(wait_s, LONGEST_WAIT_S))


class WrongAnswer(ResponseError):
    """An answer that breaks the contract; Locust counts it as a failure under its message."""


def expect(holds: bool, message: str) -> None:
    if not holds:
        raise WrongAnswer(message)


def parsed(response: FastResponse) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise WrongAnswer(f"not JSON: {(response.text or '')[:100]!r}") from error


def retry_after(response: FastResponse) -> int:
    """Seconds that a refusal asks us to wait."""
    value = (response.headers or {}).get("Retry-After", "")
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
