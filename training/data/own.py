"""Heads of one's own: `heads/NAME/` in the data folder, whose labels are those of its train rows. No tokenizer.

A row has a `text` and either its one `label` or a list of `labels`, which may be empty; the first row of train says
which, and so the kind of the head.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from model.network.heads import check_module_name
from model.storage.checkpoint import Checkpoint
from model.tasks import BUILT_IN, Head, HeadKind, check_head_name
from training.data.examples import Example, rows
from training.data.readers import READERS
from training.errors import DataError, TrainingError

FOLDER = "heads"
_COLUMN: dict[HeadKind, str] = {"single_label": "label", "multi_label": "labels"}
_MOST_SHOWN = 20


def own_heads(root: Path, names: Collection[str], prompt: str, source: Checkpoint | None) -> tuple[Head, ...]:
    """The heads called `names`, with the labels of their train rows in alphabetical order.

    One that `source` has is taken as it is there. Thresholds are .5 until they are tuned.

    Raises:
        DataError: a file is missing, a row is wrong, dev has labels that train lacks, or there is one label only.
        TrainingError, ModelError: a name that no head can have, or that `source` has with other labels.
    """
    heads = []
    for name in names:
        check_head_name(name)
        check_module_name(name)
        if name in BUILT_IN or name in READERS:
            raise TrainingError(f"data.heads: {name} is built in, with data of its own; name yours otherwise")
        heads.append(_own_head(root, name, prompt, source))
    return tuple(heads)


def read_own(root: Path, head: Head, split: str) -> list[Example]:
    """The rows of `head` in a split.

    Raises:
        DataError: a row is wrong or has a label that the head lacks; names it.
    """
    numbers = {label: number for number, label in enumerate(head.labels)}
    examples = []
    for text, labels, where in _rows(root, head.name, split, head.kind):
        for label in labels:
            if label not in numbers:
                raise DataError(
                    f"{where}: label {label!r} is none of the head's, which are those of its train rows: "
                    f"{_shown(head.labels)}; add train rows with it or correct the row"
                )
        found = tuple(sorted({numbers[label] for label in labels}))
        examples.append(Example(text, f"{FOLDER}/{head.name}", labels={head.name: found}))
    return examples


def _own_head(root: Path, name: str, prompt: str, source: Checkpoint | None) -> Head:
    kind = _kind(root, name)
    labels = tuple(sorted({label for _, found, _ in _rows(root, name, "train", kind) for label in found}))
    if len(labels) < 2:
        raise DataError(
            f"{_path(root, name, 'train')}: its rows have {len(labels)} labels ({_shown(labels) or 'none'}); a head "
            "needs 2 or more"
        )
    head = Head(name, kind, labels, (0.5,) * len(labels) if kind == "multi_label" else (), prompt=prompt)
    if source and source.tasks.has(name):
        there = source.tasks.head(name)
        if (there.kind, there.labels) != (kind, labels):
            raise TrainingError(
                f"{source.folder} has a head {name} of other labels: {there.kind}, {_shown(there.labels)}; "
                f"the data have {kind}, {_shown(labels)}. Name yours otherwise"
            )
        head = there
    read_own(root, head, "dev")
    return head


def _kind(root: Path, name: str) -> HeadKind:
    path = _path(root, name, "train")
    for row, where in rows(path, "text"):
        kinds = [kind for kind, column in _COLUMN.items() if column in row]
        if len(kinds) != 1:
            raise DataError(
                f"{where}: the row has {'both' if kinds else 'neither'} label and labels; give it one of them"
            )
        return kinds[0]
    raise DataError(f"{path}: has no rows")


def _rows(root: Path, name: str, split: str, kind: HeadKind) -> Iterator[tuple[str, list[str], str]]:
    """Text, labels and place of each row."""
    column = _COLUMN[kind]
    for row, where in rows(_path(root, name, split), "text", column):
        yield row["text"], row[column] if kind == "multi_label" else [row[column]], where


def _path(root: Path, name: str, split: str) -> Path:
    return root / FOLDER / name / f"{split}.jsonl.gz"


def _shown(labels: Collection[str]) -> str:
    first = ", ".join(list(labels)[:_MOST_SHOWN])
    return first if len(labels) <= _MOST_SHOWN else f"{first} … ({len(labels)})"
