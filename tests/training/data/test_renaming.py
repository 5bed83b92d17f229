"""Copies of summaries under other names: exchanged in source and summary alike, from the names that there are."""

import re

from training.data.examples import Example
from training.data.renaming import renamed

NEWS = Example(
    "The mayor said that Novak, aged 34, met Ella in the hall.", "cnn_dailymail", summary="At 34, Novak met Ella."
)
CHAT = Example(
    "#Person1#: Did you call Karen? #Person2#: I did, at 9.", "dialogsum", summary="#Person2# has called Karen."
)
NAMELESS = Example("It rained all day, and nothing else.", "cnn_dailymail", summary="It rained.")
POOL = {"Novak", "Ella", "Karen"}


def words(text: str | None) -> list[str]:
    return re.findall(r"#\w+#|\w+", text or "")


def test_copies_have_other_names_in_source_and_summary_alike() -> None:
    for copy in renamed([NEWS, CHAT], copies=8, seed=0):
        original = NEWS if copy.origin == NEWS.origin else CHAT
        exchanged = dict(zip(words(original.source), words(copy.source), strict=True))
        assert [exchanged.get(word, word) for word in words(original.summary)] == words(copy.summary)
        changed = {word for word, other in exchanged.items() if word != other}
        assert changed <= {"Novak", "Ella", "Karen", "34", "#Person1#", "#Person2#"}
        assert {exchanged[word] for word in changed if word != "34"} <= POOL


def test_every_second_copy_of_a_chat_names_its_speakers() -> None:
    copies = [copy for copy in renamed([CHAT, NEWS], copies=4, seed=0) if copy.origin == CHAT.origin]
    assert ["#Person" in copy.source for copy in copies] == [True, False, True, False]
    for copy in copies[1::2]:
        first, second = re.findall(r"(\w+):", copy.source)
        assert first != second
        assert {first, second} <= POOL
        assert (copy.summary or "").startswith(f"{second} has called")


def test_a_number_that_both_have_is_another_one_of_as_many_digits_or_fewer() -> None:
    ages = {int(match[0]) for copy in renamed([NEWS, CHAT], 30, 1) if (match := re.search(r"\d+", copy.summary or ""))}
    assert len(ages) > 5
    assert all(2 <= age <= 100 for age in ages)


def test_a_number_of_the_source_alone_stays() -> None:
    for copy in renamed([CHAT, NEWS], copies=2, seed=0):
        if copy.origin == CHAT.origin:
            assert copy.source.endswith("at 9.")


def test_names_within_words_stay() -> None:
    row = Example("They said Ann spoke in Annapolis.", "x", summary="Indeed Ann spoke.")
    copy = next(renamed([row, NEWS], copies=1, seed=2))
    assert copy.source.endswith("in Annapolis.")


def test_what_has_neither_names_nor_speakers_has_no_copies() -> None:
    assert list(renamed([NAMELESS], copies=3, seed=0)) == []
    assert {copy.origin for copy in renamed([NAMELESS, CHAT], copies=3, seed=0)} == {"dialogsum"}


def test_copies_depend_on_the_seed_alone() -> None:
    assert list(renamed([NEWS, CHAT], 3, seed=5)) == list(renamed([NEWS, CHAT], 3, seed=5))
    assert list(renamed([NEWS, CHAT], 3, seed=5)) != list(renamed([NEWS, CHAT], 3, seed=6))
