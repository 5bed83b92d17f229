"""`python -m training.evaluate CHECKPOINT --data ROOT`: a checkpoint's scores as a report, and its card from them."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from model.choices import PRECISIONS
from model.devices import device_named
from model.errors import DeviceError, ModelError
from model.inference.decoding.options import DecodingOptions
from model.storage.checkpoint import LoadedCheckpoint, checkpoint_name, load_checkpoint, load_served
from model.storage.saving import describe_checkpoint
from training.data.examples import HEAD_DATA
from training.data.own import FOLDER
from training.data.terms import terms_of_use
from training.errors import TrainingError
from training.evaluation.bertscore import BertScore
from training.evaluation.card import model_card
from training.evaluation.predict import Predictor
from training.evaluation.report import comparison, comparison_markdown, to_json, to_markdown
from training.evaluation.result import Result, evaluate, fitted, read_split, tasks_of
from training.plots.results import draw


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (TrainingError, ModelError) as error:
        sys.exit(f"error: {error}")


def _run(options: argparse.Namespace) -> None:
    bertscore = BertScore(options.bertscore, options.device) if options.bertscore else None
    checkpoint, result = _evaluate(options.checkpoint, options, bertscore)
    report = {
        "checkpoint": checkpoint.name,
        "weights": checkpoint.manifest["files"]["model.safetensors"],
        "decoding": {
            "num_beams": options.num_beams,
            "max_new_tokens": options.max_new_tokens,
            **({"grounded": True} if options.grounded else {}),
        },
        "data": _hashes(options.data, options.split),
        **({"bertscore": bertscore.facts} if bertscore else {}),
        **to_json(result),
    }
    page = f"# {report['checkpoint']} on {options.split}\n\n{to_markdown(result)}"
    if options.against:
        differences = comparison(result, _evaluate(options.against, options, bertscore)[1])
        report["against"] = {"checkpoint": checkpoint_name(options.against), "differences": differences}
        page += "\n" + comparison_markdown(differences)
    folder = options.output or Path("runs/evaluation") / f"{report['checkpoint']}-{options.split}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    figures = [f"![{shown}]({path.name})\n" for shown, path in draw(result, folder, report["checkpoint"]).items()]
    (folder / "report.md").write_text("\n".join([page, "## Figures\n", *figures]), encoding="utf-8")
    print(page)  # noqa: T201
    if options.card:
        _describe(checkpoint, result, report)
    print(f"written to {folder}" + (f", card of {checkpoint.folder}" if options.card else ""))  # noqa: T201


def _evaluate(
    folder: Path, options: argparse.Namespace, bertscore: BertScore | None
) -> tuple[LoadedCheckpoint, Result]:
    checkpoint = load_checkpoint(folder, options.device)
    # Loaded once more, since what answers as the server does has no parameters for the card to count.
    served = load_served(folder, options.device, options.dtype)
    predictor = Predictor(served.backend, checkpoint.tokenizer, checkpoint.tasks)
    decoding = DecodingOptions(
        num_beams=options.num_beams, max_new_tokens=options.max_new_tokens, grounded=options.grounded
    )
    split = read_split(options.data, options.split, checkpoint.tasks, tasks_of(options.data))

    def say(line: str) -> None:
        print(f"{checkpoint_name(folder)} {line}", file=sys.stderr, flush=True)  # noqa: T201

    return checkpoint, evaluate(predictor, split, options.rows, decoding, bertscore, say, bounds=True)


def _describe(checkpoint: LoadedCheckpoint, result: Result, report: dict[str, Any]) -> None:
    tasks = fitted(checkpoint.tasks, result)
    name = report["checkpoint"]
    card = model_card(name, checkpoint.model, checkpoint.manifest, result)
    kept = {key: value for key, value in report.items() if key not in ("samples", "against")}
    describe_checkpoint(
        checkpoint.folder, tasks, card=card, facts={"evaluation": kept, "terms": terms_of_use(checkpoint.manifest)}
    )


def _hashes(root: Path, split: str) -> dict[str, str]:
    built_in = ["summarization", *(data.folder for data in HEAD_DATA.values())]
    folders = [*(root / name for name in built_in), *sorted((root / FOLDER).glob("*"))]
    paths = [folder / f"{split}.jsonl.gz" for folder in folders]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()
    }


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least 1")
    return int(text)


def _device(text: str) -> torch.device:
    try:
        return device_named(text)
    except DeviceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the folder to score")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="data folder (training/README.md)")
    parser.add_argument("--split", default="dev", help="which split (dev)")
    parser.add_argument("--rows", type=_positive, default=500, help="summaries of each source, the first ones (500)")
    parser.add_argument("--num-beams", type=_positive, default=1, help="beam width (1: greedy)")
    parser.add_argument(
        "--max-new-tokens",
        type=_positive,
        default=DecodingOptions().max_new_tokens,
        help="longest summary (%(default)s)",
    )
    parser.add_argument("--grounded", action="store_true", help="no name or number that the text does not have")
    parser.add_argument("--device", type=_device, default="cpu", help="auto, cpu, cuda, cuda:1, … (cpu)")
    parser.add_argument(
        "--dtype", default="float32", choices=PRECISIONS, help="float32, bfloat16, or int8 on a CPU (float32)"
    )
    parser.add_argument("--against", type=Path, metavar="OTHER", help="a second checkpoint, compared row by row")
    parser.add_argument(
        "--bertscore", type=Path, metavar="MODEL", help="folder of a BERT-like encoder: adds BERTScore to summaries"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="runs/evaluation/CHECKPOINT-SPLIT if not given")
    parser.add_argument(
        "--card",
        action="store_true",
        help="write MODEL_CARD.md, the scores and the fitted thresholds and temperatures into the checkpoint",
    )
    return parser


if __name__ == "__main__":
    main()
