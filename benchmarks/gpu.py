"""The table for a CUDA device: decoding greedy and by beams, encoding, and `generate` of transformers beside.

    python -m benchmarks.gpu [--quick] [--dtype bfloat16] [--update-readme]

Needs torch, transformers, safetensors and sentencepiece, nothing of the service. Without a CUDA device it says so and
ends with exit code 3; `--device cpu --quick` proves that the rest works.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import ours, report
from benchmarks.weights import BASE, CACHE, SMOKE, Weights, prepare
from model.inference.decoding.batch import DecodingBatch
from model.inference.graphs import StepGraphs

NO_DEVICE = 3
_BATCHES = (1, 8, 32, 128)
_BEAMS = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a two-layer network and small batches")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--source-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=report.FOLDER)
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device is present: nothing was measured and no result was written", file=sys.stderr)
        raise SystemExit(NO_DEVICE)
    name = "gpu-quick" if args.quick else "gpu"
    device = torch.device(args.device)
    data: dict[str, Any] = {
        "facts": report.facts() | {"processor": _device_name(device)},
        "lengths": [args.source_tokens, args.new_tokens],
        "dtype": args.dtype,
        "tokens_per_s": {},
        "documents_per_s": {},
    }

    def keep(part: str, line: str, batch: int, rate: float) -> None:
        data[part].setdefault(line, {})[str(batch)] = rate
        report.save(name, data, markdown(data), args.output)
        print(f"{line:32} batch {batch:4}: {rate:10.1f} /s", flush=True)

    measure(prepare(SMOKE if args.quick else BASE, args.cache), device, args, keep)
    print(markdown(data))
    if args.update_readme:
        report.update_readme("gpu", markdown(data))


def measure(
    weights: Weights, device: torch.device, args: argparse.Namespace, keep: Callable[[str, str, int, float], None]
) -> None:
    """Every row, each given to `keep` as soon as it is known."""
    batches, new_tokens = (1, 2) if args.quick else _BATCHES, args.new_tokens
    backend = ours.load(weights.ours, device, args.dtype)
    graphs = StepGraphs(backend) if device.type == "cuda" else None
    decoding = DecodingBatch(backend, graphs)
    for beams in (1, _BEAMS):
        for batch in batches:
            texts = _sources(weights, batch, args.source_tokens)
            seconds = _seconds(
                partial(ours.generate, backend, texts, new_tokens, beams, decoding), device, args.repetitions
            )
            line = "ours, greedy" if beams == 1 else f"ours, {beams} beams"
            keep("tokens_per_s", line, batch, batch * new_tokens / seconds)
            if graphs is not None and not graphs.works:
                raise SystemExit("no CUDA graphs, so that this would be no measure of them; the log says why")
    for batch in batches:
        texts = _sources(weights, batch, args.source_tokens)
        seconds = _seconds(partial(ours.encode, backend, texts), device, args.repetitions)
        keep("documents_per_s", "ours, encoder", batch, batch / seconds)
    del backend, decoding
    theirs = _hugging_face(weights, device, args.dtype)
    texts = _sources(weights, 1, args.source_tokens)
    seconds = _seconds(partial(theirs, texts, new_tokens), device, args.repetitions)
    keep("tokens_per_s", "transformers generate, greedy", 1, new_tokens / seconds)


def markdown(data: dict[str, Any]) -> str:
    """Tokens and documents a second by batch, and how often `generate` fits into ours."""
    rows = {f"{line}, tokens/s": rates for line, rates in data["tokens_per_s"].items()}
    rows |= {f"{line}, documents/s": rates for line, rates in data["documents_per_s"].items()}
    batches = sorted({batch for rates in rows.values() for batch in rates}, key=int)
    lines = [[name, *(f"{rates[b]:,.0f}" if b in rates else "–" for b in batches)] for name, rates in rows.items()]
    greedy, other = (data["tokens_per_s"].get(f"{one}, greedy") for one in ("ours", "transformers generate"))
    ratio = f"Ours ÷ generate at batch 1: {greedy['1'] / other['1']:.1f}.\n" if greedy and other else ""
    source_tokens, new_tokens = data["lengths"]
    header = [f"{data['dtype']}, batch", *batches]
    return (
        f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\n"
        f"Sources of {source_tokens} tokens, {new_tokens} new tokens, encoding included; medians. {ratio}"
    )


def _sources(weights: Weights, batch: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(3, weights.shape.num_pieces, (batch, length - 1), generator=generator)
    return [[*row, 1] for row in ids.tolist()]


def _seconds(work: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """Median after a warm-up of two, in which what is compiled or captured is."""
    times = []
    for _ in range(repetitions + 2):
        started_at = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started_at)
    return median(times[2:])


def _hugging_face(weights: Weights, device: torch.device, dtype: str) -> Callable[[list[list[int]], int], object]:
    from transformers import T5ForConditionalGeneration

    model: Any = T5ForConditionalGeneration.from_pretrained(weights.published, dtype=getattr(torch, dtype)).to(device)

    def generate(sources: list[list[int]], num_new_tokens: int) -> object:
        ids = torch.tensor(sources, device=device)
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_new_tokens,
            min_new_tokens=num_new_tokens,
            do_sample=False,
        )

    return generate


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    main()
