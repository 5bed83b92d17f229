"""Serving through HTTP under open-loop Poisson load: ours against what a user would write instead.

    python -m benchmarks.serving [--quick] [--only PART]… [--peer-python PATH]… [--resume] [--update-readme]

Every server is a process of its own on the loopback, alone on the machine while it is measured. First each mix of
requests comes at a rate that all should bear, then at one that none does, which shows the pace at saturation.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import load, report
from benchmarks.contenders import OURS
from benchmarks.interpreters import choose, interpreters, named
from benchmarks.load import MIXED, UNIFORM, Mix
from benchmarks.servers import SERVERS, Server, free_port, running
from benchmarks.weights import BASE, CACHE, SMOKE, Weights, prepare


@dataclass(frozen=True)
class Stage:
    """One stretch of load."""

    mix: Mix
    rate: float
    duration_s: float


FULL = (Stage(UNIFORM, 4, 20), Stage(MIXED, 3, 20), Stage(UNIFORM, 16, 20), Stage(MIXED, 8, 20))
QUICK = (Stage(UNIFORM, 4, 3), Stage(MIXED, 4, 3))
_PATIENCE_S = load.GOOD_WITHIN_S


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every server at every stage, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a two-layer network; proves that everything works")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="servers whose name has it")
    parser.add_argument("--peer-python", action="append", default=[], help="an interpreter that has peers installed")
    parser.add_argument("--stage", action="append", type=_stage, help="MIX:RATE:SECONDS instead of the usual stages")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", action="store_true", help="keep what the last run measured")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where weights and their conversions are kept")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="where results are written")
    args = parser.parse_args(argv)
    name = "serving-quick" if args.quick else "serving"
    stages = args.stage or (QUICK if args.quick else FULL)
    weights = prepare(SMOKE if args.quick else BASE, args.cache)
    pythons = interpreters(args.peer_python)
    data: dict[str, Any] = {"facts": report.facts(), "results": [], "notes": {}}
    if args.resume and (left := report.load(name, args.output)):
        data |= {key: left[key] for key in ("results", "notes")}

    def keep(result: dict[str, Any]) -> None:
        data["results"].append(result)
        report.save(name, data, markdown(data), args.output)
        print(json.dumps(result), flush=True)

    wanted = named([server.name for server in SERVERS], args.only or [""])
    for server in SERVERS:
        if server.name not in wanted:
            continue
        todo = [stage for stage in stages if not any(_is_of(one, server, stage) for one in data["results"])]
        if (python := choose(pythons, server.requires)) is None:
            data["notes"][server.name] = f"not installed; it needs {', '.join(server.requires)}"
        elif todo:
            data["notes"][server.name] = ", ".join(f"{one} {python.versions[one]}" for one in server.requires)
            try:
                _measure(server, python.path, weights, args.threads, todo, keep)
            except RuntimeError as error:
                data["notes"][server.name] = str(error)
        report.save(name, data, markdown(data), args.output)
    print(markdown(data))
    if args.update_readme:
        report.update_readme("serving", markdown(data))


def markdown(data: dict[str, Any]) -> str:
    """The table: a line for every server and stage."""
    header = ["load", "offered/s", "server", "p50 s", "p95 s", "p99 s", "answered/s", "good/s", "refused", "lost"]
    lines = [
        [
            one["mix"],
            f"{one['rate']:g}",
            one["server"],
            *("–" if one[key] is None else f"{one[key]:.2f}" for key in ("p50_s", "p95_s", "p99_s")),
            *(f"{one[key]:.1f}" for key in ("answered_per_s", "goodput_per_s")),
            str(one["refused"]),
            str(one["failed"] + one["unanswered"]),
        ]
        for one in sorted(data["results"], key=lambda one: (one["mix"] != "uniform", one["rate"]))
    ]
    notes = "\n".join(f"- {name}: {text}" for name, text in data["notes"].items())
    mixes = "; ".join(
        f"{m.name}: {m.words[0]}–{m.words[1]} words, {m.new_tokens[0]}–{m.new_tokens[1]} new tokens"
        for m in (UNIFORM, MIXED)
    )
    return (
        f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\n{mixes}. answered/s: in the last two "
        f"thirds of the load, the pace at saturation. good/s: answered within {load.GOOD_WITHIN_S:g} s. lost: failed, "
        f"or unanswered {_PATIENCE_S:g} s after the load's end. A percentile that falls among those is –.\n\n{notes}\n"
    )


def _measure(
    server: Server,
    python: str,
    weights: Weights,
    threads: int,
    stages: Sequence[Stage],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Every stage in order; a server that still has work when a stage is over is started anew."""
    log = weights.folder / f"{server.name.replace(' ', '-')}.log"
    folder = weights.ours if server.name.startswith(OURS) else weights.folder
    left = list(stages)
    while left:
        port = free_port()
        with running([python, *server.arguments(folder, port, threads)], port, server.health, log) as (url, _):
            asyncio.run(load.send(server, url, load.poisson(MIXED, 8, 1, weights.language(), seed=1), 60.0))
            is_idle = True
            while left and is_idle:
                stage = left.pop(0)
                arrivals = load.poisson(stage.mix, stage.rate, stage.duration_s, weights.language())
                outcomes = asyncio.run(load.send(server, url, arrivals, _PATIENCE_S))
                measured = load.summary(outcomes, stage.duration_s)
                is_idle = not measured["unanswered"]
                keep({"server": server.name, "mix": stage.mix.name, "rate": stage.rate, **measured})


def _is_of(one: dict[str, Any], server: Server, stage: Stage) -> bool:
    return (one["server"], one["mix"], one["rate"]) == (server.name, stage.mix.name, stage.rate)


def _stage(text: str) -> Stage:
    mix, rate, seconds = text.split(":")
    return Stage({one.name: one for one in (UNIFORM, MIXED)}[mix], float(rate), float(seconds))


if __name__ == "__main__":
    main()
