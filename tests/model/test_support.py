"""What a source backs of a summary: names and numbers it has, and for each sentence the nearest of its own."""

import random
from itertools import product

import pytest
from rouge_score.rouge_scorer import RougeScorer

from model.support import claims, names_and_numbers, nearest_passages, sentence_spans, unsupported

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
        ("Amanda baked 2 cookies at 7.", ["2", "7"]),  # no digit of another number
        ("The party of Jerry's friend Łukasz is in Bern's station.", ["Łukasz", "Bern"]),
    ],
)
def test_names_and_numbers_that_the_source_lacks_are_found(summary: str, missing: list[str]) -> None:
    assert unsupported(summary, SOURCE) == missing


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The U.S. Army met Mr. Smith. Then Bob left.", "U S Army Mr Smith Bob"),
        ("He asked: “Where is Ann?” Nobody knew, “Titanic” Bob, (Ann said.", "Ann Bob Ann"),
        ("It was 5. The G20 paid $2,500.75 at 7:30pm, not 1,5.", "5 G 20 2,500.75 7:30 1,5"),
        ("One\nTwo (Three) “Four” -Five_Six", "Three Four Five Six"),
        ("A B. C", "B C"),  # an initial ends no sentence
        ("北京。今天 Berlin 第3", "Berlin 3"),
        ("... Wait! …So So.", "So"),
        ("", ""),
    ],
)
def test_names_open_no_sentence_and_numbers_keep_their_separators(text: str, found: str) -> None:
    assert [text[span.start : span.end] for span in names_and_numbers(text)] == found.split()


def test_precision_is_the_share_of_names_and_numbers_that_the_source_has() -> None:
    found = claims("Amanda met Jerry and Bob at 7:30 and at 9.", SOURCE)
    assert found.count == 4
    assert found.precision == 0.5
    assert claims("nothing to see", SOURCE).precision is None


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (" One is here.  Two is? Yes! ", ["One is here.", "Two is?", "Yes!"]),
        ("Mr. Smith of St. Ives met J. Doe. He left.", ["Mr. Smith of St. Ives met J. Doe.", "He left."]),
        ("He said “no.” She said\nyes", ["He said “no.”", "She said", "yes"]),
        ("That is, i.e. this one, is it.", ["That is, i.e. this one, is it."]),
        ("今天下雨。明天晴", ["今天下雨。", "明天晴"]),
        (" \n ", []),
    ],
)
def test_sentences_are_cut_where_they_end(text: str, sentences: list[str]) -> None:
    assert [text[span.start : span.end] for span in sentence_spans(text)] == sentences


@pytest.mark.parametrize("seed", range(20))
def test_nearest_passage_has_the_highest_rouge_l_of_all(seed: int) -> None:
    """By every pair through rouge_score, which knows nothing of words in the bits of an integer."""
    choose, scorer = random.Random(seed), RougeScorer(["rougeL"], use_stemmer=False)

    def sentence() -> str:
        words = choose.choices("the old bridge over a river in town is closed 12 3".split(), k=choose.randint(1, 14))
        return f"{' '.join(words).capitalize()}."

    source = " ".join(sentence() for _ in range(choose.choice((1, 7, 600))))
    summary = " ".join(sentence() for _ in range(choose.randint(1, 9)))
    theirs = [source[span.start : span.end] for span in sentence_spans(source)]
    for span, passage in nearest_passages(summary, source):
        ours = summary[span.start : span.end]
        scores = [scorer.score(ours, one)["rougeL"].fmeasure for one in theirs]
        assert (passage.rouge_l if passage else 0.0) == pytest.approx(max(scores), abs=1e-12)
        if passage:
            assert source[passage.start : passage.end] == theirs[scores.index(max(scores))]


def test_a_sentence_of_other_words_has_no_passage() -> None:
    found = nearest_passages("Amanda baked. … Xyz?", SOURCE)
    assert [passage is None for _, passage in found] == [False, True, True] or len(found) == 2


def test_hostile_texts_take_no_longer_than_their_length() -> None:
    """Longer than a test may, if a pattern looked at one of these from every place anew, or pair by pair."""
    texts = [part * (200_000 // len(part)) for part in ("a ", ".", ". ", " ", "'", ".'", "\n", "A", "1,", "。", "A.\n")]
    for text in texts:
        claims(text[:2_000], text)
        nearest_passages("a b. " * 100, text)
        list(names_and_numbers(text))


def test_it_can_be_ended_between_blocks() -> None:
    class Ended(Exception):
        pass

    calls = 0

    def end_at_third() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Ended

    with pytest.raises(Ended):
        nearest_passages("One two.", "One two. " * 10_000, end_at_third)


def test_offsets_count_code_points() -> None:
    source = "😀😀 Ünïcode. Second one, 🙂 it is."
    [(span, passage)] = nearest_passages("It is second.", source)
    assert passage is not None
    assert source[passage.start : passage.end] == "Second one, 🙂 it is."
    assert (span.start, span.end) == (0, 13)


def test_parts_of_a_folded_text_stay_parts() -> None:
    for first, second in product("İΣßaǅ", repeat=2):
        assert unsupported(f"x {first}{second}", f"y {first}{second}") == []
