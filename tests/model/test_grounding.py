"""Grounded decoding: no name or number that the source lacks, in whatever pieces, batch, beam or draw."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.choices import BUNDLED
from model.config import ModelConfig
from model.inference.backend import Backend
from model.inference.decoding.batch import DecodingBatch, decode
from model.inference.decoding.grounding import Grounded, Grounding
from model.inference.decoding.lexicon import Lexicon
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.native_backend import NativeBackend
from model.inference.spelling import Spelling
from model.inference.torch_backend import TorchBackend
from model.kernels.library import is_available
from model.support import NO_NAMES, UNIT, folded, names_and_numbers, unsupported
from model.tokenizer import Tokenizer
from support.models import random_model

CPU = torch.device("cpu")
WORDS = (
    "Mr. Smith of Bristol BRISTOL paid $2,500 (and 2.5 per cent) to the U.S. Army at 7:30 on 3 May 2018. He said: “We "
    "will, O'Brien!” She left. Mrs Anna-Lena Jones … 12,000,000 G20 covid19 St. Ives 1,5 A. Then #Person1# Dr. Who?"
).split()
OPTIONS = [
    DecodingOptions(max_new_tokens=30, grounded=True),
    DecodingOptions(max_new_tokens=30, grounded=True, do_sample=True, top_k=0, temperature=3.0),
    DecodingOptions(max_new_tokens=12, grounded=True, do_sample=True, top_k=20, no_repeat_ngram_size=1),
    DecodingOptions(max_new_tokens=25, grounded=True, num_beams=3, no_repeat_ngram_size=2),
    DecodingOptions(max_new_tokens=25, grounded=True, num_beams=4, repetition_penalty=2.0, min_new_tokens=9),
]


def text_of(seed: int, size: int = 30) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=size))


@pytest.fixture(scope="module")
def bundled() -> Tokenizer:
    return Tokenizer(BUNDLED / "spiece.model")


@pytest.fixture(scope="module")
def lexicon(bundled: Tokenizer) -> Lexicon:
    return Lexicon.of(bundled)


@pytest.fixture(scope="module", params=["torch", "native"])
def backend(request: pytest.FixtureRequest, bundled: Tokenizer) -> Backend:
    """Random weights on the vocabulary of the bundled checkpoint: it would invent names and numbers all the time."""
    size = bundled.num_pieces
    shape = {"d_model": 32, "num_heads": 2, "d_kv": 8, "d_ff": 16, "num_encoder_layers": 1, "num_decoder_layers": 1}
    config = ModelConfig(vocab_size=size + 8, num_tokens=size, num_positions=64, dropout=0.0, **shape)
    model = random_model(config)
    model.lm_head.weight[1] *= 2.0
    if request.param == "native":
        if not is_available():
            pytest.skip("no native kernels: no compiler, or a processor without AVX2")
        return NativeBackend(model.state_dict(), config, "float32", Spelling(bundled.byte_pieces))
    return TorchBackend(model, Spelling(bundled.byte_pieces))


class Reference:
    """What may follow, by the text alone: slow, and without tries, pieces or states."""

    def __init__(self, source: str) -> None:
        self._units = set(UNIT.findall(folded(source))) | NO_NAMES

    def allows(self, text: str) -> bool:
        """Whether `text` has only names and numbers that the source has, or one at its end that can become such."""
        for span in names_and_numbers(text):
            unit, rest = folded(text[span.start : span.end]), text[span.end :]
            if not rest and any(whole.startswith(unit) for whole in self._units):
                continue
            if unit in self._units and not re.fullmatch(r"[.,:]\d*", rest):
                continue
            if unit[0].isdecimal() and re.fullmatch("[.,:]", rest):
                longer = unit + rest
                if unit in self._units or any(whole.startswith(longer) for whole in self._units):
                    continue
            if unit in self._units:
                continue
            return False
        return True

    def is_whole(self, text: str) -> bool:
        return all(folded(text[span.start : span.end]) in self._units for span in names_and_numbers(text))


@pytest.mark.parametrize("vocabulary", ["bundled", "small"])
@pytest.mark.parametrize("seed", range(4))
def test_every_piece_is_allowed_that_the_text_allows_and_no_other(
    vocabulary: str, seed: int, bundled: Tokenizer, spiece: Path
) -> None:
    """At every step of a random walk through what is allowed, all pieces are asked, against the text as it would be."""
    tokenizer = bundled if vocabulary == "bundled" else Tokenizer(spiece)
    lexicon = Lexicon.of(tokenizer)
    choose = random.Random(seed)
    source = text_of(seed)
    # The source as pieces spell it, which they may do in other characters than it was written in.
    source_ids = [one for one in tokenizer.encode(source) if one not in tokenizer.byte_pieces]
    reference = Reference(lexicon.spell(source_ids))
    grounding = Grounding(lexicon, source_ids)
    asked = [n for n in range(3, tokenizer.num_pieces) if n not in tokenizer.byte_pieces]
    if vocabulary == "bundled":  # whatever has to do with capitals, digits and marks, and a part of the rest
        plain = re.compile(r" ?[a-z]+")
        asked = [n for n in asked if not plain.fullmatch(lexicon.pieces[n]) or choose.random() < 0.03]
    steps = 10 if vocabulary == "bundled" else 60
    rule = Grounded([grounding], [10_000], 1, tokenizer.num_pieces, CPU)
    states, text, num_units = torch.zeros(1, dtype=torch.int64), "", 0
    for step in range(steps):
        scores = torch.zeros(1, tokenizer.num_pieces)
        rule.ban(scores, states, torch.tensor([step]), rule.hold(scores, states))
        allowed = scores[0] == 0
        for token_id in asked:
            expected = reference.allows(text + lexicon.pieces[token_id])
            assert bool(allowed[token_id]) == expected, (text, lexicon.pieces[token_id])
        assert bool(allowed[1]) == reference.is_whole(text), text
        can = [n for n in asked if allowed[n]]
        with_units = [n for n in can if re.search(r"[A-Z0-9]", lexicon.pieces[n])]
        token_id = choose.choice(with_units if with_units and choose.random() < 0.6 else can)
        text += lexicon.pieces[token_id]
        num_units += token_id in with_units
        states = rule.follow(states, torch.tensor([token_id]))
    assert num_units


def sources(bundled: Tokenizer, numbers: Sequence[int]) -> list[list[int]]:
    return [bundled.encode(text_of(number, 5 + number % 25)) for number in numbers]


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    return (
        torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None],
    )


def decoded(
    backend: Backend, lexicon: Lexicon, rows: list[list[int]], options: list[DecodingOptions]
) -> list[DecodingResult]:
    ids, mask = padded(rows)
    return decode(
        backend, backend.encode(ids, mask), mask, options, groundings=[Grounding(lexicon, row) for row in rows]
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_summaries_have_no_name_and_no_number_that_the_source_lacks(
    backend: Backend, bundled: Tokenizer, lexicon: Lexicon, options: DecodingOptions
) -> None:
    rows = sources(bundled, range(12))
    missing = 0
    free = DecodingOptions(**{**vars(options), "grounded": False})
    results = decoded(backend, lexicon, rows, [options] * 12)
    for row, result, otherwise in zip(rows, results, decoded(backend, lexicon, rows, [free] * 12), strict=True):
        source = bundled.decode(row)
        assert unsupported(bundled.decode(result.token_ids), source) == []
        assert len(result.token_ids) <= options.max_new_tokens
        missing += len(unsupported(bundled.decode(otherwise.token_ids), source))
    assert missing >= 10, "without the rule they have"
    assert {result.finish_reason for result in results} <= {"stop", "length"}


@pytest.mark.parametrize("seed", range(2))
def test_joining_leaving_and_others_beside_it_change_nothing(
    backend: Backend, bundled: Tokenizer, lexicon: Lexicon, seed: int
) -> None:
    choose = random.Random(seed)
    kinds = [*OPTIONS, DecodingOptions(max_new_tokens=20), DecodingOptions(max_new_tokens=20, num_beams=3)]
    rows = dict(enumerate(sources(bundled, range(12))))
    options = {number: choose.choice(kinds) for number in rows}
    held = {number: Grounding(lexicon, row) if options[number].grounded else None for number, row in rows.items()}
    alone = {}
    for number, row in rows.items():
        ids, mask = padded([row])
        states = backend.encode(ids, mask)
        [alone[number]] = decode(backend, states, mask, [options[number]], groundings=[held[number]])
    for lags in (False, True):
        batch, waiting, running, finished = DecodingBatch(backend, lags=lags), list(rows), set(), {}
        while waiting or batch.num_rows:
            joining = [waiting.pop() for _ in range(min(len(waiting), choose.randint(0, 4)))]
            if joining:
                ids, mask = padded([rows[number] for number in joining])
                states = backend.encode(ids, mask)
                batch.add(joining, states, mask, [options[n] for n in joining], groundings=[held[n] for n in joining])
                running |= set(joining)
            for _ in range(choose.randint(1, 5)):
                finished |= {step.key: step.result for step in batch.step() if step.result is not None}
            running -= finished.keys()
            if running and choose.random() < 0.2:
                batch.remove([leaving := choose.choice(sorted(running))])
                running.discard(leaving)
        assert len(finished) > 6
        for number, result in finished.items():
            assert result.token_ids == alone[number].token_ids, options[number]


def test_what_is_held_of_a_name_is_written_to_its_end_whatever_else_is_banned(
    bundled: Tokenizer, lexicon: Lexicon
) -> None:
    """Its pieces were there before, as an n-gram; and there is no room for a longer one."""
    source = bundled.encode("It is Llanfairpwllgwyngyll in 2018 and Ng.")
    rule = Grounded([Grounding(lexicon, source)], [5], 1, bundled.num_pieces, CPU)
    begin = bundled.encode("see")
    states = torch.zeros(1, dtype=torch.int64)
    for token_id in begin:
        states = rule.follow(states, torch.tensor([token_id]))
    scores = torch.zeros(1, bundled.num_pieces)
    rule.ban(scores, states, torch.tensor([len(begin)]), rule.hold(scores, states))
    allowed = [lexicon.pieces[n] for n in range(3, bundled.num_pieces) if scores[0, n] == 0]
    long = len(bundled.encode("Llanfairpwllgwyngyll"))
    assert long > 5 - len(begin)
    assert not any(piece.startswith(" L") for piece in allowed), "it would be cut off"
    assert any(piece.startswith(" N") for piece in allowed)
    states = rule.follow(states, torch.tensor([bundled.encode("N")[0]]))
    scores = torch.zeros(1, bundled.num_pieces)
    held = rule.hold(scores, states)
    scores[:] = float("-inf")  # as a rule of n-grams may have it
    rule.ban(scores, states, torch.tensor([len(begin) + 1]), held)
    assert {lexicon.pieces[n].lower() for n in (scores[0] == 0).nonzero()[:, 0].tolist()} == {"g"}


def test_characters_in_bytes_are_written_as_the_source_has_them(bundled: Tokenizer, lexicon: Lexicon) -> None:
    source = bundled.encode("They met 名前 there, at a caf名 inn.")
    rule = Grounded([Grounding(lexicon, source)], [99], 1, bundled.num_pieces, CPU)
    states = torch.zeros(1, dtype=torch.int64)
    for place, token_id in enumerate(source):
        scores = torch.zeros(1, bundled.num_pieces)
        rule.ban(scores, states, torch.tensor([place]), rule.hold(scores, states))
        assert scores[0, token_id] == 0
        if token_id in bundled.byte_pieces:
            assert [n for n in bundled.byte_pieces[128:] if scores[0, n] == 0] == [token_id]
        states = rule.follow(states, torch.tensor([token_id]))


def test_source_of_one_long_name_or_number_is_ready_in_time(lexicon: Lexicon, bundled: Tokenizer) -> None:
    for text in ("Ab" * 300, "12" * 300, "1," * 300, "A 1 B 2 " * 100):
        grounding = Grounding(lexicon, bundled.encode(text)[:512])
        assert len(grounding.rows) < 4_000
