import time
from itertools import chain, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import chunks as cutting
from app.chunks import TextEncoder, chapters, encode_in_blocks, tokenizing_cost
from model.storage.checkpoint import Checkpoint
from model.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return checkpoint.tokenizer


def cut_into_chunks(tokenizer: TextEncoder, text: str, max_tokens: int) -> list[list[int]]:
    """Token ids of the chunks, whose places in the text are in order."""
    found = cutting.cut_into_chunks(tokenizer, text, max_tokens)
    for one, following in pairwise(found):
        assert one.start < one.end
        assert following.start >= one.end or one.start == following.start  # of one long word
    return [chunk.token_ids for chunk in found]


SENTENCES = [f"The council voted for bridge number {number}." for number in range(20)]


def test_chunks_end_at_sentence_ends(tokenizer: Tokenizer) -> None:
    chunks = cut_into_chunks(tokenizer, " ".join(SENTENCES), 60)
    assert len(chunks) > 3
    texts = [tokenizer.decode(chunk) for chunk in chunks]
    assert all(text.endswith(".") for text in texts)
    assert " ".join(texts) == " ".join(SENTENCES)


@pytest.mark.parametrize("end", ['."', ".'", "!)", "?", "…", ".”", "。", "！"])
def test_closing_marks_stay_with_their_sentence(tokenizer: Tokenizer, end: str) -> None:
    space = "" if end in "。！" else " "
    one = "He said that it was over" + end
    room = len(tokenizer.encode(one))
    chunks = cut_into_chunks(tokenizer, space.join([one] * 4), room)
    assert chunks == [tokenizer.encode(one)] * 4


def test_paragraphs_without_end_marks_are_cut_at_lines(tokenizer: Tokenizer) -> None:
    lines = ["First heading", "Second heading", "Third heading"]
    room = max(len(tokenizer.encode(line)) for line in lines)
    chunks = cut_into_chunks(tokenizer, "\r\n\n".join(lines), room)
    assert [tokenizer.decode(chunk) for chunk in chunks] == lines


def test_chunks_are_of_like_length(tokenizer: Tokenizer) -> None:
    sentence = SENTENCES[0]
    length = len(tokenizer.encode(sentence))
    chunks = cut_into_chunks(tokenizer, " ".join([sentence] * 6), 5 * length)
    assert [len(chunk) // length for chunk in chunks] == [3, 3]


def test_sentence_longer_than_a_chunk_is_cut_between_words(tokenizer: Tokenizer) -> None:
    words = [f"word{number}" for number in range(50)]
    chunks = cut_into_chunks(tokenizer, " ".join(words), 30)
    assert all(len(chunk) <= 30 for chunk in chunks)
    assert " ".join(tokenizer.decode(chunk) for chunk in chunks).split() == words


def test_word_longer_than_a_chunk_is_cut_between_tokens(tokenizer: Tokenizer) -> None:
    chunks = cut_into_chunks(tokenizer, "xyz" * 100, 16)
    assert all(len(chunk) <= 16 for chunk in chunks)
    assert list(chain(*chunks)) == tokenizer.encode("xyz" * 100)


def test_short_text_is_one_chunk_equal_to_its_encoding(tokenizer: Tokenizer) -> None:
    text = "Two sentences. And a second one!"
    assert cut_into_chunks(tokenizer, text, 100) == [tokenizer.encode(text)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("ab .!?\n\t\"'。\u00e9\u4e2d\U0001f600"), max_size=200), room=st.integers(5, 40))
def test_nothing_is_lost_and_no_chunk_is_too_long(tokenizer: Tokenizer, text: str, room: int) -> None:
    chunks = cut_into_chunks(tokenizer, text, room)
    assert all(len(chunk) <= room for chunk in chunks)
    assert all(chunks) or chunks == [[]]
    joined = tokenizer.decode(list(chain(*chunks)))
    assert "".join(joined.split()) == "".join(tokenizer.decode(tokenizer.encode(text)).split())


@pytest.mark.parametrize(
    "text", [" " * 200_000 + "x", '.""' * 60_000, "\n" * 200_000 + "x", ". " * 100_000, "x" * 200_000]
)
def test_awkward_texts_take_time_in_proportion(tokenizer: Tokenizer, text: str) -> None:
    start = time.perf_counter()
    cut_into_chunks(tokenizer, text, 64)
    assert time.perf_counter() - start < 10  # a quadratic cut takes minutes


@given(st.lists(st.text(alphabet=st.sampled_from("ab .é“😀\ufdfa\n\u00a0"), max_size=30), max_size=12))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_between_words_add_up_to_the_whole(tokenizer: Tokenizer, words: list[str]) -> None:
    text = " ".join(word.replace(" ", "") for word in words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "app.chunks._BLOCK_COST", 1 + max((tokenizing_cost(f" {word} ") for word in text.split(" ")), default=0)
        )
        blocks = list(encode_in_blocks(tokenizer, text))
    assert list(chain.from_iterable(blocks)) == tokenizer.encode(text)


def test_blocks_are_bounded_whatever_is_in_them(tokenizer: Tokenizer) -> None:
    for text in ("x" * 100_000, "\ufdfa" * 10_000, "😀" * 10_000, "a b " * 20_000, " " * 50_000, "¼" * 30_000, ""):
        sizes = [len(block) for block in encode_in_blocks(tokenizer, text)]
        assert max(sizes, default=0) <= 3_000
        assert len(sizes) <= 4 * tokenizing_cost(text) / 2_000 + 2


BODY = "It was a day like any other, and nobody knew what would come of it, least of all the people of the town. " * 3


def starts(text: str) -> list[str]:
    return [text[start:end].split("\n")[0].strip() for start, end in chapters(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BODY, [BODY.strip()]),
        (f"CHAPTER I. A Day\n\n{BODY}\n\nCHAPTER II. A Night\n\n{BODY}", ["CHAPTER I. A Day", "CHAPTER II. A Night"]),
        (f"PART ONE\n\nChapter 1\n\n{BODY}\nChapter 2\n{BODY}", ["PART ONE", "Chapter 2"]),
        (f"{BODY}\nLetter 1\r\n{BODY}", [BODY.strip(), "Letter 1"]),
        # Lists of contents, with the chapters after them, and without.
        (f"Chapter I.\nChapter II.\nChapter III.\n\n{BODY}", ["Chapter I."]),
        (
            f"Title\nChapter I. One\nChapter II. Two\nChapter III. Three\n{BODY}\nChapter I. One\n{BODY}",
            ["Title", "Chapter I. One"],
        ),
        (
            f"{BODY}\nCHAPTER I. One\nCHAPTER II. Two\nCHAPTER III. Three\n\nCHAPTER I. One\n{BODY}",
            [BODY.strip(), "CHAPTER I. One"],
        ),
        # Prose.
        (f"{BODY}\nchapter one of the book says so, and part two of it too.\n{BODY}", [BODY.strip()]),
        (f"{BODY}\nPart of it was lost. Section 2 of the act says\n{BODY}", [BODY.strip()]),
    ],
)
def test_chapters_begin_at_headings_and_not_at_lists_of_contents(text: str, expected: list[str]) -> None:
    assert starts(text) == expected
    found = chapters(text)
    assert "".join(text[start:end] for start, end in found) == text


def test_no_chunk_holds_the_end_of_one_chapter_and_the_start_of_the_next(tokenizer: Tokenizer) -> None:
    text = f"CHAPTER I. A Day\n\n{BODY}\n\nCHAPTER II. A Night\n\n{BODY}"
    found = cutting.cut_into_chunks(tokenizer, text, 60)
    assert len(found) > 3
    second = text.index("CHAPTER II.")
    assert second in [chunk.start for chunk in found]
    assert tokenizer.decode(found[-1].token_ids).split()[-1] == text.split()[-1]
