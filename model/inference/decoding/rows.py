"""What every way of decoding shares: the documents in flight with one beam width, their tokens and their cache.

Documents are dense; one that leaves is replaced by the last (as in the cache), so that no step sees a finished row.
A step has two halves: `advance` only gives the device work, `report` reads what came of it. On a GPU the second comes
a step late, so that the device never waits; a document that has ended takes one more step then, which changes nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.inference.backend import Backend
from model.inference.decoding.characters import Characters
from model.inference.decoding.grounding import Grounding
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.decoding.rules import Rules
from model.inference.decoding.words import Sources, WordRule
from model.transfer import send


class Step(NamedTuple):
    """What a step gave one document: its new tokens (none with beams), and its result once it has finished."""

    key: int
    token_ids: tuple[int, ...]
    result: DecodingResult | None


@dataclass(frozen=True)
class Outcome:
    """What a step decided, on its way from the device: values of `keys`, which had `ages` tokens with each.

    One a document, and in order as many more as were right of its draft.
    """

    keys: tuple[int, ...]
    ages: tuple[int, ...]
    values: Tensor  # (C,) or more, on the host once `arrived`
    arrived: torch.cuda.Event | None

    def read(self) -> list[tuple[int, int, int]]:
        """Key, age and value of each; waits for the device."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return list(zip(self.keys, self.ages, self.values.tolist(), strict=True))


class Rows(ABC):
    """Documents that are decoded with `num_beams` rows each.

    `state` holds every tensor that follows the documents (first dimension C); `tokens` (C, N, T + 2) is one of
    them, the start token (padding) first, `places` (C, N) another: where grounded rows are in names and numbers;
    `spelled` (C, 4 K) has the characters that sources spell in bytes; what `Sources` has of their words is there, too.
    """

    def __init__(self, backend: Backend, num_beams: int) -> None:
        self.num_beams = num_beams
        self.cache = backend.new_cache(num_beams)
        self.keys: list[int] = []
        self.options: list[DecodingOptions] = []
        self.groundings: list[Grounding | None] = []
        self.state: dict[str, Tensor] = {}
        self.config = backend.config
        self.device = backend.device
        pieces, words, size = backend.spelling.byte_pieces, backend.spelling.words, backend.config.vocab_size
        self._characters = Characters(pieces, size, backend.device) if pieces else None
        self._words = WordRule(words, size, backend.device) if words else None
        self._rules: Rules | None = None

    def add(
        self,
        keys: Sequence[int],
        cross: Sequence[tuple[Tensor, Tensor]],
        source_mask: Tensor,
        options: Sequence[DecodingOptions],
        sources: Sequence[Sequence[int]],
        groundings: Sequence[Grounding | None],
    ) -> None:
        """Let documents join; `cross` and `source_mask` as for `KVCache.add`, the rest as for `DecodingBatch.add`."""
        self.cache.add(cross, source_mask, [o.max_new_tokens + 1 for o in options])  # room for the step too many
        self.keys += keys
        self.options += options
        self.groundings += groundings
        joining = self.start(options)
        joining["places"] = torch.zeros(len(options), self.num_beams, dtype=torch.int64)
        joining["spelled"] = (
            torch.zeros(len(options), 0, dtype=torch.int64)
            if self._characters is None
            else self._characters.spelled(sources)
        )
        if self._words is not None:
            joining |= self._words.of_sources(sources)._asdict()
        self.state = {name: _joined(self.state.get(name), send(rows, self.device)) for name, rows in joining.items()}
        self.changed()

    def remove(self, keys: Collection[int]) -> None:
        """Let documents leave; the last ones take the places of those in between."""
        leaving = sorted((self.keys.index(key) for key in keys if key in self.keys), reverse=True)
        for index in leaving:
            last = len(self.keys) - 1
            if index != last:
                self.cache.move(last, index)
                self.keys[index], self.options[index] = self.keys[last], self.options[last]
                self.groundings[index] = self.groundings[last]
                for rows in self.state.values():
                    rows[index] = rows[last]
            self.cache.truncate(last)
            del self.keys[last], self.options[last], self.groundings[last]
        if leaving:
            # The next document alone decides how wide they are.
            self.state = {name: rows[: len(self.keys)] for name, rows in self.state.items()} if self.keys else {}
            self.changed()

    def changed(self) -> None:
        """Documents joined or left: what is kept as tensors of their options is out of date."""
        self._rules = None

    def newest_tokens(self) -> Tensor:
        """Input of the coming step: (R,)."""
        newest = self.cache.positions[: self.cache.num_rows].view(-1, self.num_beams, 1)
        return self.state["tokens"].gather(2, newest).flatten()

    def allowed(self, scores: Tensor) -> Tensor:
        """`scores` (R, V) under every row's rules; to be called after the model's step."""
        if self._rules is None:
            held = [one if option.grounded else None for option, one in zip(self.options, self.groundings, strict=True)]
            self._rules = self.rules(self.options, held)
        newest = self.cache.positions[: self.cache.num_rows] - 1  # the model has advanced the cache already
        tokens = self.state["tokens"][:, :, : self.cache.target_length - 1].flatten(0, 1)
        return self._rules.apply(scores, tokens, newest, self.state["places"].flatten(), *self.of_sources())

    def of_sources(self, documents: Tensor | None = None) -> tuple[Tensor, Sources | None]:
        """What `Rules.apply` asks for of the sources of every row, or of `documents`."""

        def of_rows(name: str) -> Tensor:
            if documents is not None:
                return self.state[name][documents]
            return self.state[name] if self.num_beams == 1 else self.state[name].repeat_interleave(self.num_beams, 0)

        words = Sources(*map(of_rows, Sources._fields)) if self._words is not None else None
        return of_rows("spelled"), words

    def follow(self, parents: Tensor | None, token_ids: Tensor) -> None:
        """Move on where grounded rows are: from `parents` (C, N) of their document, by `token_ids` (C, N)."""
        assert self._rules is not None
        if self._rules.grounded is not None:
            places = self.state["places"] if parents is None else self.state["places"].gather(1, parents)
            followed = self._rules.grounded.follow(places.flatten(), token_ids.flatten())
            self.state["places"] = followed.view_as(places)

    def rules(self, options: Sequence[DecodingOptions], groundings: Sequence[Grounding | None] = ()) -> Rules:
        """Of documents with these options."""
        return Rules(self.config, options, self.num_beams, self.device, self._characters, self._words, groundings)

    @abstractmethod
    def start(self, options: Sequence[DecodingOptions]) -> dict[str, Tensor]:
        """The state of documents that join."""

    @abstractmethod
    def advance(self, logits: Tensor) -> Outcome:
        """Append what `logits` (R, V) decide."""

    @abstractmethod
    def report(self, outcome: Outcome) -> list[Step]:
        """What a step gave; documents that finished with it leave. Those that left since are passed over."""

    def outcome(self, values: Tensor, kept: Sequence[int] = ()) -> Outcome:
        """`values` of the documents in flight, sent to the host without waiting: (C,), or each with as many as it has
        `kept` of its draft before its last."""
        keys, ages = self.keys, self.cache.ages
        if kept:
            keys = [key for key, count in zip(keys, kept, strict=True) for key in [key] * (1 + count)]
            ages = [age - left for age, count in zip(ages, kept, strict=True) for left in range(count, -1, -1)]
        arrived = None
        if values.is_cuda:
            values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(self.device))
        return Outcome(tuple(keys), tuple(ages), values, arrived)


def empty_tokens(options: Sequence[DecodingOptions], num_beams: int) -> Tensor:
    """Room for the start token, the longest of the new ones and the step too many: (C, N, T + 2)."""
    return torch.zeros(len(options), num_beams, max(o.max_new_tokens for o in options) + 2, dtype=torch.int64)


def _joined(old: Tensor | None, new: Tensor) -> Tensor:
    # Rows may have room for different numbers of tokens; the last dimension is widened to the longer.
    if old is None:
        return new
    width = max(old.shape[-1], new.shape[-1])
    return torch.cat([F.pad(rows, (0, width - rows.shape[-1])) for rows in (old, new)])
