"""Text to ids and back, by the checkpoint's SentencePiece model; equal to `transformers`' T5 tokenizer on plain text.

Control tokens have no spelling here: a text that contains `</s>` or `<extra_id_0>` is a text, not an instruction.
"""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from model.errors import TokenizerError

_REPLACEMENT = "\ufffd"


class Tokenizer:
    """A SentencePiece vocabulary with T5's conventions: pad 0, end 1, unknown 2, sentinels after the pieces.

    Raises:
        TokenizerError: the file is missing, is no SentencePiece model, or breaks those conventions.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise TokenizerError(f"{path}: no such file; a checkpoint needs its spiece.model")
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise TokenizerError(f"{path}: not a SentencePiece model ({error})") from error
        ids = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if ids != (0, 1, 2):
            raise TokenizerError(f"{path}: pad, end and unknown are {ids}; a T5 vocabulary has (0, 1, 2)")
        self.eos_id = 1
        self.num_pieces: int = self._pieces.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without the end token."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def encode_source(self, text: str, prompt: str = "", max_tokens: int | None = None) -> list[int]:
        """Ids of `prompt + text` and the end token, cut before the end token to `max_tokens` in all."""
        ids = self.encode(prompt + text)
        if max_tokens is not None:
            del ids[max_tokens - 1 :]
        return [*ids, self.eos_id]

    def piece(self, token_id: int) -> str:
        """The spelling of a piece; `▁` stands for the space before a word."""
        piece: str = self._pieces.id_to_piece(token_id)
        return piece

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`; control tokens, sentinels and padding rows have no text."""
        text: str = self._pieces.decode([i for i in token_ids if 2 < i < self.num_pieces])
        return text.strip()


class IncrementalDecoder:
    """Text of a growing token sequence, in whole characters: the pieces returned add up to `Tokenizer.decode`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._emitted = ""

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; empty while a character is still in parts."""
        self._token_ids.append(token_id)
        text = self._tokenizer.decode(self._token_ids)
        if text.endswith(_REPLACEMENT):  # a byte-fallback character whose bytes have not all come
            return ""
        return self._take(text)

    def finish(self) -> str:
        """What was held back."""
        return self._take(self._tokenizer.decode(self._token_ids))

    def _take(self, text: str) -> str:
        new, self._emitted = text[len(self._emitted) :], text
        return new
