"""Words: the source's or those of a list, with or without a capital, to their ends; others are not written.

Any piece may follow any, and a network that has seen few texts with a word may end it otherwise: "Christin", "srank".
So of a row's words each is one of its source or of the checkpoint's list. Emoji, signs and letters beyond ASCII are
learned from few texts, too: they are written where the source has them.

What a row may write depends on its source and on the tokens that it holds alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.inference.spelling import END, NO_RUN, POWERS, WINDOW, Words


class Sources(NamedTuple):
    """What sources say: `runs` and `ways` (C, E), behind which run which piece comes; `barred` (C, V), what begins no
    word of theirs and none that is known."""

    runs: Tensor
    ways: Tensor
    barred: Tensor


class Ahead(NamedTuple):
    """How rows may go on with a word, in K ways (R, K): pieces, which are allowed, their scores before other bans.

    `is_whole` (R,): the row is in no unfinished word. `is_letter` (R,): a letter would go on with one.
    """

    ways: Tensor
    is_allowed: Tensor
    scores: Tensor
    is_whole: Tensor
    is_letter: Tensor


class WordRule:
    """The rule for rows in flight, as tensors on their device."""

    def __init__(self, words: Words, vocab_size: int, device: torch.device) -> None:
        """`vocab_size` is the width of the scores."""
        self.vocab_size = vocab_size
        self._words = words

        def padded(flags: NDArray[np.bool_]) -> Tensor:
            return torch.from_numpy(np.pad(flags, (0, vocab_size - len(flags)))).to(device)

        self._goes_on = padded(words.goes_on)
        self._joins = torch.stack([self._goes_on, padded(words.ends_in_letter)], -1)  # (V, 2)
        self._barred = padded(words.is_barred).cpu()
        known = torch.from_numpy(words.known).to(device)
        self._known_runs, self._num_ways = known[:, 0].unique_consecutive(return_counts=True)  # sorted
        self._firsts = self._num_ways.cumsum(0) - self._num_ways
        self._numbers = torch.arange(int(self._num_ways.max()), device=device)
        self._known_ways = torch.nn.functional.pad(known[:, 1], (0, len(self._numbers)))
        self._ages = torch.arange(WINDOW, device=device)
        self._powers = torch.from_numpy(POWERS).to(device)

    def of_sources(self, sources: Sequence[Sequence[int]]) -> Sources:
        """What sources (token ids) say, on the host; what is too much of the longest is behind no run."""
        found = [self._words.of_source(source) for source in sources]
        width = max(len(ways) for ways, _ in found)
        padded = [ways + [(NO_RUN, END)] * (width - len(ways)) for ways, _ in found]
        runs, ways = torch.tensor(padded, dtype=torch.int64).view(len(found), width, 2).mT.contiguous().unbind(1)
        barred = self._barred.repeat(len(found), 1)
        for row, (_, firsts) in zip(barred, found, strict=True):
            row[firsts] = False
        return Sources(runs, ways, barred)

    def look(self, scores: Tensor, tokens: Tensor, positions: Tensor, sources: Sources) -> Ahead:
        """How the rows may go on, before bans that would leave a word unfinished. Arguments are as of `Rules.apply`."""
        newest = tokens.gather(1, (positions[:, None] - self._ages).clamp(min=0))  # (R, W), the newest first
        goes_on, is_letter = self._joins[newest].unbind(-1)
        joined = torch.cat([is_letter[:, :1], goes_on[:, :-1] & is_letter[:, 1:]], 1).cumprod(1)  # (R, W), 1 in the run
        run = (newest * self._powers * joined).sum(1, keepdim=True)  # (R, 1)
        place = torch.searchsorted(self._known_runs, run[:, 0]).clamp(max=len(self._known_runs) - 1)
        num_ways = torch.where(self._known_runs[place] == run[:, 0], self._num_ways[place], 0)
        is_way = torch.cat([sources.runs == run, self._numbers < num_ways[:, None]], 1)  # (R, K)
        ways = torch.cat([sources.ways, self._known_ways[self._firsts[place, None] + self._numbers]], 1)
        # A run of no word is there by another rule's leave: all but letters may follow.
        is_whole = (is_way & (ways == END)).any(1) | ~is_way.any(1)
        return Ahead(ways, is_way, scores.gather(1, ways), is_whole, is_letter[:, 0])

    def ban(self, scores: Tensor, ahead: Ahead, sources: Sources) -> None:
        """-inf in `scores` (R, V) at what would make a word that is none; an unfinished word goes on whatever bans."""
        now = scores.gather(1, ahead.ways)  # the end of a word is a piece that is never written
        kept = torch.where(ahead.is_whole[:, None], now, ahead.scores).masked_fill(~ahead.is_allowed, float("-inf"))
        scores.masked_fill_(self._barred_now(ahead, sources), float("-inf"))
        scores.scatter_reduce_(1, ahead.ways, kept, "amax")

    def allowed(self, ahead: Ahead, sources: Sources) -> Tensor:
        """What `ban` leaves: (R, V) uint8, 1 or 0."""
        free = (~self._barred_now(ahead, sources)).to(torch.uint8)
        return free.scatter_reduce_(1, ahead.ways, ahead.is_allowed.to(torch.uint8), "amax")

    def _barred_now(self, ahead: Ahead, sources: Sources) -> Tensor:
        return sources.barred | (ahead.is_letter[:, None] & self._goes_on) | ~ahead.is_whole[:, None]
