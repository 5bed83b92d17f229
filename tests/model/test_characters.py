"""Characters that a vocabulary spells in bytes: whole ones, whatever the options, whatever they are decoded with."""

import codecs
import unicodedata
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
    return TorchBackend(model, BYTES)


def decoded(backend: Backend, numbers: list[int], options: list[DecodingOptions]) -> list[DecodingResult]:
    ids = torch.stack(
        [torch.randint(270, 300, (12,), generator=torch.Generator().manual_seed(number)) for number in numbers]
    )
    mask = torch.ones_like(ids, dtype=torch.bool)
    return decode(backend, backend.encode(ids, mask), mask, options)


def text_of(result: DecodingResult) -> str:
    """Strictly: what is no UTF-8 raises. A last character in parts is allowed where the length was cut."""
    spelled = bytes(token - FIRST if token in BYTES else 0 for token in result.token_ids)
    decoder = codecs.getincrementaldecoder("utf-8")()
    text = decoder.decode(spelled)
    assert not decoder.getstate()[0] or result.finish_reason == "length"
    return text


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_characters_are_whole(backend: Backend, options: DecodingOptions) -> None:
    results = decoded(backend, list(range(12)), [replace(options, seed=seed) for seed in range(12)])
    texts = [text_of(result) for result in results]
    assert sum(not character.isascii() for text in texts for character in text) > 20, "hardly any was spelled"


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_batched_equal_alone(backend: Backend, options: DecodingOptions) -> None:
    kinds = [replace(options, seed=seed) for seed in range(8)]
    together = decoded(backend, list(range(8)), kinds)
    for number, (result, kind) in enumerate(zip(together, kinds, strict=True)):
        assert decoded(backend, [number], [kind])[0].token_ids == result.token_ids


def allowed(tokens: list[int], size: int = 0, penalty: float = 1.0) -> Tensor:
    """Scores of the token after `tokens`, all of which were 1."""
    options = DecodingOptions(no_repeat_ngram_size=size, repetition_penalty=penalty)
    rules = Rules(SPELLED, [options], 1, torch.device("cpu"), CHARACTERS)
    held = torch.tensor([[0, *tokens]])
    return rules.apply(torch.ones(1, SPELLED.vocab_size), held, torch.tensor([len(tokens)]))[0]


def spelled(text: str) -> list[int]:
    return [FIRST + byte for byte in text.encode()]


def test_every_character_can_be_spelled_and_then_anything_can_follow() -> None:
    edges = [0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xCFFF, 0xD000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
    edges += [0x3FFFF, 0x40000, 0xFFFFF, 0x100000]
    sampled = [code for code in range(0x80, 0x110000, 4999) if unicodedata.category(chr(code)) != "Cs"]
    for code in [*edges, *sampled]:
        ids = spelled(chr(code))
        for place in range(len(ids)):
            scores = allowed(ids[:place])
            assert scores[ids[place]] == 1.0, hex(code)
            if place:
                assert scores[scores > 0].numel() <= 64, "continuation bytes alone"
                assert torch.isinf(scores[1]), "the end"
        assert allowed(ids)[[1, 270, FIRST + 0xE2, FIRST + 0x41]].eq(1.0).all()


def test_what_is_no_utf8_is_never_allowed() -> None:
    for prefix in (b"", b"\xe0", b"\xed", b"\xf0", b"\xf4", b"\xf0\x9f", b"\xe2\x80", b"\xc3"):
        scores = allowed([270, *(FIRST + byte for byte in prefix)])
        for byte in range(256):
            held = bytes([*prefix, byte])
            try:
                held.decode()
                is_sound = True
            except UnicodeDecodeError as error:
                is_sound = error.reason == "unexpected end of data"
            assert (scores[FIRST + byte] == 1.0) == is_sound, held


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_bytes_neither_form_nor_complete_an_ngram(size: int) -> None:
    quote = spelled("“")
    for place in range(len(quote)):
        assert allowed([270, *quote, 271, 270, *quote[:place]], size)[quote[place]] == 1.0
    assert allowed([*quote, 270, *quote], size)[270] == (1.0 if size > 1 else float("-inf"))
    words = [270, 271, 272, 273]
    assert torch.isinf(allowed([*words, *quote, *words[: size - 1]], size)[words[size - 1]]), "words still do"


def test_bytes_are_not_penalised() -> None:
    scores = allowed([270, *spelled("“"), *spelled("“")[:2]], penalty=2.0)
    assert scores[FIRST + 0x9C] == 1.0
    assert allowed([270, *spelled("“")], penalty=2.0)[270] == 0.5


def test_vocabulary_of_a_checkpoint_reaches_its_model(checkpoint_folder: Path) -> None:
    checkpoint = load_served(checkpoint_folder, torch.device("cpu"), "float32")
    assert len(checkpoint.backend.byte_pieces) == 256
    assert checkpoint.backend.byte_pieces == checkpoint.tokenizer.byte_pieces
