"""Whether the parts of a checkpoint belong together: tensors, labels and vocabulary, each against the architecture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from model.config import ModelConfig
from model.errors import CheckpointError
from model.tasks import Tasks
from model.tokenizer import Tokenizer

_LISTED_PROBLEMS = 100


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str, config: str
) -> None:
    """Refuse tensors, by name and shape, that are not those that `config` asks for; `source` is where they are.

    Raises:
        CheckpointError: names every missing, unexpected and misshapen tensor; a part is never loaded.
    """
    problems = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has shape {found[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if problems:
        raise CheckpointError(f"{source}: the weights do not fit {config}: {listed(problems)}")


def check_fit(folder: Path, config: ModelConfig, tokenizer: Tokenizer, tasks: Tasks) -> None:
    """Refuse heads and a vocabulary that `config` has no room for.

    Raises:
        CheckpointError: says what does not fit.
    """
    labels = {head.name: len(head.labels) for head in tasks.heads}
    for name in {**labels, **config.heads}:
        if labels.get(name, 0) != config.heads.get(name, 0):
            raise CheckpointError(
                f"{folder}: tasks.json names {labels.get(name, 0)} {name} labels, the head has "
                f"{config.heads.get(name, 0)}"
            )
    if tokenizer.num_pieces > config.num_tokens:
        raise CheckpointError(
            f"{folder}: spiece.model has {tokenizer.num_pieces} pieces, the model knows {config.num_tokens} tokens"
        )


def listed(problems: Sequence[str]) -> str:
    """`problems` as one line, which ends after as many as anyone would read."""
    further = len(problems) - _LISTED_PROBLEMS
    return "; ".join(problems[:_LISTED_PROBLEMS]) + (f"; and {further} more" if further > 0 else "")
