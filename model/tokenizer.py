"""Text to ids and back, by the checkpoint's SentencePiece model; equal to `transformers`' T5 tokenizer on plain text.

Control tokens have no spelling here: a text that contains `</s>` or `<extra_id_0>` is a text, not an instruction.
"""

import codecs
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import sentencepiece

from model.errors import TokenizerError
from model.vocabulary_words import whole_words

_LONGEST_CHARACTER = 4  # bytes in UTF-8


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
        # Ids of the pieces of bytes 0 to 255; SentencePiece has all of them or none.
        has_bytes = any(self._pieces.is_byte(list(range(self.num_pieces))))
        spelled = [f"<0x{byte:02X}>" for byte in range(256)] if has_bytes else []
        self.byte_pieces: tuple[int, ...] = tuple(map(self._pieces.piece_to_id, spelled))
        self._byte_of = {piece: byte for byte, piece in enumerate(self.byte_pieces)}

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

    @cached_property
    def words(self) -> frozenset[str]:
        """The pieces that are whole words; see `model.vocabulary_words`."""
        return whole_words(map(self.piece, range(self.num_pieces)))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`; control tokens, sentinels and padding rows have none, nor a last character in parts."""
        pieces = [i for i in token_ids if 2 < i < self.num_pieces]
        text: str = self._pieces.decode(pieces[: len(pieces) - self._num_unfinished(pieces)])
        return text.strip()

    def _num_unfinished(self, pieces: Sequence[int]) -> int:
        """How many bytes at the end are the start of a character that is not complete."""
        if not pieces or pieces[-1] not in self._byte_of:
            return 0
        held = codecs.getincrementaldecoder("utf-8")(errors="replace")
        held.decode(bytes(self._byte_of.get(piece, 0) for piece in pieces[-_LONGEST_CHARACTER:]))
        return len(held.getstate()[0])


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
        new, self._emitted = text[len(self._emitted) :], text
        return new
