"""The streams of examples that a data configuration can name: the data sets as they are, and what is made of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from training.data.examples import (
    HEAD_DATA,
    Example,
    read_headlines,
    read_summaries,
    rows,
    topic_of,
)
from training.data.extracts import (
    case_table,
    central_sentences,
    oracle_sentences,
    passages,
    restore_case,
    sentences,
    without_dateline,
)
from training.data.more import (
    read_chats,
    read_comments,
    read_documents,
    read_joined_topics,
    read_masked_sentences,
    read_more_emotions,
    read_more_topics,
    read_varied_chats,
)
from training.data.renaming import renamed

_COPIES = 2
_MAX_ARTICLE_WORDS = 230  # of an article that is longer, the beginning: news says first what matters


def read_renamed_dialogues(root: Path, split: str) -> list[Example]:
    """DialogSum with other names (see `training.data.renaming`)."""
    dialogues = [example for example in read_summaries(root, split) if example.origin == "dialogsum"]
    return list(renamed(dialogues, _COPIES, seed=0))


def read_leads(root: Path, split: str) -> list[Example]:
    """AG News: title and description, or the description alone; its most central sentence the summary; the topic."""
    examples = []
    for number, (row, where) in enumerate(rows(root / "topic" / f"{split}.jsonl.gz", "description", "label")):
        passage = sentences(row["description"])
        if passage and passage[-1].endswith(".."):  # cut off by the agency
            passage.pop()
        if target := central_sentences([without_dateline(s) for s in passage], is_lead=True):
            text = " ".join(passage)
            with_title = row.get("title") and number % 2
            source = f"{row['title']}. {text}" if with_title else text
            examples.append(Example(source, "ag_lead", summary=" ".join(target), labels=topic_of(row, where)))
    return examples


def read_gap_sentences(root: Path, split: str) -> list[Example]:
    """Passages of news, abstracts and books; the summary is their most central sentence. Train split only."""
    if split != "train":
        return []
    news = [row["document"] for row, _ in rows(root / "summarization" / "bbc_extractive.jsonl.gz", "document")]
    pairs = read_summaries(root, split)
    news += [example.source for example in pairs if example.origin == "cnn_dailymail"]
    abstracts = [example.source for example in pairs if example.origin == "scitldr_abstract"]
    return [e for n, text in enumerate(news) for e in _central(text, n, 3, 9)] + [
        e for n, text in enumerate(abstracts) for e in _central(text, n, 4, 8)
    ]


def read_prose(root: Path, split: str) -> list[Example]:
    """Passages of Project Gutenberg's books; the summary is their most central sentence."""
    return [
        Example(" ".join(passage), "gutenberg", summary=" ".join(target))
        for number, (row, _) in enumerate(rows(root / "prose" / f"{split}.jsonl.gz", "document"))
        for passage in passages(row["document"], number, 4, 9)
        if (target := central_sentences(passage, is_lead=False))
    ]


def read_oracle_extracts(root: Path, split: str) -> list[Example]:
    """CNN/DailyMail, case restored; the summary is what of the article comes nearest to the highlights. Train only."""
    if split != "train":
        return []
    bbc = [row["document"] for row, _ in rows(root / "summarization" / "bbc_extractive.jsonl.gz", "document")]
    titles = [row["description"] for row, _ in rows(root / "topic" / f"{split}.jsonl.gz", "description", "label")]
    table = case_table([*bbc, *titles])
    examples = []
    for path in sorted((root / "summarization" / "cnndm_lower").glob("train-*.jsonl.gz")):
        for row, _ in rows(path, "document", "summary"):
            article = _beginning(sentences(restore_case(row["document"], table)))
            if target := oracle_sentences(article, row["summary"], at_most=2):
                examples.append(Example(" ".join(article), "cnn_oracle", summary=" ".join(target)))
    return examples


READERS: dict[str, Callable[[Path, str], list[Example]]] = {
    **{one.reader: one.read for one in HEAD_DATA.values()},
    "headlines": read_headlines,
    "summaries": read_summaries,
    "renamed_dialogues": read_renamed_dialogues,
    "leads": read_leads,
    "gap_sentences": read_gap_sentences,
    "prose": read_prose,
    "oracle_extracts": read_oracle_extracts,
    "chats": read_chats,
    "varied_chats": read_varied_chats,
    "documents": read_documents,
    "masked_sentences": read_masked_sentences,
    "comments": read_comments,
    "more_topics": read_more_topics,
    "joined_topics": read_joined_topics,
    "more_emotions": read_more_emotions,
}


def _central(text: str, seed: int, shortest: int, longest: int) -> Iterator[Example]:
    for number, passage in enumerate(passages(text, seed, shortest, longest)):
        if target := central_sentences(passage, is_lead=number == 0):
            yield Example(" ".join(passage), "gap_sentence", summary=" ".join(target))


def _beginning(article: list[str]) -> list[str]:
    if article and article[0] == "By.":  # the author's line, split at its stop
        article = article[2:]
    kept: list[str] = []
    num_words = 0
    for sentence in article:
        num_words += len(sentence.split())
        if num_words > _MAX_ARTICLE_WORDS:
            break
        kept.append(sentence)
    return kept
