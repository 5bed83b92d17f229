"""Readers of further data sets: each keeps what it says it keeps, in train or dev alone."""

import itertools
from pathlib import Path

import pytest

from model.support import unsupported
from model.tasks import EMOTIONS, TOPICS
from support.training_runs import write_jsonl
from training.data.more import (
    MASK,
    read_comments,
    read_documents,
    read_joined_topics,
    read_masked_sentences,
    read_more_emotions,
    read_more_topics,
)
from training.data.readers import READERS
from training.errors import DataError

BRIDGE = "The council will build a new bridge over the river next year."
COST = "The new bridge over the river will cost nine million euros."
WEATHER = "Nobody had expected such heavy rain in the first week of June."
PASSAGE = f"{BRIDGE} {COST} {WEATHER}"
EMPTY_DOCUMENT = {"document": PASSAGE, "summary": "Too short."}
DOCUMENT_SETS = ("xsum", "cnn_dailymail_cased_extra", "cochrane_pls", "inshorts_article", "mts_dialog", "aeslc_subject")
PASSAGE_SETS = ("guardian", "imdb_reviews", "reuters21578", "wikipedia_passages")
EMOTION_SETS = ("empathetic_dialogues", "isear", "semeval2018_ec")


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """A data folder whose further data sets have nothing that is kept."""
    for name in DOCUMENT_SETS:
        write_jsonl(tmp_path / "more" / "summarization" / f"{name}.jsonl.gz", [EMPTY_DOCUMENT])
    for name in PASSAGE_SETS:
        write_jsonl(tmp_path / "more" / "pretrain" / f"{name}.jsonl.gz", [{"text": "Too short."}])
    for name in EMOTION_SETS:
        write_jsonl(tmp_path / "more" / "emotion" / f"{name}.jsonl.gz", [{"text": "a", "labels": ["joy"]}])
    return tmp_path


def documents(more: Path, *rows: tuple[str, str], name: str = "xsum") -> list[str]:
    written = [{"document": document, "summary": summary} for document, summary in rows]
    write_jsonl(more / "more" / "summarization" / f"{name}.jsonl.gz", written)
    return [example.summary or "" for example in read_documents(more, "train")]


def test_summaries_are_kept_that_are_shorter_and_have_no_name_of_their_own(more: Path) -> None:
    fitting = "A new bridge will cost nine million euros."
    kept = documents(
        more,
        (PASSAGE, fitting),
        (PASSAGE, "A bridge will be built in Leeds for nine million."),  # a name that the source lacks
        (PASSAGE, "Nine million for a bridge, that is 9 million."),  # a number that it lacks
        (PASSAGE, PASSAGE),  # as long as the source
        (PASSAGE, "A new bridge."),  # hardly a sentence
    )
    assert kept == [fitting]


def test_pounds_are_read_where_they_were_broken(more: Path) -> None:
    [summary] = documents(more, (PASSAGE.replace("euros", "Â£"), "A new bridge will cost nine million Â£."))
    assert summary == "A new bridge will cost nine million £."


def test_of_a_noisy_source_a_part_is_read(more: Path) -> None:
    row = (PASSAGE, "A new bridge will cost nine million euros.")
    assert len(documents(more, *[row] * 1600, name="aeslc_subject")) == 1500


def test_a_masked_sentence_is_the_summary_and_half_of_it_in_sight(more: Path) -> None:
    write_jsonl(more / "more" / "pretrain" / "guardian.jsonl.gz", [{"text": PASSAGE}] * 60)
    examples = read_masked_sentences(more, "train")
    assert len(examples) == 60
    masked = [example for example in examples if MASK in example.source.split()]
    assert 15 < len(masked) < 45  # every second one or so is whole
    for example in examples:
        assert example.summary in (BRIDGE, COST)
        assert WEATHER in example.source
        assert unsupported(example.summary or "", PASSAGE) == []
    for example in masked:
        assert example.summary not in example.source
        words = example.source.split()
        assert all(one != other for one, other in itertools.pairwise(words) if one == MASK)
    assert examples == read_masked_sentences(more, "train")


def test_short_comments_are_their_longest_sentence(more: Path) -> None:
    comments = [
        "I love it so much! Yes.",
        "One two. Three four. Five six. Seven eight.",
        "Thanks [NAME] for all of it!",
    ]
    write_jsonl(more / "emotion" / "train.jsonl.gz", [{"text": text, "labels": ["joy"]} for text in comments])
    assert [(one.source, one.summary) for one in read_comments(more, "train")] == [
        ("I love it so much! Yes.", "I love it so much!")
    ]


def test_further_topics_have_their_title_on_a_line(more: Path) -> None:
    rows = [{"description": "It rose.", "label": "Business", "title": "Shares"}, {"description": "x", "label": "World"}]
    write_jsonl(more / "more" / "topic" / "ag_news_extra.jsonl.gz", rows)
    examples = read_more_topics(more, "train")
    assert [example.source for example in examples] == ["Shares\nIt rose.", "x"]
    assert examples[0].labels == {"topic": (TOPICS.index("Business"),)}


def test_descriptions_of_one_topic_are_joined(tmp_path: Path) -> None:
    found = [{"description": f"{label} {n}.", "label": label} for label in TOPICS for n in range(9)]
    write_jsonl(tmp_path / "topic" / "train.jsonl.gz", found)
    examples = read_joined_topics(tmp_path, "train")
    for number, name in enumerate(TOPICS):
        texts = [example.source for example in examples if example.labels == {"topic": (number,)}]
        assert len(texts) == len(examples) / len(TOPICS)
        parts = [text.removesuffix(".").split(". ") for text in texts[:100]]
        assert all(part.rsplit(" ", 1)[0] == name for text in parts for part in text)
        assert {len(text) for text in parts} == set(range(3, 9))
        assert all(len(set(text)) == len(text) for text in parts)


def test_emotions_of_other_sets_are_those_of_goemotions(more: Path) -> None:
    rows = [{"text": "b", "labels": ["anger", "fear"]}]
    write_jsonl(more / "more" / "emotion" / "isear.jsonl.gz", rows)
    found = {example.origin: example.labels["emotions"] for example in read_more_emotions(more, "train")}
    assert found["isear"] == (EMOTIONS.index("anger"), EMOTIONS.index("fear"))
    write_jsonl(more / "more" / "emotion" / "isear.jsonl.gz", [{"text": "b", "labels": ["hunger"]}])
    with pytest.raises(DataError, match=r"isear.jsonl.gz:1: .*hunger"):
        read_more_emotions(more, "train")


@pytest.mark.parametrize(
    "name",
    [
        *("varied_chats", "documents", "masked_sentences", "comments"),
        *("more_topics", "joined_topics", "more_emotions"),
    ],
)
def test_what_is_made_for_training_is_in_no_other_split(name: str, tmp_path: Path) -> None:
    assert READERS[name](tmp_path / "no such folder", "dev") == []
