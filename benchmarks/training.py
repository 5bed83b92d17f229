"""Training, ours against the `Trainer` of transformers: tokens a second over the same batches.

    python -m benchmarks.training [--quick] [--shape small|base] [--device cpu|cuda] [--only PART]… [--update-readme]

Once with rows of one length and once with lengths as dialogues and their summaries have them, where padding counts
nothing. Repetitions are interleaved. MFU is the share of the arithmetic that the device can do: of the data sheet on a
GPU, on a CPU of what a large product of matrices in the same precision reaches, measured before.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.interpreters import Worker, WorkerFailed, choose, interpreters, named
from benchmarks.trainers import TRAINERS, Row
from benchmarks.weights import BASE, CACHE, SHAPES, SMALL, SMOKE, Shape, prepare

NO_DEVICE = 3
TABLES = {"equal": "one length", "mixed": "lengths of dialogues"}
OURS, PEER = "our trainer", "HF Trainer"
_POOL = 50
_SETTLE_S = 0.2  # thread pools spin a while after work; none is to be measured with another's


@dataclass(frozen=True)
class Plan:
    """What is trained: `batch` rows a step, `steps` an epoch of rows of `source` and `target` tokens."""

    shape: Shape
    device: str
    batch: int
    steps: int
    source: int
    target: int

    def rows(self, table: str) -> list[Row]:
        """`equal`: all of the full length. `mixed`: lognormal, as in DialogSum by words.

        Half of DialogSum's sources have 157 tokens or fewer, of its targets 28. Of 50 batches that are sorted by
        length, as both trainers sort a large data set, some at even distances are taken, twice the steps of `equal`.
        """
        draw = random.Random(0)
        if table == "equal":
            lengths = [(self.source, self.target)] * (self.batch * self.steps)
        else:
            scale = min(1.0, self.source / 256)
            pool = sorted(
                (_length(draw, 157 * scale, 0.48, 512 * scale), _length(draw, 28 * scale, 0.42, 128 * scale))
                for _ in range(_POOL * self.batch)
            )
            taken = [int((number + 0.5) * _POOL / (2 * self.steps)) * self.batch for number in range(2 * self.steps)]
            lengths = [pair for start in taken for pair in pool[start : start + self.batch]]
        return [tuple(_ids(draw, self.shape, length) for length in pair) for pair in lengths]  # type: ignore[misc]


FULL = {
    "cpu": {"batch": 8, "steps": 3, "source": 256, "target": 64},
    "cuda": {"batch": 64, "steps": 20, "source": 512, "target": 128},
}
QUICK = {"batch": 4, "steps": 2, "source": 32, "target": 16}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    args = _arguments().parse_args(argv)
    _check_device(args.device)
    asked = {name: getattr(args, name) for name in QUICK if getattr(args, name)}
    shape = SMOKE if args.quick else SHAPES[args.shape]
    plan = Plan(shape, args.device, **((QUICK if args.quick else FULL[args.device]) | asked))
    rows = {table: plan.rows(table) for table in TABLES}
    data: dict[str, Any] = {
        "facts": report.facts() | ({"processor": _gpu_name()} if args.device == "cuda" else {}),
        "plan": {"shape": shape.name, "device": args.device, **{name: getattr(plan, name) for name in QUICK}},
        "padding": {table: _padding(rows[table], plan.batch) for table in TABLES},
        "work": {table: _work(shape, rows[table]) for table in TABLES},
        "peaks": _peaks(args.device, args.threads),
        "measurements": [],
        "notes": {},
    }
    name = f"training-{shape.name}-{args.device}"
    workers = _start(args, shape, data["notes"])
    end, failed = time.monotonic() + args.budget_s, set[Worker]()
    try:
        for number in range(2 if args.quick else args.repetitions + 1):  # the first one warms up
            for table in TABLES:
                if number > 1 and time.monotonic() > end:
                    break
                for worker in workers:
                    if worker not in failed and not _measure(worker, plan, table, rows[table], number, data):
                        failed.add(worker)
                report.save(name, data, markdown(data), args.output)
    finally:
        for worker in workers:
            worker.close()
    print(markdown(data))
    if args.update_readme:
        report.update_readme(f"training-{args.device}", markdown(data))


def markdown(data: dict[str, Any]) -> str:
    """Tokens a second and MFU by contender, ours by the peer of the same kind, and the loss that proves them equal."""
    plan, measured = data["plan"], {one["contender"] for one in data["measurements"] if one["repetition"]}
    names = [name for name in TRAINERS if name in measured]
    header = [f"tokens/s, {plan['shape']}"]
    for title in TABLES.values():
        header += [title, "MFU"]
    lines = [
        [name, *(cell for table in TABLES for cell in _cells(data, name, table)), _loss(data, name)] for name in names
    ]
    for name in names:
        peer = name.replace(OURS, PEER)
        if peer != name and peer in names:
            ratios = [cell for table in TABLES for cell in (_ratio(data, name, peer, table), "")]
            lines.append([f"**ours ÷ HF, {name.removeprefix(OURS).strip()}**", *ratios, ""])
    counts = {count for name in names for table in TABLES if (count := len(_seconds(data, name, table)))} or {0}
    peaks = ", ".join(f"{name} {peak / 1e9:,.0f}" for name, peak in data["peaks"].items()) or "unknown"
    notes = "\n".join(f"- {name}: {text}" for name, text in data["notes"].items())
    return (
        f"{report.caption(data['facts'])}\n{report.table([*header, 'first loss'], lines)}\n\n"
        f"{plan['batch']} rows a step, {plan['source']} + {plan['target']} tokens where all have one length; AdamW, no "
        f"dropout; tokens without padding, of which there is {data['padding']['mixed']:.0%} more where lengths differ. "
        f"Medians of {min(counts)} to {max(counts)} interleaved repetitions after an epoch whose mean loss is the last "
        f"column. Peak in GFLOP/s: {peaks}.\n\n{notes}\n"
    )


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a two-layer network; proves that everything works")
    parser.add_argument("--shape", choices=[SMALL.name, BASE.name], default=SMALL.name)
    parser.add_argument("--device", choices=list(FULL), default="cpu")
    parser.add_argument("--batch", type=int, help="rows a step: 8, on a GPU 64")
    parser.add_argument("--steps", type=int, help="steps an epoch of rows of one length: 3, on a GPU 20")
    parser.add_argument("--source", type=int, help="source tokens where all have one length: 256, on a GPU 512")
    parser.add_argument("--target", type=int, help="target tokens: 64, on a GPU 128")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="contenders whose name has it")
    parser.add_argument("--peer-python", action="append", default=[], help="an interpreter that has peers installed")
    parser.add_argument("--repetitions", type=int, default=3, help="1 with --quick")
    parser.add_argument("--budget-s", type=float, default=360.0, help="no further repetition begins after this")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where weights are kept")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="where results are written")
    return parser


def _start(args: argparse.Namespace, shape: Shape, notes: dict[str, str]) -> list[Worker]:
    weights, pythons, workers = prepare(shape, args.cache), interpreters(args.peer_python), []
    for name in _chosen(args):
        requires = TRAINERS[name].requires
        if (python := choose(pythons, requires)) is None:
            notes[name] = f"not installed: {', '.join(min((one.lacks(requires) for one in pythons), key=len))}"
            continue
        worker = Worker(name, python, weights, args.threads)
        try:
            print(f"{name}: loaded in {worker.ready():.1f} s", flush=True)
        except WorkerFailed as error:
            notes[name] = str(error)
            worker.close()
            continue
        notes[name] = ", ".join(f"{one} {version}" for one, version in worker.versions.items())
        workers.append(worker)
    return workers


def _chosen(args: argparse.Namespace) -> list[str]:
    if args.only:
        return named(TRAINERS, args.only)
    # Compilation costs minutes on a CPU; float32 is not what a GPU is for.
    return [name for name in TRAINERS if ("fp32" if args.device == "cuda" else "compiled") not in name]


def _measure(worker: Worker, plan: Plan, table: str, rows: Sequence[Row], number: int, data: dict[str, Any]) -> bool:
    if table == "mixed" and "compiled" in worker.name:
        return True  # every length would be compiled anew
    time.sleep(_SETTLE_S)
    try:
        answer = worker.ask(do="train", rows=rows, batch=plan.batch, device=plan.device)
    except WorkerFailed as error:
        data["notes"][worker.name] = str(error)
        return False
    data["measurements"].append({"contender": worker.name, "table": table, "repetition": number, **answer})
    rate = data["work"][table]["tokens"] / answer["seconds"]
    print(
        f"{worker.name:28} {table}: {answer['steps']} steps, {answer['seconds']:7.2f} s, {rate:9,.0f} tokens/s",
        flush=True,
    )
    return True


def _padding(rows: Sequence[Row], batch: int) -> float:
    # Padding for each token, where every batch is as long as its longest source and its longest target.
    batches = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    padded = sum(len(one) * sum(max(map(len, side)) for side in zip(*one, strict=True)) for one in batches)
    return padded / sum(len(source) + len(target) for source, target in rows) - 1


def _work(shape: Shape, rows: Sequence[Row]) -> dict[str, float]:
    # Of what is asked for, padding not counted.
    from model.config import ModelConfig
    from training.loop.meter import forward_operations

    config = ModelConfig(
        vocab_size=shape.vocab_size,
        d_model=shape.d_model,
        num_heads=shape.num_heads,
        d_kv=shape.d_kv,
        d_ff=shape.d_ff,
        num_encoder_layers=shape.num_layers,
        num_decoder_layers=shape.num_layers,
        num_tokens=shape.num_pieces,
    )
    return {
        "tokens": sum(len(source) + len(target) for source, target in rows),
        "operations": sum(3 * forward_operations(config, len(source), len(target)) for source, target in rows),
    }


def _peaks(device: str, threads: int) -> dict[str, float]:
    import torch

    from training.loop.meter import peak_operations

    if device == "cuda":
        peak = peak_operations(torch.device(device))
        return {"bf16": peak} if peak else {}
    torch.set_num_threads(threads)
    return {"fp32": _product(torch.float32), "bf16": _product(torch.bfloat16)}


def _product(dtype: Any) -> float:
    import torch

    one, other = (torch.ones(2048, 2048, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):
        started_at = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - started_at)
    return 2 * 2048**3 / min(times)


def _seconds(data: dict[str, Any], name: str, table: str) -> list[float]:
    return [
        one["seconds"]
        for one in data["measurements"]
        if one["contender"] == name and one["table"] == table and one["repetition"]
    ]


def _cells(data: dict[str, Any], name: str, table: str) -> tuple[str, str]:
    if not (seconds := _seconds(data, name, table)):
        return "–", "–"
    work, spent = data["work"][table], median(seconds)
    peak = data["peaks"].get("bf16" if "bf16" in name else "fp32")
    return f"{work['tokens'] / spent:,.0f}", f"{work['operations'] / spent / peak:.0%}" if peak else "–"


def _ratio(data: dict[str, Any], ours: str, peer: str, table: str) -> str:
    own, its = _seconds(data, ours, table), _seconds(data, peer, table)
    return f"{median(its) / median(own):.2f}" if own and its else "–"


def _loss(data: dict[str, Any], name: str) -> str:
    first = [m["loss"] for m in data["measurements"] if m["contender"] == name and m["table"] == "equal"]
    return f"{first[0]:.3f}" if first else "–"


def _length(draw: random.Random, half: float, sigma: float, most: float) -> int:
    return min(int(most), max(8, round(half * draw.lognormvariate(0, sigma))))


def _ids(draw: random.Random, shape: Shape, length: int) -> list[int]:
    return [*(draw.randrange(3, shape.num_pieces) for _ in range(length - 1)), 1]


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is present: nothing was measured and no result was written", file=sys.stderr)
        raise SystemExit(NO_DEVICE)


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


if __name__ == "__main__":
    main()
