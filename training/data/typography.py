"""What a vocabulary reads as one and the same: SentencePiece's own normalisation, and marks of typesetting as ASCII.

People type `'` and paste `’`; a vocabulary learned from plain text knows the first. The table goes into the
SentencePiece model, so that every reader of the checkpoint normalises alike.
"""

import unicodedata
from collections.abc import Set

import sentencepiece

LINE_BREAK = "\n"
# The commonest in the names of people first.
LETTERS_WITH_MARKS = (
    "éáíóúñüöäçèêàâîïôëûùåøæßãõìòýłšžčćęąśżźńřğışőűěůťďňđșțāēīūœðþÿÉÖÜÁÅØÓÄÇŠŽČÍÚÑŁÀÈÊÂÎÔÆİŚŻĆŞĐÐÞŘŐȘȚĞŹÕÃÒÌÙÛËÏÝ"
)
_BASE_RULES = "nmt_nfkc"  # SentencePiece's default: NFKC, control characters away, every kind of space a space
_QUOTES = {"'": "‘’‚‛′‵´`ʹʻʼʽˈ‹›", '"': "“”„‟″‶«»〝〞〟"}
_DASHES = {"-": "‐‑‒–−⁃﹣﹘", " - ": "—―⸺⸻", "- ": "•‣▪▫●○◦■□◆◇►▶➢➤✓✔✗✘"}
_REST = {"/": "⁄∕", ">": "→⇒➔➜", "<": "←⇐", "x": "×", "*": "∗⋆★☆", "~": "∼˜", ":": "∶", "|": "│┃"}
_PLAIN = {mark: plain for table in (_QUOTES, _DASHES, _REST) for plain, marks in table.items() for mark in marks}
# What has no canonical decomposition.
_LETTERS = {
    **{"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ð": "d", "Ð": "D"},
    **{"þ": "th", "Þ": "Th", "đ": "d", "Đ": "D", "ħ": "h", "Ħ": "H", "ı": "i", "ł": "l", "Ł": "L", "ŋ": "n", "ŧ": "t"},
}
_LATIN = [*range(0xC0, 0x250), *range(0x1E00, 0x1F00)]
_COMBINING = [*map(chr, range(0x300, 0x370)), "\u20e3"]
# Selectors, joiners and skin tones change how the emoji before them looks; a soft hyphen shows only at a line's end.
_DROPPED = ["\u00ad", "\u200c", "\u200d", "\u2060", *map(chr, [*range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400)])]
_LINE_ENDS = ("\n", "\r\n", "\r", "\v", "\f", "\u2028", "\u2029", "\x85")


def normalisation(known: Set[str] | None, *, keep_lines: bool) -> dict[str, str]:
    """Text → normalised text, applied by longest match; what is not in the table stays.

    Args:
        known: the vocabulary's pieces of one character: a Latin letter with a mark that is not among them loses the
            mark. None: all keep theirs.
        keep_lines: line breaks stay, as the piece `LINE_BREAK`, instead of becoming spaces.
    """
    base: dict[str, str] = dict(sentencepiece.SentencePieceNormalizer(rule_name=_BASE_RULES).decompile())
    table = {character: character for character in (*_PLAIN, *map(chr, _LATIN))} | base
    table = {text: _plain(text if text in _PLAIN else normal, known) for text, normal in table.items()}
    table |= {**dict.fromkeys((*_DROPPED, *_COMBINING), ""), "``": '"', "''": '"'}  # LaTeX quotes too
    if keep_lines:
        # The space lets the first word of a line be the piece that it is elsewhere. A blank line says no more.
        for end in _LINE_ENDS:
            table |= {space + end * times: f"{LINE_BREAK} " for times in range(1, 5) for space in ("", " ")}
    return {text: normal for text, normal in table.items() if text != normal}


def _plain(text: str, known: Set[str] | None) -> str:
    return "".join(_PLAIN.get(character) or _letter(character, known) for character in text)


def _letter(character: str, known: Set[str] | None) -> str:
    if known is None or character in known or ord(character) not in _LATIN:
        return character
    if character in _LETTERS:
        return _plain(_LETTERS[character], known)
    base = unicodedata.normalize("NFD", character)[:-1]  # from ễ to ê to e, as far as it must be
    return _plain(unicodedata.normalize("NFC", base), known) or character


def base_letter(letter: str) -> str:
    """`letter` without its mark: `e` for `é`, `l` for `ł`."""
    return _LETTERS.get(letter) or unicodedata.normalize("NFD", letter)[0]
