"""The checkpoint that ships, on texts written for this test: fitting topics and emotions, summaries of their source."""

import itertools
import re
import unicodedata

import pytest
import torch

from model.choices import BUNDLED
from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.spelling import Spelling
from model.inference.torch_backend import TorchBackend
from model.probabilities import probabilities
from model.storage.checkpoint import Checkpoint, load_checkpoint

NEWS = {
    "Sports": "Maria Lopez scored twice in the final ten minutes as Valencia came from behind to beat Sevilla 3-2 on "
    "Sunday night. The win takes her team to the top of the table with four games left to play.",
    "Business": "The European Central Bank raised interest rates by a quarter point on Thursday, saying inflation in "
    "the euro zone remained too high. Economists had expected the move, which brings the main deposit rate to its "
    "highest level in more than two decades.",
    "World": "A strong earthquake struck the coast of northern Japan early on Wednesday, injuring dozens of people and "
    "cutting power to thousands of homes. Officials issued a tsunami warning, which was lifted three hours later.",
    "Sci/Tech": "Scientists at a laboratory in California have built a battery that charges in under five minutes. The "
    "team says the new design uses a cheap and abundant metal, and could be in electric cars within three years.",
}
OTHERS = [
    "#Person1#: Hi Anna, did you finish the report for Mr. Brown?\n#Person2#: Not yet. I am still waiting for the "
    "sales figures from Tom.\n#Person1#: He wants it before the meeting on Friday.\n#Person2#: All right, I will call "
    "Tom this afternoon and send you the report tomorrow.",
    "We introduce a new method for translating between languages with little parallel data. Our approach trains a "
    "single neural network on many languages at once and shares its parameters. Experiments on twelve language pairs "
    "show that it improves over strong baselines, in particular for low-resource languages.",
]
COMMENTS = {
    "gratitude": "Thank you so much, this is exactly what I needed!",
    "anger": "This makes me so angry, I hate it.",
    "love": "I love this song, I love it so much.",
    "sadness": "I am so sad that she died, I cried all day.",
}


@pytest.fixture(scope="module")
def bundled() -> Checkpoint:
    return load_checkpoint(BUNDLED, torch.device("cpu"))


def encode(bundled: Checkpoint, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([bundled.tokenizer.encode_source(text, bundled.tasks.prompts["summarize"])])
    mask = torch.ones_like(ids, dtype=torch.bool)
    return bundled.model.encode(ids, mask), mask


def summary(bundled: Checkpoint, text: str) -> str:
    [answer] = summaries(bundled, [text])
    return answer


def summaries(bundled: Checkpoint, texts: list[str]) -> list[str]:
    tokenizer, backend = bundled.tokenizer, TorchBackend(bundled.model, Spelling(bundled.tokenizer.byte_pieces))
    sources = [tokenizer.encode_source(text, bundled.tasks.prompts["summarize"]) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(source) for source in sources], batch_first=True)
    mask, options = ids != backend.config.pad_id, [DecodingOptions(max_new_tokens=64)] * len(texts)
    results = decode(backend, bundled.model.encode(ids, mask), mask, options, sources=sources)
    return [tokenizer.decode(result.token_ids) for result in results]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("topic", NEWS)
def test_topic_fits(bundled: Checkpoint, topic: str) -> None:
    logits = bundled.model.classify(*encode(bundled, NEWS[topic]), ["topic"])["topic"]
    assert bundled.tasks.head("topic").labels[int(logits.argmax())] == topic


@pytest.mark.parametrize("emotion", COMMENTS)
def test_emotion_is_found(bundled: Checkpoint, emotion: str) -> None:
    head = bundled.tasks.head("emotions")
    logits = bundled.model.classify(*encode(bundled, COMMENTS[emotion]), ["emotions"])["emotions"]
    scores = probabilities(logits, head.kind, head.temperature)[0].tolist()
    found = zip(head.labels, scores, head.thresholds, strict=True)
    assert emotion in {label for label, score, threshold in found if score >= threshold}


@pytest.mark.parametrize("text", [*NEWS.values(), *OTHERS])
def test_summary_is_in_the_words_of_its_source(bundled: Checkpoint, text: str) -> None:
    answer = summary(bundled, text)
    assert 5 <= len(answer.split()) < len(text.split())
    assert answer[0].isupper() or answer.startswith("#Person")
    share = len(words(answer) & words(text)) / len(words(answer))
    assert share >= 0.7, answer


def test_typographic_marks_are_read_as_plain_ones(bundled: Checkpoint) -> None:
    plain = (
        "The council's plan - which residents call \"a disgrace\" - would close three of the town's five libraries "
        "by 2027... More than 4,000 people have signed a petition against it."
    )
    typographic = (
        "The council\u2019s plan \u2014 which residents call \u201ca disgrace\u201d \u2013 would close three of the "
        "town\u2019s five\u00a0libraries by 2027\u2026 More than 4,000 people have signed a petition against it."
    )
    assert bundled.tokenizer.encode(typographic) == bundled.tokenizer.encode(plain)
    assert summary(bundled, typographic) == summary(bundled, plain)


def typed_characters() -> list[str]:
    """500 that people type: letters with marks, Greek, Cyrillic, signs, emoji, and all of ASCII."""
    letters = [chr(code) for code in (*range(0xC0, 0x180), *range(0x391, 0x3CA), *range(0x410, 0x450))]
    signs = "€£¥₹₽₩¢§©®™°±µ¶†‡•…–—‘’“”„«»‹›′″№ªº¿¡←→↑⇒≈≠≤≥∞√∑✓✔✗★☆♥♪"
    emoji = [chr(code) for code in (*range(0x1F600, 0x1F640), 0x2764, 0x1F44D, 0x1F389, 0x1F525, 0x26BD, 0x2615)]
    ascii_signs = [chr(code) for code in range(0x21, 0x7F)]
    return [one for one in [*letters, *signs, *emoji, *ascii_signs] if one.isprintable()]


def test_no_character_is_broken_or_made_up(bundled: Checkpoint) -> None:
    characters = typed_characters()
    assert len(set(characters)) >= 500
    texts = []
    for start in range(0, len(characters), 12):
        pairs = itertools.zip_longest(*[iter(characters[start : start + 12])] * 2, fillvalue="x")
        words = [f"M{one}ll{other}r" if one.isalpha() else one + other for one, other in pairs]
        words += ["Tom"] * (6 - len(words))
        texts.append(
            f"{words[0]} {words[1]} of the town council said on Monday that the library in {words[2]} Street would "
            f'close. "We cannot pay for it {words[3]} any more", {words[1]} said {words[4]}. More than 4,000 people '
            f"have signed a petition against the plan {words[5]}, which {words[0]} had praised."
        )
    for text, answer in zip(texts, summaries(bundled, texts), strict=True):
        known = {*text, *unicodedata.normalize("NFKC", text)}
        assert "\ufffd" not in answer
        assert not {one for one in answer if not one.isascii() and one not in known}, answer


def test_summaries_of_different_sources_differ(bundled: Checkpoint) -> None:
    answers = [words(summary(bundled, text)) for text in [*NEWS.values(), *OTHERS]]
    overlaps = [
        len(one & other) / min(len(one), len(other)) for i, one in enumerate(answers) for other in answers[i + 1 :]
    ]
    assert max(overlaps) < 0.6
