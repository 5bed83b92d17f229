"""Targets that are sentences of their own source: found where sentences end, chosen by what they share."""

import pytest

from training.data.extracts import (
    case_table,
    central_sentences,
    oracle_sentences,
    passages,
    restore_case,
    sentences,
    without_dateline,
)

BRIDGE = "The council will build a new bridge over the river next year."
COST = "The new bridge over the river will cost nine million euros."
WEATHER = "Nobody had expected such heavy rain in the first week of June."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One came. Two left! Did three stay? Yes.", ["One came.", "Two left!", "Did three stay?", "Yes."]),
        ("He said “No.” Then he left.", ["He said “No.”", "Then he left."]),
        ('"It is late," she said. "Go home." They went.', ['"It is late," she said.', '"Go home."', "They went."]),
        ("It rose 3.5 percent, i.e. by a lot.", ["It rose 3.5 percent, i.e. by a lot."]),
        ("First line\nsecond line. Third.\n\n", ["First line", "second line.", "Third."]),
        ("", []),
    ],
)
def test_sentences_end_where_one_does(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("LONDON (Reuters) - Shares fell.", "Shares fell."),
        ("AP - Shares fell.", "Shares fell."),
        ("Reuters -- Shares fell.", "Shares fell."),
        ("Shares fell - again - on Monday.", "Shares fell - again - on Monday."),
        ("AP - AP - Shares fell.", "AP - Shares fell."),
        ("Shares fell (again) - on Monday.", "Shares fell (again) - on Monday."),
        ("HP -- which led -- fell.", "HP -- which led -- fell."),
    ],
)
def test_a_dateline_is_cut_off_once(sentence: str, expected: str) -> None:
    assert without_dateline(sentence) == expected


def test_passages_use_every_sentence_once_and_in_order() -> None:
    text = " ".join(f"Sentence number {number} stands here." for number in range(40))
    cut = list(passages(text, seed=3, shortest=3, longest=9))
    flat = [sentence for passage in cut for sentence in passage]
    assert flat == sentences(text)[: len(flat)]
    assert len(flat) > 40 - 3  # fewer than a passage are left
    assert all(len(passage) <= 9 for passage in cut)
    assert all(len(passage) >= 3 for passage in cut[:-1])
    assert cut == list(passages(text, seed=3, shortest=3, longest=9))
    assert cut != list(passages(text, seed=4, shortest=3, longest=9))


def test_a_text_that_is_too_short_gives_no_passage() -> None:
    assert list(passages("One. Two.", seed=0, shortest=3, longest=9)) == []


def test_the_central_sentence_shares_most_with_the_rest() -> None:
    assert central_sentences([WEATHER, COST, BRIDGE], is_lead=False) in ([COST], [BRIDGE])
    assert central_sentences([WEATHER, COST, BRIDGE, "The river bridge will be new."], is_lead=False) != [WEATHER]


def test_the_first_sentence_of_a_news_text_has_a_bonus() -> None:
    source = [BRIDGE, COST, WEATHER]
    scores_alike = "The council will build a new bridge over the river next month."
    assert central_sentences([*source[1:], BRIDGE, scores_alike][::-1], is_lead=True) == [scores_alike]
    assert central_sentences([WEATHER, WEATHER], is_lead=True) == [WEATHER]


def test_a_long_passage_gives_two_sentences_in_their_order() -> None:
    source = [WEATHER, BRIDGE, *["Short one."] * 5, COST]
    assert central_sentences(source, is_lead=False) == [BRIDGE, COST]


def test_sentences_of_a_few_or_very_many_words_are_no_targets() -> None:
    assert central_sentences(["Too short.", "word " * 41], is_lead=True) == []
    assert oracle_sentences(["Too short.", "word " * 41], "Too short.", at_most=2) == []


def test_the_oracle_adds_sentences_while_they_bring_it_nearer() -> None:
    reference = "The council will build a bridge over the river next year. The bridge will cost nine million euros."
    assert oracle_sentences([WEATHER, BRIDGE, COST], reference, at_most=3) == [BRIDGE, COST]
    assert len(oracle_sentences([WEATHER, BRIDGE, COST], reference, at_most=1)) == 1
    assert oracle_sentences([WEATHER], "Completely different words", at_most=3) == []


def test_case_is_restored_as_the_texts_spell_it() -> None:
    table = case_table(["The mayor met Ella Novak of the UN. Then Ella spoke.", "They say that may is May."])
    assert restore_case("then ella novak spoke. the un listened.", table) == "Then Ella Novak spoke. The UN listened."


def test_the_first_word_of_a_sentence_says_nothing_about_its_case() -> None:
    assert "bridges" not in case_table(["Bridges fall."])
    assert restore_case("they build bridges", case_table(["Bridges fall. We like bridges."])) == "They build bridges"
