"""Offline decoding, ours against the peers: the same weights and ids, encoding included, all in one run.

    python -m benchmarks.decoding [--quick] [--only PART]… [--peer-python PATH]… [--resume] [--update-readme]

Repetitions are interleaved (every contender once, then again), so that a machine that slows down slows everybody.
Results are written after every measurement; a second run with `--resume` goes on from there.
"""

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import report
from benchmarks.contenders import CONTENDERS, ON_REQUEST
from benchmarks.interpreters import Interpreter, Worker, WorkerFailed, choose, interpreters, named
from benchmarks.scores import Key, Scores
from benchmarks.weights import BASE, CACHE, SMOKE, Shape, Weights, prepare

SETTLE_S = 0.2  # thread pools spin a while after work; none is to be measured with another's


@dataclass(frozen=True)
class Plan:
    """What is decoded."""

    shape: Shape
    rows: tuple[Key, ...]
    source_length: int
    num_new_tokens: int


FULL = Plan(BASE, ((1, 1), (8, 1), (32, 1), (1, 4), (4, 4)), 256, 64)
QUICK = Plan(SMOKE, ((1, 1), (4, 1), (2, 4)), 32, 16)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--row", action="append", type=_row, help="BATCHxBEAMS instead of the usual ones")
    args = parser.parse_args(argv)
    plan = QUICK if args.quick else FULL
    plan = replace(plan, rows=tuple(args.row or plan.rows))
    name = "decoding-quick" if args.quick else "decoding"
    scores = Scores.begin(name, args.output, plan.num_new_tokens, plan.rows, resume=args.resume)
    pythons, weights = interpreters(args.peer_python), prepare(plan.shape, args.cache)
    workers = start(chosen(args.only), pythons, weights, args.threads, scores.note)
    try:
        measure(workers, plan, scores, 1 if args.quick else args.repetitions, time.monotonic() + args.budget_s)
    finally:
        for worker in workers:
            worker.close()
    print(scores.markdown())
    if args.update_readme:
        report.update_readme("decoding", scores.markdown())


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The flags, which `benchmarks.encoder` shares."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a two-layer network; proves that everything works")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="contenders whose name has it")
    parser.add_argument("--peer-python", action="append", default=[], help="an interpreter that has peers installed")
    parser.add_argument("--repetitions", type=int, default=3, help="1 with --quick")
    parser.add_argument("--budget-s", type=float, default=540.0, help="no further repetition begins after this")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", action="store_true", help="keep what the last run measured")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where weights and their conversions are kept")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="where results are written")
    return parser


def chosen(only: Sequence[str]) -> list[str]:
    """Names of the contenders that `only` asks for; without it everybody but the slow starters."""
    if only:
        return named(CONTENDERS, only)
    return [name for name in CONTENDERS if name not in ON_REQUEST]


def start(
    names: Sequence[str],
    pythons: Sequence[Interpreter],
    weights: Weights,
    threads: int,
    note: Callable[[str, str], None],
) -> list[Worker]:
    """Load contenders, one after the other; `note` gets what each is, or why it is not there."""
    workers = []
    for name in names:
        requires = CONTENDERS[name].requires
        if (python := choose(pythons, requires)) is None:
            note(name, f"not installed: {', '.join(min((one.lacks(requires) for one in pythons), key=len))}")
            continue
        worker = Worker(name, python, weights, threads)
        try:
            print(f"{name}: loaded in {worker.ready():.1f} s", flush=True)
        except WorkerFailed as error:
            note(name, str(error))
            worker.close()
            continue
        note(name, ", ".join(f"{one} {version}" for one, version in worker.versions.items()))
        workers.append(worker)
    return workers


def measure(workers: Sequence[Worker], plan: Plan, scores: Scores, repetitions: int, end: float) -> None:
    """Every row with every contender, `repetitions` times over; after `end` no further round begins."""
    failed: set[Worker] = set()
    warm: set[tuple[Worker, Key]] = set()
    for number in range(repetitions):
        for row in plan.rows:
            if number and time.monotonic() > end:
                return
            order = {"do": "generate", "sources": sources(plan, row[0]), "num_beams": row[1]}
            for worker in workers:
                if worker in failed or scores.count(worker.name, row) > number:
                    continue
                if not CONTENDERS[worker.name].takes(*row):
                    continue
                try:
                    if (worker, row) not in warm:
                        worker.ask(**order, num_new_tokens=_warm_up_tokens(worker.name, plan))
                        warm.add((worker, row))
                    time.sleep(SETTLE_S)
                    answer = worker.ask(**order, num_new_tokens=plan.num_new_tokens)
                except WorkerFailed as error:
                    failed.add(worker)
                    scores.note(worker.name, str(error))
                    continue
                scores.add(worker.name, row, answer["seconds"], answer["tokens"])


def sources(plan: Plan, batch: int) -> list[list[int]]:
    """`batch` random sources, the same for everybody and in every run."""
    draw = random.Random(batch)
    length = plan.source_length - 1
    return [[*(draw.randrange(3, plan.shape.num_pieces) for _ in range(length)), 1] for _ in range(batch)]


def _row(text: str) -> Key:
    batch, beams = map(int, text.split("x"))
    return batch, beams


def _warm_up_tokens(name: str, plan: Plan) -> int:
    # What compiles does so for the length of the whole answer.
    return plan.num_new_tokens if name in ON_REQUEST else 4


if __name__ == "__main__":
    main()
