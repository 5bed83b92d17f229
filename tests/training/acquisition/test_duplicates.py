"""What repeats a held-out row: the same text, nearly the same, or a passage of the same book."""

import pytest

from training.acquisition.duplicates import SIMILARITY, HeldOut
from training.acquisition.rows import Row

WORDS = [f"word{number}" for number in range(60)]
TEXT = " ".join(WORDS)


def row(text: str, book: str | None = None) -> Row:
    return Row({}, text, "", book)


def held(*rows: tuple[Row, str]) -> HeldOut:
    out = HeldOut()
    for number, (one, split) in enumerate(rows, 1):
        out.add(one, split, f"{split}:{number}")
    return out


def changed(num_words: int) -> str:
    """`TEXT` with so many words changed, far from each other: three triples each."""
    places = range(5, 5 + 9 * num_words, 9)
    return " ".join("other" if number in places else word for number, word in enumerate(WORDS))


def test_equal_texts_are_exact_whatever_case_and_marks() -> None:
    out = held((row(TEXT), "dev"))
    found = out.duplicate_of(row(TEXT.upper().replace(" ", ", ")), ["dev"])
    assert found is not None
    assert (found.reason, found.where, found.similarity) == ("exact", "dev:1", 1.0)


@pytest.mark.parametrize("num_words", [1, 2, 3, 4])
def test_texts_are_near_from_the_similarity_on(num_words: int) -> None:
    similarity = (58 - 3 * num_words) / (58 + 3 * num_words)
    found = held((row(TEXT), "dev")).duplicate_of(row(changed(num_words)), ["dev"])
    if similarity >= SIMILARITY:
        assert found is not None
        assert found.reason == "near"
        assert found.similarity == pytest.approx(similarity)
    else:
        assert found is None


def test_the_nearest_of_several_is_named() -> None:
    out = held((row(changed(3)), "dev"), (row(TEXT), "test"), (row(changed(2)), "dev"))
    found = out.duplicate_of(row(changed(1)), ["dev", "test"])
    assert found is not None
    assert found.where == "test:2"


def test_only_the_splits_that_are_asked_count() -> None:
    out = held((row(TEXT), "test"))
    assert out.duplicate_of(row(TEXT), ["dev"]) is None
    assert out.duplicate_of(row(TEXT), ["dev", "test"]) is not None


def test_another_passage_of_a_held_out_book_repeats_it() -> None:
    out = held((row("a passage of it", "17"), "test"))
    found = out.duplicate_of(row("quite another passage", "17"), ["test"])
    assert found is not None
    assert (found.reason, found.where) == ("book", "test:1")
    assert out.duplicate_of(row("quite another passage", "18"), ["test"]) is None
    assert out.duplicate_of(row("quite another passage"), ["test"]) is None


@pytest.mark.parametrize(
    ("text", "same"), [("ok", True), ("Ok!", True), ("no", False), ("ok then", False), ("!", False)]
)
def test_texts_shorter_than_a_triple_are_compared_whole(text: str, same: bool) -> None:
    assert (held((row("ok"), "dev")).duplicate_of(row(text), ["dev"]) is not None) == same
