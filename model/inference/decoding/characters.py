"""Whole characters out of byte pieces: which byte may follow which, where a vocabulary spells characters in bytes.

A vocabulary with byte fallback writes what it has no piece for as the bytes of its UTF-8 form, a token each. Nothing in
the network holds these together: a rule on single tokens, or a draw, can leave half a character behind.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Well-formed UTF-8 (the Unicode Standard, table 3-7): from each state the bytes, first to last, and the state that they
# lead to. State 0 is between characters; every other waits for a continuation byte, one to three in all.
_FOLLOWING: tuple[tuple[tuple[int, int, int], ...], ...] = (
    (
        (0x00, 0x7F, 0),
        (0xC2, 0xDF, 1),
        (0xE0, 0xE0, 2),
        (0xE1, 0xEC, 3),
        (0xED, 0xED, 4),
        (0xEE, 0xEF, 3),
        (0xF0, 0xF0, 5),
        (0xF1, 0xF3, 6),
        (0xF4, 0xF4, 7),
    ),
    ((0x80, 0xBF, 0),),
    ((0xA0, 0xBF, 1),),
    ((0x80, 0xBF, 1),),
    ((0x80, 0x9F, 1),),
    ((0x90, 0xBF, 3),),
    ((0x80, 0xBF, 3),),
    ((0x80, 0x8F, 3),),
)
_LONGEST_UNFINISHED = 3  # bytes


class Characters:
    """The byte pieces of a vocabulary as tensors. What it says of a row depends on the row's own tokens alone."""

    def __init__(self, byte_pieces: Sequence[int], vocab_size: int, device: torch.device) -> None:
        """`byte_pieces` are the ids of the pieces of bytes 0 to 255; `vocab_size` is the width of the scores."""
        pieces = torch.tensor(byte_pieces)
        following = torch.zeros(len(_FOLLOWING), vocab_size, dtype=torch.int64)  # state and token to state
        additive_mask = torch.zeros(len(_FOLLOWING), vocab_size)
        additive_mask[0, pieces] = float("-inf")
        additive_mask[1:] = float("-inf")
        for state, ranges in enumerate(_FOLLOWING):
            for first, last, next_state in ranges:
                following[state, pieces[first : last + 1]] = next_state
                additive_mask[state, pieces[first : last + 1]] = 0.0
        is_byte = torch.zeros(vocab_size, dtype=torch.bool)
        is_byte[pieces] = True
        self._words = torch.arange(vocab_size).masked_fill(is_byte, 0).to(device)
        self._vocab_size = vocab_size
        self._following = following.flatten().to(device)
        self._additive_mask = additive_mask.to(device)
        self._is_byte = is_byte.to(device)
        self._never_first = additive_mask[0].nonzero()[:, 0].to(device)
        self._newest = torch.arange(1 - _LONGEST_UNFINISHED, 1, device=device)

    def without_bytes(self, tokens: Tensor) -> Tensor:
        """`tokens` with padding (0) for every byte piece."""
        return self._words.expand(len(tokens), -1).gather(1, tokens)  # an index takes nine times as long

    def ban(self, scores: Tensor, tokens: Tensor, positions: Tensor) -> None:
        """-inf in `scores` (R, V) at what would leave a character unfinished; arguments as of `Rules.apply`."""
        newest = tokens.gather(1, (positions[:, None] + self._newest).clamp(min=0))  # (R, 3)
        # On a CPU one may look, and nearly always no row is within a character.
        if not scores.is_cuda and not self._is_byte[newest[:, -1]].any():
            scores[:, self._never_first] = float("-inf")
            return
        # A character that begins before these three is complete by now: its continuation bytes leave state 0 as it is.
        state = self._following[newest[:, 0]]
        for place in range(1, _LONGEST_UNFINISHED):
            state = self._following[state * self._vocab_size + newest[:, place]]
        scores += self._additive_mask[state]
