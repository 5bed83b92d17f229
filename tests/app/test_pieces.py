"""Summaries in pieces, and without repeated sentences."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.request import EngineResult
from app.pieces import DistinctSentences, JoinedText, distinct_sentences
from model.storage.checkpoint import Checkpoint
from model.support import folded, sentence_spans

# What decides where sentences end and which are the same: marks, spaces, case, abbreviations, lines, full width.
PARTS = (
    "A",
    "b",
    "Bo",
    "B",
    "Mr",
    "é",
    ".",
    ".",
    ". ",
    "! ",
    "?",
    "…",
    " ",
    " ",
    "\n",
    "。",
    '"',
    "”",
    "1",
    "One is. ",
)


def sentences_of(text: str) -> list[str]:
    return [" ".join(folded(text[span.start : span.end]).split()) for span in sentence_spans(text)]


@given(st.lists(st.sampled_from(PARTS), max_size=60).map("".join))
def test_no_sentence_comes_twice_and_the_first_of_each_stays_in_order(text: str) -> None:
    assert sentences_of(distinct_sentences(text)) == list(dict.fromkeys(sentences_of(text)))


@given(st.lists(st.sampled_from(PARTS), max_size=60).map("".join), st.lists(st.integers(0, 100), max_size=20))
def test_pieces_add_up_to_the_same_wherever_the_text_is_cut(text: str, places: list[int]) -> None:
    cuts = sorted({0, *(min(place, len(text)) for place in places), len(text)})
    sentences = DistinctSentences()
    pieces = [sentences.push(text[start:end]) for start, end in pairwise(cuts)]
    assert "".join([*pieces, sentences.end()]) == distinct_sentences(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is. Two is. One  is. Three.", "One is. Two is. Three."),
        ("One  is.\nTwo.", "One  is.\nTwo."),
        ("Ann Beta.\nGo.\nAnn\nGo. Beta.", "Ann Beta.\nGo.\nAnn\nBeta."),
        ("Ah. Bo。Ah. Bo。c.", "Ah. Bo。\nc."),
    ],
)
def test_sentences_are_not_repeated(text: str, expected: str) -> None:
    assert distinct_sentences(text) == expected


def test_only_what_may_be_a_repeat_is_held_back() -> None:
    sentences = DistinctSentences()
    given = [
        sentences.push(piece) for piece in ("It", " was", " a record.", " It", " was", " late.", " It was a", " r")
    ]
    assert given == ["It", " was", " a record.", "", "", " It was late.", "", ""]
    assert sentences.push("ecord.") + sentences.end() == ""


def test_further_parts_wait_for_those_before(checkpoint: Checkpoint) -> None:
    texts = ("The old bridge.", "", "Shares rose.")
    token_ids = [checkpoint.tokenizer.encode(text) for text in texts]
    joined = JoinedText(checkpoint.tokenizer, len(texts))
    assert [joined.take(2, token_id) for token_id in token_ids[2]] == [""] * len(token_ids[2])
    assert joined.take(2, EngineResult()) == ""
    first = [joined.take(0, token_id) for token_id in token_ids[0]]
    assert "".join(first) == texts[0]
    assert len(first) > 1
    assert joined.take(0, EngineResult()) == ""
    assert joined.take(1, EngineResult()) == " Shares rose."
