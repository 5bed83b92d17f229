"""What a vocabulary reads as one and the same: quotes, dashes, marks that it does not know, ends of lines."""

import pytest

from training.data.typography import LETTERS_WITH_MARKS, LINE_BREAK, base_letter, normalisation

PLAIN = normalisation(None, keep_lines=False)
KNOWN = normalisation({"é", "a", "e"}, keep_lines=True)


@pytest.mark.parametrize(
    ("typed", "plain"),
    [("’", "'"), ("“", '"'), ("«", '"'), ("–", "-"), ("—", " - "), ("•", "- "), ("→", ">"), ("×", "x"), ("``", '"')],
)
def test_marks_of_typesetting_are_ascii(typed: str, plain: str) -> None:
    assert PLAIN[typed] == plain


@pytest.mark.parametrize("invisible", ["\u00ad", "\u200d", "\ufe0f", "\U0001f3fd", "\u0301"])
def test_what_shows_nothing_by_itself_is_dropped(invisible: str) -> None:
    assert PLAIN[invisible] == ""


def test_letters_keep_their_marks_where_all_may() -> None:
    assert not {"é", "ł", "ß"} & PLAIN.keys()


@pytest.mark.parametrize(
    ("letter", "plain"), [("è", "e"), ("ễ", "e"), ("ß", "ss"), ("Ø", "O"), ("ł", "l"), ("þ", "th"), ("Æ", "AE")]
)
def test_a_letter_that_is_no_piece_loses_its_mark(letter: str, plain: str) -> None:
    assert KNOWN[letter] == plain


def test_a_letter_that_is_a_piece_stays_and_so_does_the_table_without_doubles() -> None:
    assert "é" not in KNOWN
    assert all(text != normal for text, normal in KNOWN.items())


def test_a_letter_loses_only_the_marks_that_are_too_many() -> None:
    assert normalisation({"ê"}, keep_lines=False)["ễ"] == "ê"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\n\n\n", " \n"])
def test_line_ends_are_one_piece_and_a_space(end: str) -> None:
    assert KNOWN[end] == f"{LINE_BREAK} "


def test_line_ends_are_spaces_where_none_are_kept() -> None:
    assert PLAIN["\n"] == " "


def test_every_letter_has_a_base_without_mark() -> None:
    assert len(set(LETTERS_WITH_MARKS)) == len(LETTERS_WITH_MARKS)
    for letter in LETTERS_WITH_MARKS:
        base = base_letter(letter)
        assert base.isascii()
        assert base[0].isupper() == letter.isupper()
