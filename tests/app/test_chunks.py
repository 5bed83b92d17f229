import time
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.chunks import cut_into_chunks, encode_in_blocks, tokenizing_cost
from model.storage.checkpoint import Checkpoint
from model.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return checkpoint.tokenizer


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
