"""Characters that a vocabulary spells in bytes: whole ones of the source, whatever the options and the batch."""

import codecs
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.inference.backend import Backend
from model.inference.decoding.batch import decode
from model.inference.decoding.characters import Characters
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.decoding.rules import Rules
from model.inference.spelling import Spelling
from model.inference.torch_backend import TorchBackend
from model.storage.checkpoint import load_served
from support.models import CONFIG, random_model

FIRST = 10  # the piece of byte 0
BYTES = tuple(range(FIRST, FIRST + 256))
SPELLED: ModelConfig = replace(CONFIG, vocab_size=320, num_tokens=300)
CHARACTERS = Characters(BYTES, SPELLED.vocab_size, torch.device("cpu"))
GREEDY = DecodingOptions(max_new_tokens=40, no_repeat_ngram_size=2)
KINDS = {
    "greedy": GREEDY,
    "penalised": replace(GREEDY, repetition_penalty=3.0, no_repeat_ngram_size=0),
    "sampled": replace(GREEDY, do_sample=True, temperature=2.0, top_k=0, no_repeat_ngram_size=1),
    "nucleus": replace(GREEDY, do_sample=True, temperature=2.0, top_p=0.7, top_k=60),
    "beams": replace(GREEDY, num_beams=3, no_repeat_ngram_size=3),
    "wide": replace(GREEDY, num_beams=8, early_stopping="never", no_repeat_ngram_size=1),
}


@pytest.fixture(scope="module")
def backend() -> Backend:
    """Random, fond of bytes, and fonder of its end token where a character is begun."""
    model = random_model(SPELLED)
    model.lm_head.weight[list(BYTES)] *= 2.0
    model.lm_head.weight[1] *= 1.5
    return TorchBackend(model, Spelling(BYTES))


def spelled(text: str) -> list[int]:
    return [FIRST + byte for byte in text.encode()]


def source_of(number: int) -> list[int]:
    """Words and characters of each length in bytes; every fourth source has none."""
    characters = f"~\u00fc{chr(0x4E00 + number)}\u20ac{chr(0x1F600 + number)}\U0001f468\u201c" if number % 4 else ""
    return [271, *spelled(characters[:3]), 272, *spelled(characters[3:]), 273]


def decoded(backend: Backend, numbers: list[int], options: list[DecodingOptions]) -> list[DecodingResult]:
    ids = torch.stack(
        [torch.randint(270, 300, (12,), generator=torch.Generator().manual_seed(number)) for number in numbers]
    )
    mask = torch.ones_like(ids, dtype=torch.bool)
    return decode(backend, backend.encode(ids, mask), mask, options, sources=list(map(source_of, numbers)))


def text_of(token_ids: Sequence[int], reason: str) -> str:
    """Strictly: what is no UTF-8 raises. A last character in parts is allowed where the length was cut."""
    written = bytes(token - FIRST if token in BYTES else 0x20 for token in token_ids)
    decoder = codecs.getincrementaldecoder("utf-8")()
    text = decoder.decode(written)
    assert not decoder.getstate()[0] or reason == "length"
    return text


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_characters_are_whole_and_the_source_s(backend: Backend, options: DecodingOptions) -> None:
    results = decoded(backend, list(range(12)), [replace(options, seed=seed) for seed in range(12)])
    texts = [text_of(result.token_ids, result.finish_reason) for result in results]
    assert sum(not character.isascii() for text in texts for character in text) > 10, "hardly any was spelled"
    for number, text in enumerate(texts):
        assert set(text) <= {" ", *text_of(source_of(number), "stop")}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_batched_equal_alone(backend: Backend, options: DecodingOptions) -> None:
    kinds = [replace(options, seed=seed) for seed in range(8)]
    together = decoded(backend, list(range(8)), kinds)
    for number, (result, kind) in enumerate(zip(together, kinds, strict=True)):
        assert decoded(backend, [number], [kind])[0].token_ids == result.token_ids


def allowed(tokens: list[int], source: list[int], size: int = 0, penalty: float = 1.0) -> Tensor:
    """Scores of the token after `tokens`, all of which were 1."""
    options = DecodingOptions(no_repeat_ngram_size=size, repetition_penalty=penalty)
    rules = Rules(SPELLED, [options], 1, torch.device("cpu"), CHARACTERS)
    held, newest = torch.tensor([[0, *tokens]]), torch.tensor([len(tokens)])
    scores = torch.ones(1, SPELLED.vocab_size)
    return rules.apply(scores, held, newest, spelled=CHARACTERS.spelled([source]))[0]


def test_every_character_can_be_spelled_where_it_is_in_the_source_and_then_anything_can_follow() -> None:
    edges = [0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xCFFF, 0xD000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
    edges += [0x3FFFF, 0x40000, 0xFFFFF, 0x100000]
    sampled = [code for code in range(0x80, 0x110000, 4999) if unicodedata.category(chr(code)) != "Cs"]
    for code in [*edges, *sampled]:
        ids = spelled(chr(code))
        source = [280, *ids, 281, *spelled("\u00fc\u20ac")]
        for before in ([], spelled("\u20ac"), spelled(chr(code)), [290]):
            for place in range(len(ids)):
                scores = allowed([*before, *ids[:place]], source)
                assert scores[ids[place]] == 1.0, hex(code)
                if place:
                    assert torch.isinf(scores[[1, 290]]).all(), "unfinished"
            scores = allowed([*before, *ids], source)
            assert scores[[1, 290, FIRST + 0xC3, FIRST + 0xE2, ids[0]]].eq(1.0).all()


def test_what_the_source_does_not_have_is_never_allowed() -> None:
    characters = ("\u00fc", "\u00df", "\u20ac", "\u4e2d", "\U0001f600", "\U0001f680", "~")
    source = [280, *spelled("".join(characters)), 281]
    for prefix in {character.encode()[:end] for character in characters for end in range(4)}:
        scores = allowed([270, *(FIRST + byte for byte in prefix)], source)
        begun = not any(prefix == character.encode() for character in characters)
        following = {
            character.encode()[len(prefix) if begun else 0]
            for character in characters
            if not begun or (character.encode().startswith(prefix) and len(character.encode()) > len(prefix))
        }
        assert {byte for byte in range(256) if scores[FIRST + byte] == 1.0} == following, prefix


@pytest.mark.parametrize("source", [[], [280, 281], spelled("\u20ac")[:2], [*spelled("\u20ac")[1:], 280]])
def test_without_whole_characters_in_the_source_no_byte_is_written(source: list[int]) -> None:
    scores = allowed([270], source)
    assert torch.isinf(scores[list(BYTES)]).all()
    assert scores[[1, 270, 290]].eq(1.0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_bytes_neither_form_nor_complete_an_ngram(size: int) -> None:
    quote = spelled("\u201c")
    for place in range(len(quote)):
        assert allowed([270, *quote, 271, 270, *quote[:place]], quote, size)[quote[place]] == 1.0
    assert allowed([*quote, 270, *quote], quote, size)[270] == (1.0 if size > 1 else float("-inf"))
    words = [270, 271, 272, 273]
    assert torch.isinf(allowed([*words, *quote, *words[: size - 1]], quote, size)[words[size - 1]]), "words still do"


def test_bytes_are_not_penalised() -> None:
    quote = spelled("\u201c")
    scores = allowed([270, *quote, *quote[:2]], quote, penalty=2.0)
    assert scores[FIRST + 0x9C] == 1.0
    assert allowed([270, *quote], quote, penalty=2.0)[270] == 0.5


def test_vocabulary_of_a_checkpoint_reaches_its_model(checkpoint_folder: Path) -> None:
    checkpoint = load_served(checkpoint_folder, torch.device("cpu"), "float32")
    assert len(checkpoint.backend.spelling.byte_pieces) == 256
    assert checkpoint.backend.spelling.byte_pieces == checkpoint.tokenizer.byte_pieces
