"""Vocabularies as training makes them: typography as ASCII, letters and emoji as characters, line breaks kept."""

import pytest

from model.tokenizer import Tokenizer
from training.data.vocabulary import train_vocabulary

TYPOGRAPHIC = {
    "The council’s plan — which “residents” call ‘late’ …": "The council's plan - which \"residents\" call 'late' ...",
    "2010–2014, pages 3‑5, −2 °C": "2010-2014, pages 3-5, -2 °C",
    "a\u00a0narrow\u202fspace and\u2003a wide one": "a narrow space and a wide one",
    "Ｆｕｌｌ　ｗｉｄｔｈ　１２３": "Full width 123",
    "«Bonjour», „Hallo“ and ``LaTeX''": '"Bonjour", "Hallo" and "LaTeX"',
    "soft\u00adhyphen, 👍🏽 and ❤\ufe0f": "softhyphen, 👍 and ❤",
    "• one\n• two": "- one\n- two",
    "½ of it, 5 × 3 → 15": "1/2 of it, 5 x 3 > 15",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    lines = [f"The council voted {number} times to build a new bridge, and quick foxes jump." for number in range(500)]
    train_vocabulary(lines, path, 350)
    return Tokenizer(path)


@pytest.mark.parametrize("text", TYPOGRAPHIC)
def test_typographic_text_has_the_ids_of_its_plain_form(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids == tokenizer.encode(TYPOGRAPHIC[text])
    assert 2 not in ids


@pytest.mark.parametrize(
    "text", ["Müller paid £20 to José", "🙂 😂 👍 ❤", "naïve café, Łukasz and Şebnem", "a_b #1 @x <y> {z}"]
)
def test_letters_with_marks_currencies_and_emoji_are_pieces_and_come_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert 2 not in ids
    assert tokenizer.decode(ids) == text


def test_a_letter_that_is_no_piece_loses_its_mark(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("Nguyễn, ṭ, e\u0323")) == "Nguyên, t, e"


def test_line_breaks_are_a_piece_and_words_after_them_are_whole(tokenizer: Tokenizer) -> None:
    [newline] = set(tokenizer.encode("a\nb")) - set(tokenizer.encode("a b"))
    assert tokenizer.piece(newline) == "\n"
    ids = tokenizer.encode("The bridge\nThe council")
    assert ids == [*tokenizer.encode("The bridge"), newline, *tokenizer.encode("The council")]
    for same in ("The bridge\r\nThe council", "The bridge \n\n\nThe council", "The bridge\n  The council"):
        assert tokenizer.encode(same) == ids


def test_what_is_no_piece_is_unknown_and_has_no_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("漢字 bridge")
    assert 2 in ids
    assert tokenizer.decode(ids) == "bridge"
    assert not any(tokenizer.piece(number).startswith("<0x") for number in range(tokenizer.num_pieces))
