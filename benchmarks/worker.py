"""One contender in a process of its own: orders come as JSON lines on stdin, answers leave on stdout.

python -m benchmarks.worker SHAPE CACHE CONTENDER THREADS
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.trainers import TRAINERS, TrainingContender
from benchmarks.weights import SHAPES, Weights


def main(shape: str, cache: str, name: str, threads: str) -> None:
    """Load, say so, then carry out orders until stdin ends."""
    orders, answers = _private_stdin(), _private_stdout()
    weights = Weights(SHAPES[shape], Path(cache) / shape)
    contender = (CONTENDERS | TRAINERS)[name]
    started_at = time.perf_counter()
    contender.load(weights, int(threads))
    _say(answers, {"load_s": time.perf_counter() - started_at})
    for line in orders:
        _say(answers, _carry_out(contender, json.loads(line)))


def _carry_out(contender: Contender | TrainingContender, order: dict[str, Any]) -> dict[str, Any]:
    if isinstance(contender, TrainingContender):
        return contender.carry_out(**order)
    started_at = time.perf_counter()
    if order["do"] == "encode":
        contender.encode(order["sources"])
        return {"seconds": time.perf_counter() - started_at}
    tokens = contender.generate(order["sources"], order["num_new_tokens"], order["num_beams"])
    return {"seconds": time.perf_counter() - started_at, "tokens": tokens}


def _private_stdin() -> TextIO:
    # The processes that torch.compile starts inherit stdin and swallow what comes there.
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return orders


def _private_stdout() -> TextIO:
    # Libraries print to stdout when they please, some from C++: what they print goes to stderr instead.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
