"""Words of several pieces: whole, and the source's or the checkpoint's, whatever the options and the batch."""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.choices import BUNDLED
from model.config import ModelConfig
from model.errors import CheckpointError
from model.inference.backend import Backend
from model.inference.decoding.batch import DecodingBatch, decode
from model.inference.decoding.grounding import Grounding
from model.inference.decoding.lexicon import Lexicon
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.decoding.rules import Rules
from model.inference.decoding.words import WordRule
from model.inference.native_backend import NativeBackend
from model.inference.spelling import Spelling
from model.inference.torch_backend import TorchBackend
from model.kernels.library import is_available
from model.tasks import Tasks
from model.tokenizer import Tokenizer
from support.models import random_model

CPU = torch.device("cpu")
KNOWN = ("apologizes", "tells", "unbelievably", "refrigerators")
VOCABULARY = (
    "Marlene (Marlenka) O'Brien's Kowalczyk don't wouldn't Czechoslovakia LIVERPOOL electroencephalography caf\u00e9 "
    "na\u00efve Zo\u00eb \u00a350 20\u20ac caf\u00e9-bar pre-Columbian antidisestablishmentarianism x-ray \U0001f602 "
    "haha\U0001f602 the council met"
).split()
BASE = DecodingOptions(max_new_tokens=40, no_repeat_ngram_size=2)
KINDS = {
    "greedy": BASE,
    "free": replace(BASE, no_repeat_ngram_size=0, min_new_tokens=30),
    "sampled": replace(BASE, do_sample=True, temperature=0.5, top_k=0, no_repeat_ngram_size=1),
    "short": replace(BASE, do_sample=True, temperature=0.5, top_k=0, max_new_tokens=7),
    "nucleus": replace(BASE, do_sample=True, temperature=2.0, top_p=0.8, repetition_penalty=2.0),
    "beams": replace(BASE, num_beams=3, no_repeat_ngram_size=1),
    "wide": replace(BASE, num_beams=8, early_stopping="never"),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(BUNDLED / "spiece.model")


@pytest.fixture(scope="module", params=["torch", "native"])
def backend(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Backend:
    """Random, hence of words that are none, fond of its end token and of the pieces of these words."""
    size = tokenizer.num_pieces
    shape = {"d_model": 32, "num_heads": 2, "d_kv": 8, "d_ff": 16, "num_encoder_layers": 1, "num_decoder_layers": 1}
    config = ModelConfig(vocab_size=size + 8, num_tokens=size, num_positions=64, dropout=0.0, **shape)
    model = random_model(config)
    model.lm_head.weight[1] *= 1.5
    pieces = {n for word in (*VOCABULARY, *KNOWN) for n in tokenizer.encode(word)}
    model.lm_head.weight[list(pieces)] *= 4.0
    model.lm_head.weight[[n for n in pieces if tokenizer.piece(n)[0].isalpha()]] *= 3.0
    spelling = Spelling.of(tokenizer, KNOWN)
    if request.param == "torch":
        return TorchBackend(model, spelling)
    if not is_available():
        pytest.skip("no native kernels: no compiler, or a processor without AVX2")
    return NativeBackend(model.state_dict(), config, "float32", spelling)


def source_of(seed: int) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=14))


def decoded(
    backend: Backend, tokenizer: Tokenizer, seeds: Sequence[int], options: Sequence[DecodingOptions], **batch: bool
) -> list[DecodingResult]:
    ids = torch.stack([torch.randint(3, 900, (9,), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    mask = torch.ones_like(ids, dtype=torch.bool)
    sources = [[*tokenizer.encode(source_of(seed)), 1] for seed in seeds]
    clock = itertools.count().__next__  # every step seems to take as long, so that all that can be drafted is
    in_flight = DecodingBatch(backend, clock=clock, **batch)
    return decode(backend, backend.encode(ids, mask), mask, options, in_flight, sources)


def letters(text: str) -> Iterator[str]:
    """The runs of letters, in lower case."""
    for is_letter, run in itertools.groupby(text, str.isalpha):
        if is_letter:
            yield "".join(run).lower()


def words_of_pieces(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    """What of a text several pieces have written, each begun and ended where letters begin and end."""
    text, owners = "", []
    for token_id in token_ids:
        piece = tokenizer.piece(token_id).replace("\u2581", " ")
        text, owners = text + piece, owners + [len(owners) and owners[-1] + 1] * len(piece)
    found, place = [], 0
    for is_letter, run in itertools.groupby(text, str.isalpha):
        size = len(list(run))
        if is_letter and len(set(owners[place : place + size])) > 1:
            found.append(text[place : place + size].lower())
        place += size
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_several_pieces_are_the_source_s_or_known(backend: Backend, tokenizer: Tokenizer, kind: str) -> None:
    seeds = range(14)
    results = decoded(backend, tokenizer, seeds, [replace(KINDS[kind], seed=seed) for seed in seeds])
    num_words = 0
    for seed, result in zip(seeds, results, strict=True):
        source = source_of(seed)
        allowed = {*letters(source), *KNOWN}
        written = words_of_pieces(tokenizer, result.token_ids)
        if result.finish_reason == "length" and written:  # the last may be cut
            allowed.update(word[:end] for word in [*allowed] for end in range(len(word)) if word[:end] == written[-1])
        assert allowed.issuperset(written), (written, source)
        rare = {character for character in tokenizer.decode(result.token_ids) if not character.isascii()}
        assert rare <= set(source)
        num_words += len(written)
    assert num_words > 0, "hardly any word was written"


@pytest.mark.parametrize("kind", KINDS)
def test_batched_equal_alone_and_drafted_equal_undrafted(backend: Backend, tokenizer: Tokenizer, kind: str) -> None:
    kinds = [replace(KINDS[kind], seed=seed) for seed in range(5)]
    together = decoded(backend, tokenizer, range(5), kinds)
    assert together == decoded(backend, tokenizer, range(5), kinds, drafts=False)
    for seed, (result, one) in enumerate(zip(together, kinds, strict=True)):
        assert decoded(backend, tokenizer, [seed], [one])[0].token_ids == result.token_ids


@pytest.fixture(scope="module")
def rule(tokenizer: Tokenizer) -> WordRule:
    words = Spelling.of(tokenizer, KNOWN).words
    assert words is not None
    return WordRule(words, tokenizer.num_pieces, CPU)


def after(rule: WordRule, written: Sequence[int], source: Sequence[int], size: int = 0) -> Tensor:
    """Scores of the token after `written`, all of which were 1."""
    config = ModelConfig(vocab_size=rule.vocab_size, num_tokens=rule.vocab_size)
    rules = Rules(config, [DecodingOptions(no_repeat_ngram_size=size)], 1, CPU, words=rule)
    held, newest = torch.tensor([[0, *written]]), torch.tensor([len(written)])
    sources = rule.of_sources([source])
    return rules.apply(torch.ones(1, rule.vocab_size), held, newest, sources=sources)[0]


@pytest.mark.parametrize("written", ["{}", "{} met", "({}", "the-{}", "caf\u00e9 {}"])
def test_every_word_of_the_source_can_be_written_in_any_case_and_then_others(
    rule: WordRule, tokenizer: Tokenizer, written: str
) -> None:
    source = tokenizer.encode(" ".join(VOCABULARY))
    known = KNOWN if written[0] != "(" and "-" not in written else ()  # behind a space alone
    for word in (*VOCABULARY, *known):
        for form in {word, word.lower(), word.capitalize()}:
            ids = tokenizer.encode(written.format(form))
            for place, token_id in enumerate(ids):
                assert after(rule, ids[:place], source)[token_id] == 1.0, (form, tokenizer.piece(token_id))
            scores = after(rule, ids, source)
            assert scores[1] == 1.0
            assert scores[tokenizer.encode("the")].eq(1.0).all()


def test_a_word_is_finished_though_its_ngram_was_there(rule: WordRule, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("electroencephalography")
    assert len(ids) > 3
    for size in (1, 2, 3):
        scores = after(rule, [*ids, *ids[:2]], ids, size)
        assert scores[ids[2]] == 1.0
        assert torch.isfinite(scores).sum() == 1


def test_what_no_source_and_no_list_has_is_not_written(rule: WordRule, tokenizer: Tokenizer) -> None:
    [first, *rest] = tokenizer.encode("Kowalczyk")
    assert rest
    assert torch.isinf(after(rule, [first], tokenizer.encode("the council met"))[rest[0]])
    assert after(rule, [first], tokenizer.encode("kowalczyk met"))[rest[0]] == 1.0
    smile = tokenizer.encode("\U0001f602")[-1]
    assert torch.isinf(after(rule, [], tokenizer.encode("the council met"))[smile])
    assert after(rule, [], tokenizer.encode("haha\U0001f602"))[smile] == 1.0


def test_a_grounded_name_is_written_in_the_pieces_and_the_case_of_a_word(rule: WordRule, tokenizer: Tokenizer) -> None:
    """Grounding alone takes any pieces that add up to the name, in whatever case: "KoWaLczyk"."""
    source = tokenizer.encode("kowalczyk met")
    options = DecodingOptions(grounded=True, no_repeat_ngram_size=0)
    grounding = Grounding(Lexicon.of(tokenizer), source)
    config = ModelConfig(vocab_size=rule.vocab_size, num_tokens=rule.vocab_size)
    sources = rule.of_sources([source])
    written = tokenizer.encode("met Kowalczyk")
    for words, expected in ((rule, True), (None, False)):
        rules = Rules(config, [options], 1, CPU, words=words, groundings=[grounding])
        assert rules.grounded is not None
        states, begun = torch.zeros(1, dtype=torch.int64), 2
        for token_id in written[:begun]:
            states = rules.grounded.follow(states, torch.tensor([token_id]))
        held = torch.tensor([[0, *written[:begun]]])
        scores = rules.apply(torch.ones(1, config.vocab_size), held, torch.tensor([begun]), states, sources=sources)[0]
        assert scores[written[begun]] == 1.0
        assert (torch.isfinite(scores).sum() == 1) == expected


@pytest.mark.parametrize("words", [["Tells"], ["two words"], [""], [5], ["tells", "\ud800"]])
def test_a_list_of_what_are_no_words_is_refused(words: list[object]) -> None:
    with pytest.raises(CheckpointError, match=r"tasks\.json: words has"):
        Tasks.from_json({"prompt": "", "heads": [], "max_source_tokens": 64, "words": words})


def test_a_list_of_words_is_kept_in_json_and_none_is_left_out() -> None:
    assert Tasks.from_json(json.loads(json.dumps(Tasks(words=KNOWN).to_json()))).words == KNOWN
    assert "words" not in Tasks().to_json()
