"""What a summary may have invented: names, numbers, words that are none."""

import pytest

from training.data.support import no_words, unsupported, words

SOURCE = (
    "Amanda: I baked 12 cookies for Jerry’s party in St. Gallen.\nJerry: Sure! See you at 7:30, Ms Müller-Lüdenscheid."
)


@pytest.mark.parametrize(
    "summary",
    [
        "Amanda baked 12 cookies for Jerry.",
        "Tomorrow is Jerry's party.",  # the first word of a sentence is no name by its capital
        "They meet at 7:30 with Müller-Lüdenscheid in St. Gallen.",
        "She, and I, will be there with AMANDA.",
    ],
)
def test_what_the_source_has_is_supported(summary: str) -> None:
    assert unsupported(summary, SOURCE) == []


@pytest.mark.parametrize(
    ("summary", "missing"),
    [
        ("Amanda baked cookies for Jennifer.", ["Jennifer"]),
        ("Amanda baked 13 cookies at 8:30.", ["13", "8:30"]),
        ("The party of Jerry's friend Łukasz is in Bern's station.", ["Łukasz", "Bern"]),
    ],
)
def test_names_and_numbers_that_the_source_lacks_are_found(summary: str, missing: list[str]) -> None:
    assert unsupported(summary, SOURCE) == missing


def test_a_word_is_what_the_source_or_some_text_has() -> None:
    known = words(["They will meet again", "bake"])
    assert no_words("Amanda will meet Jerry", SOURCE, known) == []
    assert no_words("Amanda ucfilebackgif meets Jerry", SOURCE, known) == ["ucfilebackgif", "meets"]
