"""Readers of further data sets, in `more/` of the data folder: chats, documents, texts for denoising, labels."""

import random
from pathlib import Path
from zlib import crc32

from model.support import unsupported
from model.tasks import EMOTIONS, TOPICS
from training.data.chats import varied
from training.data.examples import Example, label_number, read_emotions, rows, topic_of
from training.data.extracts import central_sentences, passages, sentences

# Data set → how many of its rows; None: all. What is noisy or headline-like gets a small part, or none.
_DOCUMENTS: dict[str, int | None] = {
    **{"xsum": None, "cnn_dailymail_cased_extra": None, "cochrane_pls": None, "inshorts_article": None},
    **{"mts_dialog": None, "aeslc_subject": 1500},
}
_EMOTIONS: dict[str, int | None] = {"empathetic_dialogues": None, "isear": 2500, "semeval2018_ec": 1500}
_PASSAGES = {"guardian": 4_000, "imdb_reviews": 2_000, "reuters21578": 1_000, "wikipedia_passages": 2_000}
_HELD_OUT = 20  # one chat in so many
_CHAT_COPIES = 2
_COMMENTS = 4_000
_MAX_PASSAGE_CHARS = 4_000
_JOINED = 9_000
MASK = "_"
CHATS = Path("more", "summarization", "samsum.jsonl.gz")


def read_chats(root: Path, split: str) -> list[Example]:
    """SAMSum: chats of named speakers. Its dev is a cut of the official train split, by a hash of the row's id."""
    return [
        Example(row["document"], "samsum", summary=row["summary"])
        for row, _ in rows(root / CHATS, "document", "summary", "id")
        if (crc32(row["id"].encode()) % _HELD_OUT == 0) == (split == "dev")
        and (split == "dev" or not unsupported(row["summary"], row["document"]))
    ]


def read_varied_chats(root: Path, split: str) -> list[Example]:
    """The same with other names and in other forms (see `training.data.chats`). Train only."""
    return list(varied(read_chats(root, split), _CHAT_COPIES, seed=0)) if split == "train" else []


def read_documents(root: Path, split: str) -> list[Example]:
    """Articles, e-mails, reviews of studies and visits to the doctor with summaries. Train only."""
    if split != "train":
        return []
    folder = root / "more" / "summarization"
    examples = [
        Example(row["document"].replace("Â£", "£"), name, summary=row["summary"].replace("Â£", "£"))
        for name, most in _DOCUMENTS.items()
        for row, _ in list(rows(folder / f"{name}.jsonl.gz", "document", "summary"))[:most]
        if 4 < len(row["summary"].split()) < 0.7 * len(row["document"].split())
    ]
    return [example for example in examples if not unsupported(example.summary or "", example.source)]


def read_masked_sentences(root: Path, split: str) -> list[Example]:
    """Passages of which the most central sentence has words masked; the summary is that sentence. Train only.

    Gap sentences and span corruption in one: the target says what the passage is about, and half of it is in sight.
    Every second passage is whole, so that masks are not what is looked for.
    """
    if split != "train":
        return []
    rng = random.Random(0)
    examples = []
    for name, most in _PASSAGES.items():
        found = list(rows(root / "more" / "pretrain" / f"{name}.jsonl.gz", "text"))
        for number, (row, _) in enumerate(rng.sample(found, min(most, len(found)))):
            text = row["text"][:_MAX_PASSAGE_CHARS]
            for passage in list(passages(text, number, 3, 8))[:2]:
                if target := central_sentences(passage, is_lead=False)[:1]:
                    place = passage.index(target[0])
                    sentence = _masked(target[0], rng) if rng.random() < 0.5 else target[0]
                    masked = " ".join([*passage[:place], sentence, *passage[place + 1 :]])
                    examples.append(Example(masked, "masked_sentence", summary=target[0]))
    return examples


def read_comments(root: Path, split: str) -> list[Example]:
    """Comments of one to three sentences; the longest sentence is the summary. Train only.

    What is short already is said again, instead of being spun out to the length of a summary.
    """
    if split != "train":
        return []
    comments = [example.source for example in read_emotions(root, split)[: 2 * _COMMENTS]]
    return [
        Example(text, "comment", summary=max(found, key=len))
        for text in comments
        if len(found := sentences(text)) <= 3 and "[" not in text and max(map(len, found)) > 0.4 * len(text)
    ][:_COMMENTS]


def read_more_topics(root: Path, split: str) -> list[Example]:
    """Further rows of AG News, titles on a line of their own. Train only."""
    if split != "train":
        return []
    return [
        Example(
            f"{row['title']}\n{row['description']}" if row.get("title") else row["description"],
            "ag_news",
            labels=topic_of(row, where),
        )
        for row, where in rows(root / "more" / "topic" / "ag_news_extra.jsonl.gz", "description", "label")
    ]


def read_joined_topics(root: Path, split: str) -> list[Example]:
    """Three to eight descriptions of one topic as one text. Train only.

    AG News has texts of some forty words; a head that has seen no longer ones takes whole articles for science.
    """
    if split != "train":
        return []
    by_topic: dict[str, list[str]] = {}
    for row, _ in rows(root / "topic" / f"{split}.jsonl.gz", "description", "label"):
        by_topic.setdefault(row["label"], []).append(row["description"])
    rng = random.Random(0)
    examples = []
    for number in range(_JOINED):
        name = TOPICS[number % len(TOPICS)]
        text = " ".join(rng.sample(by_topic[name], rng.randint(3, 8)))
        examples.append(Example(text, "ag_joined", labels={"topic": (TOPICS.index(name),)}))
    return examples


def read_more_emotions(root: Path, split: str) -> list[Example]:
    """Texts of other data sets, their labels mapped to those of GoEmotions. Train only."""
    if split != "train":
        return []
    return [
        Example(
            row["text"],
            name,
            labels={"emotions": tuple(label_number(EMOTIONS, label, where) for label in row["labels"])},
        )
        for name, most in _EMOTIONS.items()
        for row, where in list(rows(root / "more" / "emotion" / f"{name}.jsonl.gz", "text", "labels"))[:most]
    ]


def _masked(sentence: str, rng: random.Random) -> str:
    words, kept = sentence.split(), list[str]()
    share = rng.uniform(0.2, 0.6)
    while words:
        length = rng.choice((1, 2, 3, 4))
        span, words = words[:length], words[length:]
        if rng.random() < share:
            if not kept or kept[-1] != MASK:
                kept.append(MASK)
        else:
            kept += span
    return " ".join(kept)
