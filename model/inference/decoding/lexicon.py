"""The pieces of a vocabulary as `model.support` reads them: which begin a name or a number, go on with it, or end it.

A text is read character by character by an automaton. Its modes are where one is between names and numbers; within
one, what a source holds decides (`model.inference.decoding.grounding`). Characters that
the vocabulary has no piece for, and spells in bytes, may be anything: these must be in the source wherever they are.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from enum import IntEnum, auto
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from model import support
from model.support import ABBREVIATIONS, folded
from model.tokenizer import Tokenizer

_FIRST_BYTE = 0xF700  # of the private characters that stand for bytes; those below 128 are characters themselves
_BYTES = f"{chr(_FIRST_BYTE + 128)}-{chr(_FIRST_BYTE + 255)}"
_BYTE_RUN = re.compile(f"[{_BYTES}]+")
_UNKNOWN = "\ufffd"  # parts what is around it
_LETTERS = rf"(?:[^\W\d_]|[{_BYTES}])+"
_NUMBER = r"\d+(?:[.,:]\d+)*"
UNIT = re.compile(f"{_LETTERS}|{_NUMBER}")
_CACHED_UNITS = 2**14
_CONTINUATION = re.compile(rf"{_LETTERS}|[.,:]?{_NUMBER}|[.,:]$")


class Mode(IntEnum):
    """Where the text is, outside of what must be in the source."""

    OPENING = 0  # before a word that opens a sentence
    BETWEEN = auto()  # between words
    MARK = auto()  # after a comma or colon
    MARK_SPACE = auto()  # and a space: direct speech may open
    ENDED = auto()  # after an end mark
    NUMBER_DOT = auto()  # after a number and a full stop, with which no number of the source goes on
    NUMBER_MARK = auto()
    NUMBER = auto()  # after a number; names and numbers themselves are states of a source
    WORD = auto()  # in a word that is no name; followed by the modes of the beginnings of abbreviations


_BEGINNINGS = sorted({word[:end] for word in ABBREVIATIONS for end in range(1, len(word) + 1)})
_WORDS = {"": int(Mode.WORD), "*": len(Mode)} | {part: len(Mode) + 1 + n for n, part in enumerate(_BEGINNINGS)}
_PART_OF = {mode: part for part, mode in _WORDS.items()}
_ABBREVIATED = frozenset(mode for part, mode in _WORDS.items() if len(part) == 1 or part in ABBREVIATIONS)
NUM_MODES = len(Mode) + 1 + len(_BEGINNINGS)
UNIT_BEGINS, IMPOSSIBLE = NUM_MODES, NUM_MODES + 1  # instead of a mode

# Rows of the tables: the modes, then where one is within a name or a number of the source.
IN_NAME, IN_ABBREVIATION, IN_NUMBER, AFTER_DOT, AFTER_MARK = range(NUM_MODES, NUM_MODES + 5)
# What a piece is to a row: it needs nothing of the source; a name or number begins that the source must have, counted
# from within a sentence or from its opening, or bytes within a word; what began must go on with it; both of the first
# and last are well.
FREE, BEGINS, BEGINS_LATE, BEGINS_INSIDE, GOES_ON, FREE_OR_GOES_ON = range(6)


def mode_after(mode: int, character: str) -> int:
    """The mode after `character`, or `UNIT_BEGINS`, or `IMPOSSIBLE` where a number would go on."""
    if character.isdecimal():
        return IMPOSSIBLE if mode in (Mode.NUMBER, Mode.NUMBER_DOT, Mode.NUMBER_MARK) else UNIT_BEGINS
    if is_letter(character):
        if is_byte(character):
            return UNIT_BEGINS
        if mode in _PART_OF:
            return _WORDS.get(_PART_OF[mode] + folded(character) if _PART_OF[mode] else "", int(Mode.WORD))
        if mode != Mode.OPENING and character.isupper():
            return UNIT_BEGINS
        return _WORDS.get(folded(character), _WORDS["*"])
    if mode == Mode.NUMBER and character in ".,:":
        return int(Mode.NUMBER_DOT if character == "." else Mode.NUMBER_MARK)
    if mode in _ABBREVIATED and character == ".":
        return int(Mode.BETWEEN)
    return int(_between(mode, character))


def _between(mode: int, character: str) -> Mode:
    if mode == Mode.OPENING or character in "\n。！？":
        return Mode.OPENING
    if character in ".!?…":
        return Mode.ENDED
    if mode in (Mode.ENDED, Mode.NUMBER_DOT):
        return Mode.OPENING if character.isspace() else Mode.ENDED
    if character in ",:":
        return Mode.MARK
    if mode in (Mode.MARK, Mode.NUMBER_MARK, Mode.MARK_SPACE) and character.isspace():
        return Mode.MARK_SPACE
    return Mode.OPENING if mode == Mode.MARK_SPACE and character in "\"“„«‘'" else Mode.BETWEEN


def mode_after_name(name: str) -> int:
    """The mode that comes of the end of `name`, which is folded."""
    return _WORDS["*"] if len(name) == 1 or name in ABBREVIATIONS else int(Mode.WORD)


def is_letter(character: str) -> bool:
    """Whether it is part of a name or word, and no digit."""
    return (character.isalnum() and not character.isdecimal()) or is_byte(character)


def is_byte(character: str) -> bool:
    """Whether it stands for a byte of a character that is spelled in bytes."""
    return _FIRST_BYTE + 128 <= ord(character) <= _FIRST_BYTE + 255


class Lexicon:
    """A vocabulary's pieces: tables of what each is in each mode, and an index of those that are part of names and
    numbers.

    `kinds` and `next_modes` are (rows, V); pieces without text, such as the end token, need nothing and lead nowhere.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        """`pieces` by id, as they are spelled in a text; empty where there is no text."""
        self.pieces = pieces
        generic, firsts = self._run()
        kinds = np.full(generic.shape, FREE, np.int8)
        begins = generic == UNIT_BEGINS
        kinds[begins] = BEGINS
        kinds[begins & (firsts != firsts[Mode.BETWEEN])] = BEGINS_LATE
        kinds[generic == IMPOSSIBLE] = GOES_ON  # with nothing, where a mode says so
        letters = np.array([piece != "" and is_letter(piece[0]) for piece in pieces])
        in_bytes = np.array([piece != "" and is_byte(piece[0]) for piece in pieces])
        kinds[np.ix_(np.array(sorted(_PART_OF)), in_bytes)] = BEGINS_INSIDE
        single = np.array([piece in (".", ",", ":") for piece in pieces])
        in_number = np.where(single, FREE_OR_GOES_ON, kinds[Mode.NUMBER]).astype(np.int8)
        rows = [np.where(letters, np.int8(GOES_ON), kinds[mode]) for mode in (Mode.WORD, _WORDS["*"])]
        rows += [in_number, kinds[Mode.NUMBER_DOT], kinds[Mode.NUMBER_MARK]]
        same = [Mode.WORD, _WORDS["*"], Mode.NUMBER, Mode.NUMBER_DOT, Mode.NUMBER_MARK]
        self.kinds = torch.from_numpy(np.concatenate([kinds, np.stack(rows)]))
        modes = np.where(generic < NUM_MODES, generic, 0)
        self.next_modes = torch.from_numpy(np.concatenate([modes, modes[same]]).astype(np.int64))
        self.beginning: dict[str, list[tuple[int, int]]] = defaultdict(list)  # by unit: piece, kind
        self.continuing: dict[str, list[int]] = defaultdict(list)  # by what goes on: piece
        self._index(firsts, generic)
        self._on_device: dict[tuple[torch.device, int], tuple[Tensor, Tensor, Tensor]] = {}
        self.ways_along = lru_cache(_CACHED_UNITS)(self._ways_along)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Lexicon":
        """The lexicon of a tokenizer's vocabulary."""
        pieces = ["", "", _UNKNOWN, *(tokenizer.piece(n).replace("▁", " ") for n in range(3, tokenizer.num_pieces))]
        for byte, piece in enumerate(tokenizer.byte_pieces):
            pieces[piece] = chr(byte if byte < 128 else _FIRST_BYTE + byte)
        return cls(pieces)

    def units(self, token_ids: Sequence[int]) -> set[str]:
        """The names, numbers and words of `token_ids`, folded; those with bytes as they are spelled, too."""
        spelled = self.spell(token_ids)
        text = _BYTE_RUN.sub(
            lambda run: bytes(ord(one) - _FIRST_BYTE for one in run[0]).decode(errors="replace"), spelled
        )
        in_bytes = {unit for unit in UNIT.findall(folded(spelled)) if _BYTE_RUN.search(unit)}
        return {*support.UNIT.findall(folded(text)), *in_bytes}

    def spell(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`, with a private character for every byte of what has no piece."""
        return "".join(self.pieces[number] for number in token_ids if number < len(self.pieces))

    def _ways_along(self, unit: str) -> tuple[list[tuple[str, dict[int, str]]], list[tuple[str, int]]]:
        """How pieces go on along a unit: from each beginning of it, those within it and the beginnings that they lead
        to; and beginnings with pieces that reach beyond what they share with it."""
        within, beyond = [], []
        for start in range(1, len(unit)):
            ways: dict[int, str] = {}
            for end in range(start + 1, min(len(unit), start + self.longest) + 1):
                for piece in self.continuing.get(unit[start:end], ()):
                    if len(self.pieces[piece]) == end - start:
                        ways[piece] = unit[:end]
                    else:
                        beyond.append((unit[:start], piece))
            within.append((unit[:start], ways))
        return within, beyond

    def on(self, device: torch.device, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """`kinds`, where these neither are free nor may be, and `next_modes` on `device`, as wide as the scores.

        Of the second, another row, the last, is of those that write nothing free.
        """
        if (device, vocab_size) not in self._on_device:
            missing = (0, vocab_size - self.kinds.shape[1])
            kinds, modes = (torch.nn.functional.pad(table, missing) for table in (self.kinds, self.next_modes))
            barred = torch.nn.functional.pad((kinds != FREE) & (kinds != FREE_OR_GOES_ON), (0, 0, 0, 1), value=True)
            self._on_device[device, vocab_size] = kinds.to(device), barred.to(device), modes.to(device)
        return self._on_device[device, vocab_size]

    @cached_property
    def longest(self) -> int:
        """Characters of the longest piece."""
        return max(map(len, self.pieces))

    def _run(self) -> tuple[np.ndarray, np.ndarray]:
        """The mode after each piece from each mode, and the place in it at which the first unit begins; (modes, V)."""
        table = np.array(
            [[mode_after(mode, one) for one in _REPRESENTATIVES] + [mode] for mode in range(NUM_MODES)]
            + [[stuck] * (len(_REPRESENTATIVES) + 1) for stuck in (UNIT_BEGINS, IMPOSSIBLE)]
        )
        longest = self.longest
        characters = np.full((len(self.pieces), longest), len(_REPRESENTATIVES))
        for number, piece in enumerate(self.pieces):
            for place, character in enumerate(piece):
                characters[number, place] = _REPRESENTATIVES.index(_representative(character))
        modes = np.repeat(np.arange(NUM_MODES)[:, None], len(self.pieces), axis=1)
        firsts = np.full_like(modes, -1)
        for place in range(longest):
            after = table[modes, characters[:, place]]
            firsts[(after == UNIT_BEGINS) & (modes != UNIT_BEGINS)] = place
            modes = after
        return modes, firsts

    def _index(self, firsts: np.ndarray, generic: np.ndarray) -> None:
        for number, piece in enumerate(self.pieces):
            places = {int(firsts[mode, number]) for mode in (Mode.BETWEEN, Mode.OPENING)}
            for mode, kind in ((Mode.BETWEEN, BEGINS), (Mode.OPENING, BEGINS_LATE)):
                if generic[mode, number] == UNIT_BEGINS and (kind == BEGINS or len(places) > 1):
                    unit = UNIT.match(piece, int(firsts[mode, number]))
                    assert unit is not None
                    self.beginning[folded(unit[0])].append((number, kind))
            if found := _CONTINUATION.match(piece):
                self.continuing[folded(found[0])].append(number)


# One character for all that `mode_after` treats alike.
_OF_ABBREVIATIONS = sorted({letter for word in ABBREVIATIONS for letter in word})
_REPRESENTATIVES = [
    *' \n。.!,:"-0Xx',
    chr(_FIRST_BYTE + 255),
    *_OF_ABBREVIATIONS,
    *(letter.upper() for letter in _OF_ABBREVIATIONS),
]


def _representative(character: str) -> str:
    if character in _REPRESENTATIVES:
        return character
    if character.isdecimal():
        return "0"
    if is_byte(character):
        return chr(_FIRST_BYTE + 255)
    if is_letter(character):
        return "X" if character.isupper() else "x"
    if character.isspace():
        return " "
    for one, alike in (("。", "！？"), ("!", "?…"), (",", ":"), ('"', "“„«‘'")):
        if character in alike:
            return one
    return "-"
