"""Readers whose targets are made: sentences of the source, chosen, in natural case, from the splits they are for."""

from pathlib import Path

import pytest

from model.tasks import TOPICS
from support.training_runs import write_jsonl
from training.data.extracts import sentences
from training.data.readers import READERS, read_gap_sentences, read_leads, read_oracle_extracts, read_prose
from training.data.terms import TERMS

BRIDGE = "The council will build a new bridge over the river next year."
COST = "The new bridge over the river will cost nine million euros."
WEATHER = "Nobody had expected such heavy rain in the first week of June."
PASSAGE = f"{BRIDGE} {COST} {WEATHER} {BRIDGE}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with one text of each kind."""
    write_jsonl(tmp_path / "summarization" / "bbc_extractive.jsonl.gz", [{"document": PASSAGE}])
    pairs = [
        {"document": PASSAGE, "summary": "x", "source": source}
        for source in ("cnn_dailymail", "scitldr_abstract", "dialogsum")
    ]
    write_jsonl(tmp_path / "summarization" / "train.jsonl.gz", pairs)
    write_jsonl(tmp_path / "prose" / "dev.jsonl.gz", [{"document": PASSAGE}, {"document": "Too short."}])
    return tmp_path


def topics(root: Path, *rows: dict[str, str]) -> None:
    write_jsonl(root / "topic" / "train.jsonl.gz", [{"label": "World", **row} for row in rows])


def test_leads_cut_dateline_and_stub_and_every_second_has_its_title(root: Path) -> None:
    text = f"LONDON (Reuters) - {BRIDGE} {COST}"
    topics(
        root,
        {"description": text, "title": "Bridge"},
        {"description": text, "title": "Bridge"},
        {"description": f"{text} The rest of this was cut off by the ag.."},
        {"description": "Too short."},
    )
    first, titled, stub = read_leads(root, "train")
    assert [first.source, titled.source, stub.source] == [text, f"Bridge. {text}", text]
    assert {one.summary for one in (first, titled, stub)} == {BRIDGE}
    assert first.labels == {"topic": (TOPICS.index("World"),)}


def test_gap_sentences_are_of_news_and_abstracts_in_train_alone(root: Path) -> None:
    examples = read_gap_sentences(root, "train")
    assert len(examples) == 3  # a passage of each; dialogues have none
    for example in examples:
        assert example.origin == "gap_sentence"
        assert example.summary in sentences(example.source)
    assert read_gap_sentences(root, "dev") == []


def test_prose_is_read_from_every_split(root: Path) -> None:
    [example] = read_prose(root, "dev")
    assert (example.origin, example.source) == ("gutenberg", PASSAGE)
    assert example.summary in (BRIDGE, COST)


def test_oracle_extracts_restore_case_and_start_after_the_author(root: Path) -> None:
    topics(root, {"description": "It said that Karen Novak of the council spoke. They met Karen Novak."})
    article = (
        "by. karen novak. karen novak said the council will build a bridge. it rained the whole of the first week."
    )
    folder = root / "summarization" / "cnndm_lower"
    write_jsonl(
        folder / "train-1.jsonl.gz", [{"document": article, "summary": "council will build a bridge, novak said"}]
    )
    [example] = read_oracle_extracts(root, "train")
    assert example.summary == "Karen Novak said the council will build a bridge."
    assert example.source == f"{example.summary} It rained the whole of the first week."
    assert read_oracle_extracts(root, "dev") == []


def test_of_a_long_article_the_beginning_is_read(root: Path) -> None:
    topics(root, {"description": "Nothing."})
    sentence = "the council will build a new bridge over the river next year."
    folder = root / "summarization" / "cnndm_lower"
    write_jsonl(folder / "train-1.jsonl.gz", [{"document": " ".join([sentence] * 40), "summary": sentence}])
    [example] = read_oracle_extracts(root, "train")
    assert len(example.source.split()) == 230 // 12 * 12


def test_every_reader_s_origin_has_terms(root: Path, data: Path) -> None:
    topics(root, {"description": f"{BRIDGE} {COST}"})
    made = [*read_leads(root, "train"), *read_gap_sentences(root, "train"), *read_prose(root, "dev")]
    made += [example for name in ("summaries", "emotions", "topics") for example in READERS[name](data, "train")]
    assert {example.origin for example in made} <= set(TERMS)
