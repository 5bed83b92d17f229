"""The decoder's memory: keys and values of the documents in flight with one beam width, in preallocated arrays.

Passed in, never hidden in a module. Documents are dense, 0 to `num_documents`; a document that leaves is replaced
by the last one, so a step reads contiguous slices and never a finished row. Beams that change places do not move their
keys: `lineage` remembers which beam of the document wrote each of a row's keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig

_ROUND = 64  # capacities of the source and target axes are multiples of this, so that they seldom grow


@dataclass(frozen=True)
class StepTokens:
    """Which document each token of a step is of, where documents have several: the newest and those proposed behind it.

    `documents` (R,) and `offsets` (R,) behind the newest one; `ends` (C,) one past each document's last token.
    """

    documents: Tensor
    offsets: Tensor
    ends: Tensor

    @staticmethod
    def of(counts: Sequence[int]) -> "StepTokens":
        """`counts` of tokens, for each document one or more."""
        sizes = torch.tensor(counts)
        ends = sizes.cumsum(0)
        documents = torch.arange(len(counts)).repeat_interleave(sizes)
        return StepTokens(documents, torch.arange(len(documents)) - (ends - sizes)[documents], ends)


@dataclass(frozen=True)
class SourceLayout:
    """How the source's keys and values lie: arrays (L, documents, rows, source, numbers) of `dtype`.

    `keys` and `values` are each a document's rows and their numbers a position. `block` positions lie together: what a
    slice of fewer holds, a backend alone knows.
    """

    dtype: torch.dtype
    keys: tuple[int, int]
    values: tuple[int, int]
    block: int = 1

    def stored(self, length: int) -> int:
        """Positions of the array that hold `length` tokens."""
        return -(-length // self.block) * self.block

    @property
    def position_bytes(self) -> int:
        """What a source token takes in one layer."""
        return (self.keys[0] * self.keys[1] + self.values[0] * self.values[1]) * self.dtype.itemsize


class KVCache:
    """Self- and cross-attention keys and values.

    `window`, (documents, source, target), makes a step work on that much whatever is in use, in shapes that stay the
    same: rows that no document has compute what nobody reads. None: exactly what is in use.

    Self: (L, documents·N, H, target, K), one row a beam. Cross: (L, documents, H, source, K), shared by the beams of a
    document, or in another `layout`, which the native step alone reads. Sizes are capacities; `reserve` enlarges them,
    `append` and `source` return what is in use.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_beams: int,
        device: torch.device,
        dtype: torch.dtype,
        layout: SourceLayout | None = None,
        zeros: Callable[..., Tensor] = torch.zeros,
    ) -> None:
        """`zeros` makes the arrays, with the arguments of `torch.zeros`."""
        self.num_beams = num_beams
        self.num_documents = 0
        self.window: tuple[int, int, int] | None = None
        self.step_tokens: StepTokens | None = None  # of the coming step; None: one a row
        self.generation = 0  # of the arrays: goes up when they are replaced
        self._num_layers = config.num_decoder_layers
        self._row = (config.num_heads, config.d_kv)
        self.dtype = dtype
        self.layout = layout or SourceLayout(dtype, keys=self._row, values=self._row)
        self._device = device
        self._zeros = zeros
        self.self_keys = self.self_values = self._array(dtype, 0, self._row, 0)
        self.cross_keys = self._array(self.layout.dtype, 0, self.layout.keys, 0)
        self.cross_values = self._array(self.layout.dtype, 0, self.layout.values, 0)
        self.additive_mask = torch.empty(0, 0, device=device)  # (documents, source), float32, -inf at padding
        self.positions = torch.empty(0, dtype=torch.int64, device=device)  # (documents·N,) of the token to come
        self.lineage = torch.empty(0, 0, dtype=torch.int32, device=device)  # (documents·N, target), beam numbers
        self.source_ends = self.positions  # (documents,), one past each source's last token
        self._places = self.positions  # (R·H,) of the coming token in one layer's keys, by `begin_step`
        self._held: Tensor | None = None  # (R, H, T) of what each row reads in them, with beams, by `begin_step`
        self._source_lengths: list[int] = []
        self._ages: list[int] = []  # the same positions, known without asking the device

    @property
    def num_rows(self) -> int:
        """Decoder rows that a step works on: documents times beams."""
        return (self.window[0] if self.window else self.num_documents) * self.num_beams

    @property
    def num_step_tokens(self) -> int:
        """Tokens that the coming step computes."""
        return self.num_rows if self.step_tokens is None else len(self.step_tokens.documents)

    @property
    def step_positions(self) -> Tensor:
        """Their positions, (R,)."""
        if self.step_tokens is None:
            return self.positions[: self.num_rows]
        return self.positions[self.step_tokens.documents] + self.step_tokens.offsets

    @property
    def target_length(self) -> int:
        """Keys that a step reads of each row: as many as the longest has once the coming token is written."""
        return self.window[2] if self.window else max(self._ages) + 1

    @property
    def source_length(self) -> int:
        """Source tokens that a step reads of each document: as many as the longest has."""
        return self.window[1] if self.window else max(self._source_lengths)

    @property
    def capacity(self) -> tuple[int, int, int]:
        """Documents, source tokens and target tokens that there is room for."""
        return self.cross_keys.shape[1], self.cross_keys.shape[3], self.self_keys.shape[3]

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(array.nbytes for array in (self.self_keys, self.self_values, self.cross_keys, self.cross_values))

    @property
    def ages(self) -> Sequence[int]:
        """Tokens that each document has decoded, known without asking the device."""
        return self._ages

    def add(self, cross: Sequence[tuple[Tensor, Tensor]], source_mask: Tensor, target_lengths: Sequence[int]) -> None:
        """Let documents join.

        Args:
            cross: for each layer the keys and values of the source, two of (B, H, S, K), or as `layout` has them.
            source_mask: (B, S) bool, True at real tokens.
            target_lengths: for each document the most tokens that it may hold.
        """
        batch, length = source_mask.shape
        first, last = self.num_documents, self.num_documents + batch
        self.reserve(last, length, max(target_lengths))
        for layer, (k, v) in enumerate(cross):
            self.cross_keys[layer, first:last, :, : k.shape[2]] = k
            self.cross_values[layer, first:last, :, : v.shape[2]] = v
        self.additive_mask[first:last] = float("-inf")
        self.additive_mask[first:last, :length].masked_fill_(source_mask, 0.0)
        places = torch.arange(1, length + 1, device=self._device)
        self.source_ends[first:last] = (source_mask * places).amax(1)
        rows = slice(first * self.num_beams, last * self.num_beams)
        self.positions[rows] = 0
        self.lineage[rows] = torch.arange(self.num_beams, dtype=torch.int32, device=self._device).repeat(batch)[:, None]
        self._source_lengths += [length] * batch
        self._ages += [0] * batch
        self.num_documents = last

    def begin_step(self) -> None:
        """To be called once before the coming token's `append`s: finds where each row writes, once for all layers."""
        _, _, heads, capacity, _ = self.self_keys.shape
        firsts = torch.arange(self.num_rows * heads, device=self._device) * capacity
        # Rows that no document has grow older without end where a window holds them.
        self._places = firsts + self.positions[: self.num_rows].clamp(max=capacity - 1).repeat_interleave(heads)
        if self.num_beams > 1:
            length = self.target_length
            first_rows = torch.arange(self.num_rows, device=self._device) // self.num_beams * self.num_beams
            holders = first_rows[:, None, None] + self.lineage[: self.num_rows, None, :length]  # (R, 1, T)
            head, place = torch.arange(heads, device=self._device)[:, None], torch.arange(length, device=self._device)
            self._held = (holders * heads + head) * capacity + place

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the coming token's (R, H, K) and return what each row holds with it: two of (R, H, T, K)."""
        return self._append(self.self_keys[layer], k), self._append(self.self_values[layer], v)

    def _append(self, array: Tensor, new: Tensor) -> Tensor:
        array.flatten(0, 2).index_copy_(0, self._places, new.flatten(0, 1))
        if self._held is None:
            return array[: self.num_rows, :, : self.target_length]
        held: Tensor = array.flatten(0, 2)[self._held]
        return held

    def source(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cross keys and values, two of (C, H, S, K), and the additive padding mask (C, 1, 1, S)."""
        documents, longest = self.num_rows // self.num_beams, self.source_length
        used = slice(documents), slice(None), slice(longest)
        bias = self.additive_mask[:documents, None, None, :longest]
        return self.cross_keys[layer][used], self.cross_values[layer][used], bias

    def advance(self) -> None:
        """On the device: the token that every row wrote is now part of the past. `count_step` is to follow."""
        self.positions[: self.num_rows] += 1

    def count_step(self) -> None:
        """On the host: every document is a token older."""
        self._ages = [age + 1 for age in self._ages]

    def keep(self, counts: Sequence[int]) -> None:
        """As many of the tokens that were proposed in the last step are part of each document's past too."""
        self.positions[: self.num_rows] += torch.tensor(counts)
        self._ages = [age + count for age, count in zip(self._ages, counts, strict=True)]

    def reorder(self, parents: Tensor) -> None:
        """Give each row the past of another of its document: `parents` (R,) are row numbers (beam search)."""
        held = self.lineage[: self.num_rows, : max(self._ages)]
        is_past = torch.arange(held.shape[1], device=self._device) < self.positions[: self.num_rows, None]
        held.copy_(torch.where(is_past, held[parents], held))  # what is to come, a row writes itself

    def move(self, source: int, target: int) -> None:
        """Overwrite document `target` with document `source`."""
        n = self.num_beams
        rows = slice(source * n, (source + 1) * n), slice(target * n, (target + 1) * n)
        length, age = self._source_lengths[source], self._ages[source]
        for array in (self.self_keys, self.self_values):
            array[:, rows[1], :, :age] = array[:, rows[0], :, :age]
        self.lineage[rows[1]] = self.lineage[rows[0]]
        stored = self.layout.stored(length)
        for array in (self.cross_keys, self.cross_values):
            array[:, target, :, :stored] = array[:, source, :, :stored]
        self.additive_mask[target] = self.additive_mask[source]
        self.source_ends[target] = self.source_ends[source]
        self.positions[rows[1]] = self.positions[rows[0]]
        self._source_lengths[target], self._ages[target] = length, age

    def truncate(self, num_documents: int) -> None:
        """Forget the documents from `num_documents` on."""
        self.num_documents = num_documents
        del self._source_lengths[num_documents:], self._ages[num_documents:]

    def reserve(self, documents: int, source: int, target: int) -> None:
        """Have room for so many documents, and for so many source and target tokens of each."""
        before = self.capacity
        capacity = before[0]
        if documents > capacity:
            documents = max(documents, capacity + capacity // 2)
        documents = max(documents, capacity)
        source = max(_round_up(source), self.cross_keys.shape[3])
        target = max(_round_up(target), self.self_keys.shape[3])
        if (documents, source, target) == before:  # as nearly always: new arrays cost more than a step
            return
        rows = documents * self.num_beams
        layout = self.layout
        self.self_keys = _enlarge(self.self_keys, self._array(self.dtype, rows, self._row, target))
        self.self_values = _enlarge(self.self_values, self._array(self.dtype, rows, self._row, target))
        self.cross_keys = _enlarge(self.cross_keys, self._array(layout.dtype, documents, layout.keys, source))
        self.cross_values = _enlarge(self.cross_values, self._array(layout.dtype, documents, layout.values, source))
        bias = torch.full((documents, source), float("-inf"), device=self._device)
        bias[:, :1] = 0.0  # or the softmax of rows that no document has would be no number, and stay in their keys
        self.additive_mask = _enlarge(self.additive_mask, bias)
        self.positions = _enlarge(self.positions, torch.zeros(rows, dtype=torch.int64, device=self._device))
        lineage = torch.zeros(rows, target, dtype=torch.int32, device=self._device)
        lineage += torch.arange(rows, dtype=torch.int32, device=self._device)[:, None] % self.num_beams
        self.lineage = _enlarge(self.lineage, lineage)
        self.source_ends = _enlarge(self.source_ends, torch.zeros(documents, dtype=torch.int64, device=self._device))
        self.generation += 1

    def _array(self, dtype: torch.dtype, count: int, row: tuple[int, int], length: int) -> Tensor:
        # Zeros, not empty: a masked key's value is multiplied by 0, and 0 times a stray NaN is NaN.
        return self._zeros(self._num_layers, count, row[0], length, row[1], device=self._device, dtype=dtype)


def _round_up(length: int) -> int:
    return -(-length // _ROUND) * _ROUND


def _enlarge(old: Tensor, new: Tensor) -> Tensor:
    if old.shape == new.shape:
        return old
    new[tuple(slice(size) for size in old.shape)] = old
    return new
