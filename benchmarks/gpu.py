"""Everything there is to measure and to prove on a CUDA device, in parts, each in less than nine minutes.

    python -m benchmarks.gpu --everything [--budget-s SECONDS] [--quick] [--update-readme]
    python -m benchmarks.gpu --part NAME…

Each part runs in a process of its own with a limit of time. What it gave is kept as soon as it ends, and a further run
does those that are left; a part that failed or took too long is kept with the reason, and comes again.

Needs torch, transformers, safetensors, sentencepiece, prometheus-client and pytest, nothing of the service. Without a
CUDA device it says so and ends with exit code 3; `--device cpu --quick` proves that the rest works.
"""

import argparse
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.gpu_parts import Setting, decoding, encoder, parity, published, tests
from benchmarks.weights import CACHE

NO_DEVICE = 3
LIMIT_S = 520.0  # of a part: under nine minutes with the start of its process

Part = Callable[[Setting], dict[str, str]]


def serving(setting: Setting) -> dict[str, str]:
    """See `benchmarks.gpu_serving`, which loads the engine."""
    from benchmarks import gpu_serving

    return gpu_serving.serving(setting)


def training(setting: Setting) -> dict[str, str]:
    """See `benchmarks.gpu_training`, which loads the trainer."""
    from benchmarks import gpu_training

    return gpu_training.training(setting)


PARTS: dict[str, Part] = {one.__name__: one for one in (parity, tests, decoding, encoder, serving, training, published)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--everything", action="store_true", help="all parts that are not done")
    which.add_argument("--part", nargs="+", choices=PARTS, help="these, also if they are done")
    parser.add_argument("--budget-s", type=float, default=7200.0, help="no further part begins after this")
    parser.add_argument("--quick", action="store_true", help="a two-layer network and small batches")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where weights are kept")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="where results are written")
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device is present: nothing was measured and no result was written", file=sys.stderr)
        raise SystemExit(NO_DEVICE)
    setting = Setting(args.device, args.cache, args.quick)
    run(PARTS, setting, args.output, args.part, args.budget_s, update_readme=args.update_readme)


def run(
    parts: Mapping[str, Part],
    setting: Setting,
    folder: Path,
    wanted: Sequence[str] | None,
    budget_s: float,
    *,
    limit_s: float = LIMIT_S,
    update_readme: bool = False,
) -> None:
    """Those of `parts` that `folder` has no figures of, or `wanted` whatever it has; none begins after `budget_s`.

    Raises:
        SystemExit: a part failed; what the others gave is kept.
    """
    name = "gpu-quick" if setting.quick else "gpu"
    data: dict[str, Any] = {"parts": {}, **(report.load(name, folder) or {}), "facts": report.facts()}
    todo = list(wanted or (one for one in parts if data["parts"].get(one, {}).get("error", "not run")))
    end, done = time.monotonic() + budget_s, []
    while todo and time.monotonic() <= end:
        done.append(part := todo.pop(0))
        print(f"{part}: begins", flush=True)
        data["parts"][part] = _apart(parts[part], setting, limit_s)
        report.save(name, data, markdown(data, parts), folder)
        print(f"{part}: {data['parts'][part]}", flush=True)
    print(markdown(data, parts))
    print(f"left: {', '.join(todo) or 'nothing'}")
    if update_readme:
        report.update_readme("gpu", markdown(data, parts))
    if failed := [part for part in done if data["parts"][part]["error"]]:
        raise SystemExit(f"failed: {', '.join(failed)}")


def markdown(data: Mapping[str, Any], parts: Mapping[str, Part]) -> str:
    """A line for each figure, in the order of `parts`; those without any say why."""
    lines = []
    for part in parts:
        one = data["parts"].get(part, {"figures": {}, "error": "not run", "seconds": 0})
        figures = {**one["figures"], **({one["error"]: "–"} if one["error"] else {})}
        for number, (name, figure) in enumerate(figures.items()):
            lines.append([part, name.replace("|", "/"), figure, "" if number else f"{one['seconds']:.0f}"])
    devices = sorted({one["device"] for one in data["parts"].values()})
    facts = {**data["facts"], "processor": ", ".join(devices) or "no device"}
    return f"{report.caption(facts)}\n{report.table(['part', 'what', 'figure', 'took s'], lines)}\n"


def _apart(part: Part, setting: Setting, limit_s: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(part, setting, sender))
    started_at = time.monotonic()
    process.start()
    sender.close()  # so that a process that dies ends the connection
    answer: dict[str, Any] = {"figures": {}, "error": None, "device": setting.device}
    try:
        answer |= receiver.recv() if receiver.poll(limit_s) else {"error": f"took longer than {limit_s:g} s"}
    except EOFError:
        process.join()
        answer["error"] = f"its process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
        receiver.close()
    return {**answer, "seconds": round(time.monotonic() - started_at, 1)}


def _answer(part: Part, setting: Setting, sender: Connection) -> None:
    try:
        sender.send({"figures": part(setting), "device": setting.device_name()})
    except Exception as error:
        traceback.print_exc()
        sender.send({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]})


if __name__ == "__main__":
    main()
