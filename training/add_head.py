"""`python -m training.add_head CHECKPOINT NAME --data ROOT --output FOLDER`: one more head on a network that stays.

The encoder reads every text once, and what it made of them is kept in `runs/encodings` for the next trial. What is
learned is one linear layer on the mean states, which is a convex problem: L-BFGS solves it in seconds, with the penalty
that does best on a fifth of the train rows. All other weights and answers stay as they are.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import ModelError
from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from model.network.heads import head_tensors
from model.network.leximind import LexiMind, from_tensors
from model.storage.checkpoint import Checkpoint, default_precision, load_checkpoint, load_served
from model.storage.saving import save_checkpoint
from model.storage.stored_weights import StoredWeights
from model.tasks import Head, Tasks
from training.data.batches import known_labels
from training.data.examples import Example
from training.data.own import FOLDER, own_heads
from training.data.terms import terms_of_use
from training.errors import TrainingError
from training.evaluation.calibration import Logits
from training.evaluation.card import model_card
from training.evaluation.predict import Predictor
from training.evaluation.report import to_markdown
from training.evaluation.result import evaluate, fitted, read_split
from training.optimization.losses import LossConfig, head_loss, label_weights

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the squared weights, features scaled to a deviation of 1
_HELD_OUT = 5  # every fifth train row chooses among them
_ITERATIONS = 100


@dataclass(frozen=True)
class _Rows:
    """Features (N, D) and labels as `Batch.heads` has them."""

    features: Tensor
    labels: Tensor

    def __getitem__(self, chosen: Tensor) -> "_Rows":
        return _Rows(self.features[chosen], self.labels[chosen])


@dataclass(frozen=True)
class _FixedLogits(Predictor):
    """The logits of one head for the texts of dev, from their states."""

    logits: Logits

    def classify(self, head: str, texts: Sequence[str]) -> Logits:
        del head, texts
        return self.logits


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        print(add_head(options, arguments))  # noqa: T201
    except (TrainingError, ModelError) as error:
        sys.exit(f"error: {error}")


def add_head(options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Learn, score on dev and save; returns what the command prints.

    Raises:
        TrainingError, ModelError: a checkpoint, name or data that do not fit, before anything is computed.
    """
    if options.output.exists():
        raise TrainingError(f"{options.output} exists; name a new folder")
    checkpoint = load_checkpoint(options.checkpoint, torch.device("cpu"))
    [head] = own_heads(options.data, [options.name], checkpoint.tasks.prompt, checkpoint)
    split = read_split(options.data, "dev", Tasks(heads=(head,)), {head.name})
    train, loss = split.train[head.name], LossConfig(1.0, {}, {}, 0.0, options.positive_power, 0.0, 0.0, 0.0)
    features = _features(checkpoint, head, train, options.encodings)
    dev = _features(checkpoint, head, split.heads[head.name], options.encodings)
    known = [example.labels[head.name] for example in train]
    weight, bias, iterations = _learn(head, _Rows(features, known_labels(head, known)), known, loss)
    stored = _dtype(checkpoint.folder)
    weight, bias = weight.to(stored).float(), bias.to(stored).float()
    others = tuple(one for one in checkpoint.tasks.heads if one.name != head.name)
    tasks = replace(checkpoint.tasks, heads=(*others, head))
    model = _with_head(checkpoint.model, tasks, head.name, weight, bias)
    predictor = _FixedLogits(TorchBackend(model), checkpoint.tokenizer, tasks, (dev @ weight.T + bias).numpy())
    result = evaluate(predictor, split, 1, DecodingOptions())
    facts = _facts(options, arguments, checkpoint, train, iterations)
    card = model_card(options.output.name, model, facts, result)
    spiece = checkpoint.folder / "spiece.model"
    save_checkpoint(options.output, model, spiece, fitted(tasks, result), card=card, facts=facts, dtype=stored)
    return f"{to_markdown(result)}\n{options.output}: serve it with leximind serve --checkpoint {options.output}"


def _features(checkpoint: Checkpoint, head: Head, examples: Sequence[Example], folder: Path) -> Tensor:
    """The mean state of each text as it is served, (N, D), read where it was made before."""
    texts = [example.source for example in examples]
    made_of = (checkpoint.manifest["files"], head.prompt, checkpoint.tasks.max_source_tokens, texts)
    path = folder / f"{hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]}.safetensors"
    if path.is_file():
        return load_file(path)["features"]
    # As the server has it by default: several times as fast as the modules that can be trained.
    device = torch.device("cpu")
    served = load_served(checkpoint.folder, device, default_precision(device)).backend
    tasks = replace(checkpoint.tasks, heads=(head,))
    features = Predictor(served, checkpoint.tokenizer, tasks).mean_states(head.name, texts)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"features": features}, path)
    return features


def _learn(head: Head, rows: _Rows, known: Sequence[tuple[int, ...]], loss: LossConfig) -> tuple[Tensor, Tensor, int]:
    """Weight (L, D) and bias (L,) of the layer, and how many iterations made them."""
    mean, deviation = rows.features.mean(0), rows.features.std(0).clamp(min=1e-6)
    scaled = _Rows((rows.features - mean) / deviation, rows.labels)
    weights = label_weights(known, head, loss.positive_power)
    is_held_out = torch.arange(len(known)) % _HELD_OUT == 0
    learned, held_out = scaled[~is_held_out], scaled[is_held_out]

    def left(penalty: float) -> float:
        weight, bias, _ = _solve(head, learned, weights, loss, penalty)
        return float(head_loss(held_out.features @ weight.T + bias, held_out.labels, head.kind, weights, loss))

    penalty = min(_PENALTIES, key=left) if len(learned.labels) else _PENALTIES[-1]
    weight, bias, iterations = _solve(head, scaled, weights, loss, penalty)
    weight = weight / deviation
    return weight, bias - weight @ mean, iterations


def _solve(head: Head, rows: _Rows, weights: Tensor, loss: LossConfig, penalty: float) -> tuple[Tensor, Tensor, int]:
    weight = torch.zeros(len(head.labels), rows.features.shape[1], requires_grad=True)
    bias = torch.zeros(len(head.labels), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        logits = rows.features @ weight.T + bias
        total = head_loss(logits, rows.labels, head.kind, weights, loss) + penalty * weight.square().sum()
        total.backward()
        return total.item()

    optimizer.step(closure)
    iterations = int(optimizer.state[weight]["n_iter"])
    return weight.detach(), bias.detach(), iterations


def _with_head(source: LexiMind, tasks: Tasks, name: str, weight: Tensor, bias: Tensor) -> LexiMind:
    heads = {head.name: len(head.labels) for head in tasks.heads}
    config = replace(source.config, heads=heads)
    return from_tensors(config, {**source.state_dict(), **dict(zip(head_tensors(name), (weight, bias), strict=True))})


def _dtype(folder: Path) -> torch.dtype:
    """What the weights are stored in; of several the widest, so that none of them changes."""
    weights = StoredWeights([folder / "model.safetensors"])
    return next(
        (d for d in (torch.float32, torch.float16) if any(t.dtype == d for t in weights.values())), torch.bfloat16
    )


def _facts(
    options: argparse.Namespace, arguments: Sequence[str], source: Checkpoint, train: Sequence[Example], iterations: int
) -> dict[str, Any]:
    known: Mapping[str, Any] = {
        key: source.manifest[key] for key in ("training", "imported_from", "terms") if key in source.manifest
    }
    folder = options.data / FOLDER / options.name
    facts = {
        "training": {
            "command": ["python -m training.add_head", *arguments],
            "step": iterations,
            "started_from": {"checkpoint": source.name, **known},
        },
        "data": {
            "origins": {**source.manifest.get("data", {}).get("origins", {}), f"{FOLDER}/{options.name}": len(train)},
            "files": {
                str(path.relative_to(options.data)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.glob("*.jsonl.gz"))
            },
        },
    }
    return {**facts, "terms": terms_of_use(facts)}


def _power(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0 to 10")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.add_head", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the folder to start from; it stays")
    parser.add_argument("name", metavar="NAME", help="the head's name, that of its folder in ROOT/heads")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="data folder (training/README.md)")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="the checkpoint to write")
    parser.add_argument(
        "--positive-power",
        type=_power,
        default=0.0,
        help="weight of rare labels, as loss.positive_power (0: all equal)",
    )
    parser.add_argument(
        "--encodings",
        type=Path,
        default=Path("runs/encodings"),
        metavar="FOLDER",
        help="where they are kept (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
