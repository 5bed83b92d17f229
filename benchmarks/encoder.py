"""Encoding alone: documents a second at several lengths, ours against the peers that can encode alone.

python -m benchmarks.encoder [--quick] [--only PART]… [--peer-python PATH]… [--update-readme]
"""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks import decoding, report
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.decoding import Plan
from benchmarks.interpreters import Worker, WorkerFailed, interpreters
from benchmarks.weights import BASE, SMOKE, prepare

_BATCH_TOKENS = 2048
_FULL = (64, 256, 512)
_QUICK = (16, 64)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    args = decoding.arguments(__doc__).parse_args(argv)
    name = "encoder-quick" if args.quick else "encoder"
    shape, lengths = (SMOKE, _QUICK) if args.quick else (BASE, _FULL)
    data: dict[str, Any] = {"facts": report.facts(), "seconds": {}, "notes": {}}

    def note(contender: str, text: str) -> None:
        data["notes"][contender] = text

    names = [name for name in decoding.chosen(args.only) if type(CONTENDERS[name]).encode is not Contender.encode]
    workers = decoding.start(names, interpreters(args.peer_python), prepare(shape, args.cache), args.threads, note)
    try:
        for number in range(1 if args.quick else args.repetitions):
            for length in lengths:
                plan = Plan(shape, (), length, 0)
                for worker in workers:
                    _measure(worker, plan, data, warm_up=number == 0)
                report.save(name, data, markdown(data), args.output)
    finally:
        for worker in workers:
            worker.close()
    print(markdown(data))
    if args.update_readme:
        report.update_readme("encoder", markdown(data))


def markdown(data: dict[str, Any]) -> str:
    """Documents a second by contender and length."""
    lengths = sorted({length for by_length in data["seconds"].values() for length in by_length}, key=int)
    header = ["documents/s at tokens × batch", *(f"{length} × {_batch(int(length))}" for length in lengths)]
    lines = [
        [
            name,
            *(
                f"{_batch(int(length)) / median(by_length[length]):.1f}" if length in by_length else "–"
                for length in lengths
            ),
        ]
        for name, by_length in data["seconds"].items()
    ]
    notes = "\n".join(f"- {name}: {text}" for name, text in data["notes"].items())
    return f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\n{notes}\n"


def _measure(worker: Worker, plan: Plan, data: dict[str, Any], *, warm_up: bool) -> None:
    order = {"do": "encode", "sources": decoding.sources(plan, _batch(plan.source_length))}
    try:
        if warm_up:
            worker.ask(**order)
        time.sleep(decoding.SETTLE_S)
        seconds = worker.ask(**order)["seconds"]
    except WorkerFailed as error:
        data["notes"][worker.name] = str(error)
        return
    data["seconds"].setdefault(worker.name, {}).setdefault(str(plan.source_length), []).append(seconds)


def _batch(length: int) -> int:
    return _BATCH_TOKENS // length


if __name__ == "__main__":
    main()
