"""Passages of running prose: what is none of it is left out, lengths are bounded, a long book is sampled evenly."""

import itertools

import pytest

from training.acquisition.prose import passages

SENTENCE = "The old man went down to the river in the evening and looked for a long time at the water."  # 19 words


def paragraph(number: int, num_sentences: int = 5) -> str:
    return " ".join([f"It was day number {number}.", *[SENTENCE] * num_sentences])


def book(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs)


def test_paragraphs_are_joined_until_a_passage_is_long_enough() -> None:
    [passage] = passages(book(paragraph(1), paragraph(2)))
    assert passage == f"{paragraph(1)}\n{paragraph(2)}"
    assert 150 <= len(passage.split()) <= 400
    assert passages(book(paragraph(1))) == []  # 100 words


@pytest.mark.parametrize(
    "between",
    [
        "CHAPTER II. THE RIVER AND THE SEA AND ALL THAT IS IN THEM.",
        "A heading without an end",
        "Produced by a Project Gutenberg volunteer.",
        "Roses are red,\nviolets are blue,\nthe lines are short.",
        "1 + 1 = 2 | § 3 * 4 = 12 | # 5 < 6.",
    ],
    ids=["capitals", "heading", "imprint", "verse", "symbols"],
)
def test_what_is_no_prose_ends_a_passage_and_is_left_out(between: str) -> None:
    assert passages(book(paragraph(1), between, paragraph(2))) == []
    [passage] = passages(book(paragraph(1), between, paragraph(2), paragraph(3)))
    assert passage == f"{paragraph(2)}\n{paragraph(3)}"


def test_lines_of_prose_are_one_line() -> None:
    wrapped = paragraph(1, 9).replace(" and looked", "\r\nand looked")
    [passage] = passages(wrapped)
    assert passage == paragraph(1, 9)


def test_a_paragraph_that_is_too_long_is_passed_over() -> None:
    assert passages(paragraph(1, 30)) == []
    assert passages(book(paragraph(1, 30), paragraph(2, 9))) == [paragraph(2, 9)]


def test_a_long_book_gives_twenty_passages_from_all_of_it() -> None:
    every = [paragraph(number, 9) for number in range(100)]
    found = passages(book(*every))
    places = [every.index(passage) for passage in found]
    assert len(places) == 20
    assert {later - earlier for earlier, later in itertools.pairwise(places)} == {5}
    assert 0 <= places[0] < 5
    assert 95 <= places[-1] < 100
