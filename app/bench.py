"""How fast this machine answers with this checkpoint: some clients that ask again as soon as they are answered.

Asks the engine as the server does, without HTTP. Figures are of the whole: tokenizing, batching, model, answer.
"""

import asyncio
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from app.service import Deployment
from app.text_request import TextRequest
from model.inference.decoding.options import DecodingOptions
from model.tasks import SUMMARIZE

NEW_TOKENS = 64
_SHORT_WORDS, _LONG_WORDS = 25, 150
_SENTENCES = (
    "The council voted on Tuesday to build a new bridge over the river before the winter comes.",
    "Shares of the chip maker rose twelve percent after it reported record profits for the quarter.",
    "The home side won the final by two goals to one, with both goals late in the second half.",
    "Astronomers have found water vapour in the air of a planet far beyond our own system.",
    "Thank you so much for the flowers, they made my whole week and I still cannot believe it.",
    "Officials issued a warning for the coast, which was lifted three hours after the earthquake.",
    "I am sorry that I forgot your birthday, and I promise to make up for it on Saturday.",
    "The company said that it would close two of its plants and move the work to a third.",
)


@dataclass(frozen=True)
class Load:
    """What is asked, and by how many at once."""

    name: str
    request: TextRequest
    num_words: int
    at_once: int


@dataclass(frozen=True)
class Figure:
    """What came of a load; latencies in seconds."""

    name: str
    num_words: int
    at_once: int
    texts_per_s: float
    new_tokens_per_s: float
    p50_s: float
    p95_s: float


def loads(tasks: Sequence[str]) -> list[Load]:
    """What is measured of a checkpoint with these tasks."""
    heads = tuple(task for task in tasks if task != SUMMARIZE)
    classify = TextRequest(heads, on_long="truncate")
    greedy, beams = (
        TextRequest(
            (SUMMARIZE,),
            DecodingOptions(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, num_beams=num_beams),
            "truncate",
        )
        for num_beams in (1, 4)
    )
    classified = [
        Load(", ".join(heads), classify, words, at_once)
        for words, at_once in ((_SHORT_WORDS, 1), (_SHORT_WORDS, 256), (_LONG_WORDS, 64))
    ]
    summarized = [Load("summarize", greedy, _LONG_WORDS, at_once) for at_once in (1, 8, 32, 64)]
    return [*(classified if heads else []), *summarized, Load("summarize, 4 beams", beams, _LONG_WORDS, 4)]


async def measure(
    deployment: Deployment, load: Load, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Figure:
    """Ask for `seconds`, after one text that is not counted; what is begun by then is waited for."""
    texts = _texts(load.num_words)
    await _ask(deployment, replace(load, at_once=1), texts, 0.0, clock)
    started_at = clock()
    answers = await _ask(deployment, load, texts, seconds, clock)
    elapsed = max(at for at, _, _ in answers) - started_at
    latencies = sorted(latency for _, latency, _ in answers)
    return Figure(
        name=load.name,
        num_words=load.num_words,
        at_once=load.at_once,
        texts_per_s=len(answers) / elapsed,
        new_tokens_per_s=sum(tokens for _, _, tokens in answers) / elapsed,
        p50_s=statistics.median(latencies),
        p95_s=latencies[math.ceil(0.95 * len(latencies)) - 1],
    )


async def _ask(
    deployment: Deployment, load: Load, texts: Iterator[str], seconds: float, clock: Callable[[], float]
) -> list[tuple[float, float, int]]:
    """When each answer came, how long it took, and its new tokens."""
    answers: list[tuple[float, float, int]] = []
    until = clock() + seconds

    async def one() -> None:
        while (asked_at := clock()) < until or not answers:
            plans = await deployment.documents.plan([next(texts)], load.request, math.inf)
            [result] = await deployment.documents.run(plans)
            answers.append((clock(), clock() - asked_at, result.summary.output_tokens if result.summary else 0))

    await asyncio.gather(*(one() for _ in range(load.at_once)))
    return answers


def _texts(num_words: int) -> Iterator[str]:
    """Texts of about `num_words` words, no two of them equal: equal ones are encoded once."""
    draw = random.Random(num_words)
    for number in count(1):
        words = f"Report {number}:".split()
        while len(words) < num_words:
            words += draw.choice(_SENTENCES).split()
        yield " ".join(words[:num_words])
