"""Examples to batches of ids: tokenized once, bucketed by shape, shuffled by epoch, resumable at any batch.

Every batch of a bucket can have the same shape, so that a compiled model sees few; otherwise rows of like length come
together and a batch is as long as its longest row.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from model.tasks import Head
from model.tokenizer import Tokenizer
from model.transfer import send
from training.data.examples import Example
from training.errors import DataError

IGNORED = -100  # the label that `cross_entropy` leaves out


@dataclass(frozen=True)
class EncodedExample:
    """One tokenized example: source with its end token, target with its end token (empty without a summary).

    `labels` has by the name of a head the numbers of its labels, as far as they are known.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    labels: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Batch:
    """Tensors of one step; T is 0 when no row has a summary.

    `input_ids` (B, S), `encoder_mask` (B, S) bool, `decoder_input_ids` and `labels` (B, T), `counted` (N,) where in
    B · T there is a label. `heads` has what is known for each head that some row has labels of: (B, L) float with rows
    of -1 where unknown for several labels, (B,) for one. Unknown labels are `IGNORED`.
    """

    input_ids: Tensor
    encoder_mask: Tensor
    decoder_input_ids: Tensor
    labels: Tensor
    counted: Tensor  # found before it is on a device, which would have to be waited for
    heads: Mapping[str, Tensor]
    has_summaries: bool  # known without looking into tensors, which would wait for the device
    numbers: tuple[int, ...]  # of the rows among those of their stream

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`."""
        names = ("input_ids", "encoder_mask", "decoder_input_ids", "labels", "counted")
        tensors: dict[str, Any] = {name: send(getattr(self, name), device) for name in names}
        return replace(self, **tensors, heads={name: send(known, device) for name, known in self.heads.items()})


def encode_examples(
    examples: Sequence[Example], tokenizer: Tokenizer, prompt: str, max_source: int, max_target: int
) -> list[EncodedExample]:
    """Tokenize; sources and targets are cut to `max_source` and `max_target` tokens, end token included."""
    return [
        EncodedExample(
            source=tuple(tokenizer.encode_source(example.source, prompt, max_source)),
            target=() if example.summary is None else tuple(tokenizer.encode_source(example.summary, "", max_target)),
            labels=example.labels,
        )
        for example in examples
    ]


def collate(
    rows: Sequence[EncodedExample], numbers: Sequence[int], heads: Sequence[Head], shape: tuple[int, int]
) -> Batch:
    """The rows `numbers` of `rows`, padded or cut to `shape` (S, T)."""
    rows = [rows[number] for number in numbers]
    source, target = shape
    labels = _padded([r.target[:target] for r in rows], target, IGNORED)
    starts = _padded([(0, *r.target[: target - 1]) if r.target else () for r in rows], target, 0)
    input_ids = _padded([r.source[:source] for r in rows], source, 0)
    return Batch(
        input_ids=input_ids,
        encoder_mask=input_ids != 0,
        decoder_input_ids=starts,
        labels=labels,
        counted=(labels.flatten() != IGNORED).nonzero()[:, 0],
        heads={
            head.name: known_labels(head, [row.labels.get(head.name) for row in rows])
            for head in heads
            if any(head.name in row.labels for row in rows)
        },
        has_summaries=target > 0 and any(r.target for r in rows),
        numbers=tuple(numbers),
    )


def known_labels(head: Head, rows: Sequence[tuple[int, ...] | None]) -> Tensor:
    """The labels of each row (None: unknown) as `Batch.heads` has them."""
    if head.kind == "single_label":
        return torch.tensor([IGNORED if row is None else row[0] for row in rows])
    out = torch.full((len(rows), len(head.labels)), -1.0)
    for number, row in enumerate(rows):
        if row is not None:
            out[number] = 0.0
            out[number, list(row)] = 1.0
    return out


@dataclass
class Stream:
    """An endless sequence of batches over one group of examples.

    `buckets` are shapes (S, T) in growing order: a row goes to the first that holds it, the last one cuts it. A
    batch of a bucket has `tokens // (S + T)` rows. What does not fill a batch moves on to the next bucket and at
    last is completed from the epoch's own rows. Within a bucket `pool` batches' worth of rows at a time are sorted by
    length. A batch is cut to its longest source and target, rounded up to a `multiple`; with None it keeps the shape of
    its bucket. `epoch` and `position` are the whole state: the order of an epoch depends on `seed` and `epoch` alone.

    Raises:
        DataError: no rows, or a budget below one row of the largest bucket.
    """

    rows: Sequence[EncodedExample]
    buckets: Sequence[tuple[int, int]]
    tokens: int
    heads: Sequence[Head]
    seed: int
    pool: int = 1
    multiple: int | None = None
    epoch: int = 0
    position: int = 0
    _order: list[tuple[tuple[int, int], list[int]]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError("a group of training data is empty; check data.root and the group's readers")
        if self.tokens < sum(self.buckets[-1]):
            raise DataError(
                f"a batch of {self.tokens} tokens cannot hold one row of {self.buckets[-1]}; raise the group's tokens"
            )

    def next(self) -> Batch:
        """The batch at `position`, which moves on by one."""
        shape, numbers = self.skip()
        if self.multiple:
            rows = [self.rows[number] for number in numbers]
            longest = max(len(row.source) for row in rows), max(len(row.target) for row in rows)
            source, target = (
                min(most, -(-length // self.multiple) * self.multiple)
                for most, length in zip(shape, longest, strict=True)
            )
            shape = source, target
        return collate(self.rows, numbers, self.heads, shape)

    def skip(self) -> tuple[tuple[int, int], list[int]]:
        """Move on by one; returns the shape and the row numbers of the batch that was passed."""
        if not self._order:
            self._order = self._shuffled()
        passed = self._order[self.position]
        self.position += 1
        if self.position == len(self._order):
            self.epoch, self.position, self._order = self.epoch + 1, 0, []
        return passed

    def batches_per_epoch(self) -> int:
        """How many batches the epoch that it is in has; every epoch has as many."""
        return len(self._order or self._shuffled())

    def seek(self, epoch: int, position: int) -> None:
        """Go to a batch."""
        self.epoch, self.position, self._order = epoch, position, []

    def digest(self) -> str:
        """A hash of the rows: another one means that the same places hold other batches."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr(row).encode())
        return digest.hexdigest()

    def _shuffled(self) -> list[tuple[tuple[int, int], list[int]]]:
        rng = random.Random(f"{self.seed}:{self.epoch}")
        numbers = list(range(len(self.rows)))
        rng.shuffle(numbers)
        waiting: dict[tuple[int, int], list[int]] = {shape: [] for shape in self.buckets}
        for number in numbers:
            waiting[self._bucket(self.rows[number])].append(number)
        batches: list[tuple[tuple[int, int], list[int]]] = []
        carried: list[int] = []
        for shape in self.buckets:
            queue = carried + waiting[shape]
            size = self.tokens // sum(shape)
            full = len(queue) - len(queue) % size
            if self.pool > 1:
                queue = self._sorted(queue[:full], self.pool * size) + queue[full:]
            batches += [(shape, queue[start : start + size]) for start in range(0, full, size)]
            carried = queue[full:]
        if carried:
            fill = size - len(carried)
            batches.append((shape, carried + [numbers[i % len(numbers)] for i in range(fill)]))
        rng.shuffle(batches)
        return batches

    def _sorted(self, numbers: list[int], pool: int) -> list[int]:
        def length(number: int) -> tuple[int, int]:
            return len(self.rows[number].source), len(self.rows[number].target)

        pools = [numbers[start : start + pool] for start in range(0, len(numbers), pool)]
        return [number for one in pools for number in sorted(one, key=length)]

    def _bucket(self, row: EncodedExample) -> tuple[int, int]:
        for source, target in self.buckets[:-1]:
            if len(row.source) <= source and len(row.target) <= target:
                return source, target
        return self.buckets[-1]


def _padded(rows: Sequence[Sequence[int]], length: int, fill: int) -> Tensor:
    out = torch.full((len(rows), length), fill, dtype=torch.int64)
    for number, row in enumerate(rows):
        out[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return out
