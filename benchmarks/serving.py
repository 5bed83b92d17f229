"""Serving through HTTP under load: ours against what a user would write instead.

    python -m benchmarks.serving [--load KIND] [--quick] [--only PART]… [--peer-python PATH]… [--update-readme]

Every server is a process of its own on the loopback, alone on the machine while it is measured. Loads are
open       Poisson arrivals: each mix at a rate that all should bear, then at one that none does, which shows the pace
           at saturation;
closed     8, 32 and 64 clients that each wait for their answer;
topics     single topics beside a closed loop of summaries that fills the machine, with the bundled model.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import load, report
from benchmarks.contenders import OURS
from benchmarks.interpreters import choose, interpreters, named
from benchmarks.load import MIXED
from benchmarks.servers import SERVERS, Server, free_port, running
from benchmarks.stages import KINDS, Stage
from benchmarks.texts import Language, News
from benchmarks.weights import BASE, CACHE, SMOKE, Weights, prepare
from model.choices import BUNDLED


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every server at every stage, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=KINDS, default="open")
    parser.add_argument("--quick", action="store_true", help="a two-layer network; proves that everything works")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="servers whose name has it")
    parser.add_argument("--peer-python", action="append", default=[], help="an interpreter that has peers installed")
    parser.add_argument(
        "--stage", action="append", default=[], help="MIX:RATE:SECONDS; closed MIX:CLIENTS:…; topics PRIORITY:CLIENTS:…"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", action="store_true", help="keep what the last run measured")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where weights and their conversions are kept")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="where results are written")
    args = parser.parse_args(argv)
    kind = KINDS[args.load]
    name = f"{kind.name}-quick" if args.quick else kind.name
    stages = [kind.parse(text) for text in args.stage] or (kind.quick if args.quick else kind.full)
    weights = None if kind.of_bundled else prepare(SMOKE if args.quick else BASE, args.cache)
    pythons = interpreters(args.peer_python)
    data: dict[str, Any] = {"facts": report.facts(), "results": [], "notes": {}}
    if args.resume and (left := report.load(name, args.output)):
        data |= {key: left[key] for key in ("results", "notes")}

    def keep(result: dict[str, Any]) -> None:
        data["results"].append(result)
        report.save(name, data, kind.markdown(data), args.output)
        print(json.dumps(result), flush=True)

    servers = [server for server in SERVERS if server.name.startswith(OURS) or not kind.of_bundled]
    wanted = named([server.name for server in servers], args.only or [""])
    for server in servers:
        if server.name not in wanted:
            continue
        todo = [stage for stage in stages if not any(_is_of(one, server, stage) for one in data["results"])]
        if (python := choose(pythons, server.requires)) is None:
            data["notes"][server.name] = f"not installed; it needs {', '.join(server.requires)}"
        elif todo:
            data["notes"][server.name] = ", ".join(f"{one} {python.versions[one]}" for one in server.requires)
            try:
                _measure(server, python.path, weights, args, todo, keep)
            except RuntimeError as error:
                data["notes"][server.name] = str(error)
        report.save(name, data, kind.markdown(data), args.output)
    print(kind.markdown(data))
    if args.update_readme:
        report.update_readme(kind.name, kind.markdown(data))


def _measure(
    server: Server,
    python: str,
    weights: Weights | None,
    args: argparse.Namespace,
    stages: Sequence[Stage],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Every stage in order, without `weights` on the bundled model with a core for the clients.

    A server that still has work when a stage is over is started anew.
    """
    language: Language | News
    of_server = of_clients = sorted(os.sched_getaffinity(0))
    if weights is None:
        folder, language = BUNDLED, News()
        of_server, of_clients = of_server[:-1] or of_server, of_server[-1:]
    else:
        folder, language = weights.ours if server.name.startswith(OURS) else weights.folder, weights.language()
    args.cache.mkdir(parents=True, exist_ok=True)
    log = args.cache / f"{server.name.replace(' ', '-')}.log"
    left = list(stages)
    while left:
        port = free_port()
        command = [python, *server.arguments(folder, port, min(args.threads, len(of_server)))]
        with _on(of_server), running(command, port, server.health, log) as (url, _), _on(of_clients):
            asyncio.run(load.send(server, url, load.poisson(MIXED, 8, 1, language, seed=1), 60.0))
            is_idle = True
            while left and is_idle:
                stage = left.pop(0)
                measured = asyncio.run(stage.run(server, url, language))
                is_idle = not measured.get("unanswered")
                keep({"server": server.name, **stage.key(), **measured})


@contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """On these, and so what is started within."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _is_of(one: dict[str, Any], server: Server, stage: Stage) -> bool:
    return one["server"] == server.name and all(one[key] == value for key, value in stage.key().items())


if __name__ == "__main__":
    main()
