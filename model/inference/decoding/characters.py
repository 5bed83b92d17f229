"""Characters that a vocabulary spells in bytes: written as the source has them, or not at all.

A vocabulary with byte fallback writes what it has no piece for as the bytes of its UTF-8 form, a token each. Nothing in
the network holds these together: a rule on single tokens, or a draw, can leave half a character behind, and bytes that
are learned from few texts make characters that nobody has written. So a row's byte pieces spell characters of its
source, each to its end.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_LONGEST = 4  # bytes of a character


class Characters:
    """The byte pieces of a vocabulary. What it says of a row depends on its source and on its own tokens alone."""

    def __init__(self, byte_pieces: Sequence[int], vocab_size: int, device: torch.device) -> None:
        """`byte_pieces` are the ids of the pieces of bytes 0 to 255; `vocab_size` is the width of the scores."""
        self._byte_of = {piece: byte for byte, piece in enumerate(byte_pieces)}
        self._byte_pieces = byte_pieces
        pieces = torch.tensor(byte_pieces)
        lengths = torch.zeros(vocab_size, dtype=torch.int64)  # of the character that a byte begins; 0: it begins none
        for first, last, length in ((0x00, 0x7F, 1), (0xC2, 0xDF, 2), (0xE0, 0xEF, 3), (0xF0, 0xF4, 4)):
            lengths[pieces[first : last + 1]] = length
        goes_on = torch.zeros(vocab_size, dtype=torch.bool)
        goes_on[pieces[0x80:0xC0]] = True
        is_byte = torch.zeros(vocab_size, dtype=torch.bool)
        is_byte[pieces] = True
        self._words = torch.arange(vocab_size).masked_fill(is_byte, 0).to(device)
        self._pieces = pieces.to(device)
        self._lengths = lengths.to(device)
        self._goes_on = goes_on.to(device)
        self._newest = torch.arange(2 - _LONGEST, 1, device=device)

    def spelled(self, sources: Sequence[Sequence[int]]) -> Tensor:
        """The characters that sources (token ids) spell in bytes, on the host: (C, 4 K), each as 4 ids, 0 for none."""
        rows = [self._spelled(source) for source in sources]
        width = max(map(len, rows), default=0)
        return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64).view(len(rows), width)

    def _spelled(self, source: Sequence[int]) -> list[int]:
        if self._byte_of.keys().isdisjoint(source):
            return []
        # Words are spaces here, which end a character that a chunk cuts off.
        text = bytes(self._byte_of.get(token, 0x20) for token in source).decode("utf-8", "ignore")
        own = {chr(self._byte_of[token]) for token in source if self._byte_of.get(token, 0x80) < 0x80}
        found = []
        for character in sorted({character for character in text if not character.isascii()} | own):
            ids = [self._byte_pieces[byte] for byte in character.encode()]
            found += ids + [0] * (_LONGEST - len(ids))
        return found

    def without_bytes(self, tokens: Tensor) -> Tensor:
        """`tokens` with padding (0) for every byte piece."""
        return self._words.expand(len(tokens), -1).gather(1, tokens)  # an index takes nine times as long

    def ban(self, scores: Tensor, tokens: Tensor, positions: Tensor, spelled: Tensor) -> None:
        """-inf in `scores` (R, V) at bytes that spell no character of the row's source, and at all that leaves one
        unfinished.

        `spelled` (R, 4 K) has the rows of `spelled`; the other arguments are as of `Rules.apply`.
        """
        if not spelled.shape[1]:  # as nearly always
            scores[:, self._pieces] = float("-inf")
            return
        newest = tokens.gather(1, (positions[:, None] + self._newest).clamp(min=0))  # (R, 3)
        begun = self._begun(newest)  # (R,)
        characters = spelled.view(len(spelled), -1, _LONGEST)
        fits = torch.ones_like(characters[:, :, 0], dtype=torch.bool)
        for place in range(_LONGEST - 1):
            written = newest.gather(1, (_LONGEST - 1 - begun + place).clamp(max=_LONGEST - 2)[:, None])
            fits &= (characters[:, :, place] == written) | (place >= begun)[:, None]
        following = characters.gather(2, begun[:, None, None].expand(-1, characters.shape[1], 1))[:, :, 0]
        kept = scores.gather(1, following).masked_fill(~(fits & (following > 0)), float("-inf"))
        scores[:, self._pieces] = float("-inf")
        scores.masked_fill_((begun > 0)[:, None], float("-inf"))
        scores.scatter_reduce_(1, following, kept, "amax")

    def _begun(self, newest: Tensor) -> Tensor:
        """How many bytes of an unfinished character the rows end with: (R, 3) to (R,).

        One that begins before these three is finished.
        """
        begun = needed = torch.zeros_like(newest[:, 0])
        for token in newest.unbind(1):
            length = self._lengths[token]
            needed = torch.where(length > 0, length, needed)
            begun = torch.where(length > 0, 1, torch.where(self._goes_on[token] & (begun > 0), begun + 1, 0))
            begun = torch.where(begun < needed, begun, 0)
        return begun
