import pytest

from model.choices import BUNDLED
from model.tokenizer import Tokenizer
from model.vocabulary_words import count_words, whole_words

WORDS = frozenset({"the", "council", "closed", "library"})
# Written for this test.
ENGLISH = (
    "The council decided on Tuesday to close the old library before the end of the year.",
    "Tom: are you coming tonight?\nAnna: yes, at eight :) I will bring the cake",
    "Thank you so much, this is exactly what I needed!",
    "The tenant shall not let the premises without the prior written consent of the landlord.",
)
OTHERS = (
    "Der Gemeinderat hat am Dienstag beschlossen, die alte Bücherei bis Ende des Jahres zu schließen.",
    "Le conseil municipal a décidé mardi de fermer la vieille bibliothèque avant la fin de l'année.",
    "El ayuntamiento decidió el martes cerrar la antigua biblioteca antes de fin de año.",
    "Rada miasta postanowiła zamknąć starą bibliotekę przed końcem roku.",
    "Городской совет решил закрыть старую библиотеку до конца года.",
    "def add(a, b):\n    return a + b\n\nfor i in range(10):\n    print(add(i, i * 2))",
    "| Q1 | Q2 | Q3 |\n|----|----|----|\n| 12.1 | 13.4 | 11.9 |",
    '<div class="card"><h2>Title</h2> <ul><li><a href="/a">A</a></li> <li>B</li></ul> </div>',
    "asdkjh qwkejh zxmcnb qpwoei alskdj zmxncb",
    "😀 😀 🎉 ❤️ 🔥",
)


def test_whole_words_are_pieces_of_letters_after_a_space() -> None:
    assert whole_words(["▁the", "▁The", "▁a", "ing", "▁", "▁12", "<pad>", "▁don't"]) == {"the"}


def test_known_words_are_counted_whatever_their_case_and_punctuation() -> None:
    assert count_words('"The COUNCIL," closed the council\'s library…', WORDS) == (6, 6)
    assert count_words("The 3 libraries 😀", WORDS) == (4, 1)


def test_single_letters_and_punctuation_alone_are_no_words() -> None:
    assert count_words("a - b — I … . x", WORDS) == (0, 0)
    assert count_words("", WORDS) == (0, 0)


def test_a_long_text_is_judged_by_its_first_words() -> None:
    assert count_words("library " * 2_000 + "xyz " * 2_000, WORDS) == (2_000, 2_000)


@pytest.mark.parametrize("text", ENGLISH)
def test_the_bundled_vocabulary_knows_most_words_of_english(text: str) -> None:
    words, known = count_words(text, Tokenizer(BUNDLED / "spiece.model").words)
    assert known / words > 0.6


@pytest.mark.parametrize("text", OTHERS)
def test_the_bundled_vocabulary_knows_few_words_of_anything_else(text: str) -> None:
    words, known = count_words(text, Tokenizer(BUNDLED / "spiece.model").words)
    assert known / words < 0.5
