"""Small data and short runs in this process, as the command would start them."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module

from training.config import parse_config
from training.distributed.processes import Processes
from training.loop.state import load_state
from training.loop.trainer import Trainer
from training.run import build_run

_WHO = ("council", "company", "captain", "astronomer", "bank", "library")
_WHAT = ("a new bridge", "record profits", "the final match", "water on a planet", "higher rates", "longer hours")
_EMOTIONS = (["joy"], ["anger"], ["neutral"], ["joy", "love"], ["sadness"])
_TOPICS = ("World", "Sports", "Business", "Sci/Tech")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """`rows` as a `.jsonl.gz` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_data(root: Path, num_rows: int = 24) -> Path:
    """A data folder with `num_rows` rows a task and split."""
    for split, shift in (("train", 0), ("dev", 1)):
        phrases = [
            (_WHO[(n + shift) % 6], _WHAT[(n // 2 + shift) % 6], n)  # rows differ, words repeat
            for n in range(num_rows)
        ]
        write_jsonl(
            root / "summarization" / f"{split}.jsonl.gz",
            (
                {
                    "document": f"The {who} spoke about {what} on day {n}. Nobody had expected it. More will follow.",
                    "summary": f"The {who} spoke about {what}.",
                    "source": ("dialogsum", "cnn_dailymail")[n % 2],
                }
                for who, what, n in phrases
            ),
        )
        write_jsonl(
            root / "emotion" / f"{split}.jsonl.gz",
            ({"text": f"I feel so about {what} {n}", "labels": _EMOTIONS[n % 5]} for _, what, n in phrases),
        )
        write_jsonl(
            root / "topic" / f"{split}.jsonl.gz",
            (
                {
                    "title": f"{who.title()} and {what}",
                    "description": f"The {who} said on Monday that {what} would come on day {n} of the year at last.",
                    "label": _TOPICS[n % 4],
                }
                for who, what, n in phrases
            ),
        )
    return root


SMALL = (
    "model=small",
    "model.d_model=32",
    "model.d_ff=48",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "model.num_positions=64",
    "model.vocab_size=370",
    "model.num_tokens=370",
    "data.max_source_tokens=64",
    "data.max_target_tokens=32",
    "data.groups.summaries.buckets=[[64,32]]",
    "data.groups.summaries.tokens=768",
    "data.groups.topics.tokens=512",
    "data.groups.emotions.tokens=256",
    "schedule.warmup_steps=2",
    "loop.steps=6",
    "loop.log_every=2",
    "loop.save_every=1",
    "loop.evaluate_every=4",
    "loop.evaluate_rows=2",
    "loop.device=cpu",
    "tracking.enabled=false",
)


def composed(data: Path, output: Path, *overrides: str) -> Any:
    """The configuration of a small run."""
    with initialize_config_module("training.configs", version_base=None):
        return compose("train", [*SMALL, f"data.root={data}", f"output={output}", *overrides])


def trainer(
    data: Path,
    output: Path,
    *overrides: str,
    processes: Processes | None = None,
    command: str = "python -m training.train",
) -> Trainer:
    """A run, built."""
    config = parse_config(composed(data, output, *overrides))
    run = build_run(config, [command], processes or Processes(), torch.device("cpu"))
    if config.resume_from:
        run.resume(Path(config.resume_from))
    run.tracker.start("test", [], run.step, None)
    return run


def equal(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and plain values are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def state(folder: Path) -> dict[str, Any]:
    """What a run has saved, but for the commands, which differ when it was resumed."""
    saved = load_state(folder)
    del saved["commands"]
    return saved
