"""What drafts from the source are worth: the bundled model's summaries with and without them, encoding included.

    python -m benchmarks.drafts --data FOLDER [--dtype int8]… [--documents 40] [--threads 2] [--processor-time]

FOLDER has `summarization/dev.jsonl.gz` as `training.evaluate` reads it. Each group of documents is answered both ways
in turn, and both must give the same. A row more has its drafts from another document's source: what drafts cost where
nothing is copied from them. `--processor-time` counts a single thread's own time in place of the clock's, for a machine
that others work on as well: with it the policy sees that time too.
"""

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import ours, report
from model.choices import BUNDLED
from model.inference.decoding.batch import DecodingBatch
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.storage.checkpoint import ServedCheckpoint, load_served
from model.tasks import SUMMARIZE

KINDS = {"news": "cnn_dailymail", "abstracts": "scitldr_abstract", "dialogues": "dialogsum"}
ELSEWHERE = "news, drafts from another text"
TOGETHER = (1, 8)
WARM_UP = 4  # documents of each kind


@dataclass
class Count:
    """Of all documents of a row."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    drafted: int = 0
    right: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every row, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dtype", action="append", help="[default: int8 bfloat16 float32]")
    parser.add_argument("--documents", type=int, default=40, help="of each kind")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--processor-time", action="store_true", help="of one thread")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--output", type=Path, default=report.FOLDER)
    args = parser.parse_args(argv)
    torch.set_num_threads(1 if args.processor_time else args.threads)
    clock = time.thread_time if args.processor_time else time.perf_counter
    texts = read(args.data, args.documents + WARM_UP)
    rows = []
    for dtype in args.dtype or ("int8", "bfloat16", "float32"):
        checkpoint = load_served(BUNDLED, torch.device("cpu"), dtype)
        cases = [(name, name, together, 0) for name in texts for together in TOGETHER] + [(ELSEWHERE, "news", 1, 7)]
        for name, kind, together, moved in cases:
            row = {"dtype": dtype, "text": name, "together": together}
            rows.append(row | compare(checkpoint, texts[kind], together, clock, moved))
    data = {"facts": report.facts(), "processor_time": args.processor_time, "rows": rows}
    report.save("drafts", data, markdown(data), args.output)
    print(markdown(data))
    if args.update_readme:
        report.update_readme("drafts", markdown(data))


def read(folder: Path, count: int) -> dict[str, list[str]]:
    """The first documents of each kind."""
    with gzip.open(folder / "summarization" / "dev.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return {
        name: [one["document"] for one in found if one["source"] == source][:count] for name, source in KINDS.items()
    }


def compare(
    checkpoint: ServedCheckpoint, texts: Sequence[str], together: int, clock: Callable[[], float], moved: int = 0
) -> dict[str, Any]:
    """Seconds and steps without and with drafts, whose sources are those of `moved` documents before."""
    prompt, longest = checkpoint.tasks.prompts[SUMMARIZE], checkpoint.tasks.max_source_tokens
    sources = [checkpoint.tokenizer.encode_source(text, prompt, longest) for text in texts]
    batches = {drafts: DecodingBatch(checkpoint.backend, drafts=drafts, clock=clock) for drafts in (False, True)}
    counts = {drafts: Count() for drafts in batches}
    for start in range(0, len(sources), together):
        chosen = range(start, min(start + together, len(sources)))
        results = []
        for drafts, batch in batches.items():
            known = [sources[number - moved] for number in chosen]
            result, count = answer(checkpoint, batch, [sources[number] for number in chosen], known, clock)
            results.append(result)
            if start >= WARM_UP:
                total = counts[drafts]
                for field, value in vars(count).items():
                    setattr(total, field, getattr(total, field) + value)
        if results[0] != results[1]:
            raise SystemExit(f"drafts changed a result among documents {list(chosen)}")
    return {"plain": vars(counts[False]), "drafts": vars(counts[True])}


def answer(
    checkpoint: ServedCheckpoint,
    batch: DecodingBatch,
    sources: Sequence[Sequence[int]],
    known: Sequence[Sequence[int]],
    clock: Callable[[], float],
) -> tuple[dict[int, DecodingResult], Count]:
    """Results of `sources` together, and what they took."""
    count, results = Count(), {}
    started_at = clock()
    encoder_states, mask = ours.encode(checkpoint.backend, sources)
    batch.add(range(len(sources)), encoder_states, mask, [DecodingOptions()] * len(sources), known)
    while batch.num_rows:
        for step in batch.step():
            count.tokens += len(step.token_ids)
            if step.result is not None:
                results[step.key] = step.result
        count.steps += 1
        count.drafted += batch.num_drafted
        count.right += batch.num_accepted
    count.seconds = clock() - started_at
    return results, count


def markdown(data: dict[str, Any]) -> str:
    """The table, a row for each kind of text, number format and number of documents together."""
    header = [
        "format, text",
        "together",
        "tokens/s plain",
        "with drafts",
        "ratio",
        "steps ÷",
        "drafted a step",
        "right",
    ]
    lines = []
    for row in data["rows"]:
        plain, drafts = row["plain"], row["drafts"]
        lines.append(
            [
                f"{row['dtype']}, {row['text']}",
                str(row["together"]),
                f"{plain['tokens'] / plain['seconds']:.0f}",
                f"{drafts['tokens'] / drafts['seconds']:.0f}",
                f"**{plain['seconds'] / drafts['seconds']:.2f}**",
                f"{plain['steps'] / drafts['steps']:.2f}",
                f"{drafts['drafted'] / drafts['steps']:.1f}",
                f"{drafts['right'] / max(drafts['drafted'], 1):.0%}",
            ]
        )
    time_of = "one thread's processor time" if data["processor_time"] else "the clock's time"
    return f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\nBy {time_of}, encoding included.\n"


if __name__ == "__main__":
    main()
