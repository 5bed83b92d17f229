"""Bans and draws: what is never emitted, minimum lengths, n-grams, and the distribution that sampling draws from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.decoding.rules import Rules
from model.inference.decoding.sampling import Sampling, uniforms
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind
from support.models import CONFIG, random_model

FREE = DecodingOptions(max_new_tokens=60, no_repeat_ngram_size=0)


@pytest.fixture(scope="module")
def model() -> LexiMind:
    """One that likes best what it must never say: padding, unknown, the rows that only pad the matrix."""
    model = random_model(CONFIG)
    for forbidden in (0, 2, 90, 95):
        model.lm_head.weight[forbidden] = model.lm_head.weight.abs().max(0).values * 3
    return model


def decoded(model: LexiMind, options: Sequence[DecodingOptions]) -> list[DecodingResult]:
    ids = torch.randint(3, 90, (len(options), 12), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids, dtype=torch.bool)
    return decode(TorchBackend(model), model.encode(ids, mask), mask, options)


@pytest.mark.parametrize(
    "options", [FREE, replace(FREE, num_beams=4), replace(FREE, do_sample=True, top_k=0, temperature=3.0)], ids=str
)
def test_padding_unknown_and_ids_past_the_vocabulary_are_never_emitted(
    model: LexiMind, options: DecodingOptions
) -> None:
    for result in decoded(model, [replace(options, seed=seed) for seed in range(20)]):
        assert all(2 < token_id < CONFIG.num_tokens for token_id in result.token_ids)


@pytest.mark.parametrize("options", [FREE, replace(FREE, num_beams=3), replace(FREE, do_sample=True)], ids=str)
def test_lengths_keep_to_their_limits_and_count_the_end_token(options: DecodingOptions) -> None:
    model = random_model(CONFIG)
    model.lm_head.weight[1] = model.lm_head.weight.abs().max(0).values * 2  # would end at once
    limits = [(0, 1), (1, 1), (2, 9), (9, 9), (20, 40), (40, 40)]
    wanted = [replace(options, min_new_tokens=low, max_new_tokens=high) for low, high in limits]
    for (low, high), result in zip(limits, decoded(model, wanted), strict=True):
        assert low <= len(result.token_ids) + (result.finish_reason == "stop") <= high
        assert result.finish_reason == "stop" or len(result.token_ids) == high


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_ngrams_occur_once(model: LexiMind, size: int, num_beams: int) -> None:
    for result in decoded(model, [replace(FREE, no_repeat_ngram_size=size, num_beams=num_beams)] * 3):
        ids = (0, *result.token_ids)
        grams = [ids[start : start + size] for start in range(len(ids) - size + 1)]
        assert len(set(grams)) == len(grams)


@pytest.mark.parametrize("size", [0, 1, 2, 4])
@pytest.mark.parametrize("penalty", [0.5, 1.0, 2.5])
def test_rules_equal_transformers_processors(size: int, penalty: float) -> None:
    options = replace(FREE, no_repeat_ngram_size=size, repetition_penalty=penalty, min_new_tokens=10)
    generator = torch.Generator().manual_seed(6)
    scores = torch.randn(4, 96, generator=generator) * 5
    tokens = torch.randint(3, 7, (4, 12), generator=generator)  # few kinds, so that n-grams return
    tokens[:, 0] = 0
    for newest in (0, 3, 8, 11):
        held = tokens[:, : newest + 1]
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(held, scores)
        theirs = NoRepeatNGramLogitsProcessor(size)(held, theirs) if size else theirs
        theirs = MinNewTokensLengthLogitsProcessor(1, 10, 1, device="cpu")(held, theirs)
        theirs = SuppressTokensLogitsProcessor([0, 2, *range(90, 96)])(held, theirs)
        ahead = torch.where(torch.arange(12) <= newest, tokens, 0)  # as in a batch with an older row
        ours = Rules(CONFIG, [options] * 4, 1, torch.device("cpu"))
        assert torch.equal(ours.apply(scores.clone(), ahead, torch.full((4,), newest)), theirs)


def test_sizes_that_differ_by_row_equal_transformers_processor_of_each() -> None:
    generator = torch.Generator().manual_seed(8)
    sizes = [3, 0, 16, 1, 2, 3, 0, 5]
    scores = torch.randn(8, 96, generator=generator)
    tokens = torch.randint(3, 5, (8, 60), generator=generator)
    tokens[:, 0] = 0
    tokens[2, 31:60] = tokens[2, 1:30]  # so that sixteen tokens return
    rules = Rules(CONFIG, [replace(FREE, no_repeat_ngram_size=size) for size in sizes], 1, torch.device("cpu"))
    for newest in (0, 2, 30, 58):
        ahead = torch.where(torch.arange(60) <= newest, tokens, 0)
        ours = rules.apply(scores.clone(), ahead, torch.full((8,), newest))
        for row, size in enumerate(sizes):
            held, theirs = tokens[row : row + 1, : newest + 1], scores[row : row + 1]
            theirs = NoRepeatNGramLogitsProcessor(size)(held, theirs) if size else theirs
            theirs = SuppressTokensLogitsProcessor([0, 2, *range(90, 96)])(held, theirs)
            assert torch.equal(ours[row : row + 1], theirs), (newest, size)


class Elements(TorchDispatchMode):
    """Counts the numbers that are computed."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += sum(one.numel() for one in tree_leaves(result) if isinstance(one, Tensor))
        return result


def test_a_long_ngram_of_one_row_costs_the_others_nothing() -> None:
    def cost(sizes: list[int]) -> int:
        rules = Rules(CONFIG, [replace(FREE, no_repeat_ngram_size=size) for size in sizes], 1, torch.device("cpu"))
        with Elements() as elements:
            rules.apply(torch.zeros(64, 96), torch.zeros(64, 300, dtype=torch.int64), torch.full((64,), 299))
        return elements.count

    assert cost([3] * 63 + [16]) < 1.5 * cost([3] * 64)
    assert cost([0] * 63 + [16]) < 0.5 * cost([3] * 64)
    assert cost([*range(1, 17)] * 4) < cost([16] * 64)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 500])
@pytest.mark.parametrize("top_p", [0.05, 0.6, 1.0])
def test_draws_follow_the_distribution_of_transformers_warpers(temperature: float, top_k: int, top_p: float) -> None:
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(9)) * 2
    scores[0, 7] = float("-inf")
    theirs = scores / 1.0
    theirs = TemperatureLogitsWarper(temperature)(None, theirs)
    theirs = TopKLogitsWarper(top_k)(None, theirs) if top_k else theirs
    theirs = TopPLogitsWarper(top_p)(None, theirs)
    # Drawing by the inverse of the cumulative distribution, an even grid of draws counts the probabilities out.
    count = 20_000
    options = replace(FREE, do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    grid = (torch.arange(count) + 0.5) / count
    drawn = draw(scores.expand(count, -1), [options] * count, grid).bincount(minlength=40) / count
    # Every token's interval is counted to within one grid point at each end, and float32's sums of 20,000 parts.
    torch.testing.assert_close(drawn, torch.softmax(theirs[0], -1), rtol=0, atol=2.5 / count)


def draw(scores: Tensor, options: list[DecodingOptions], draws: Tensor) -> Tensor:
    return Sampling(options, scores.shape[1], scores.device).draw(scores, draws)


@pytest.mark.parametrize("number", [0.0, 1.0 - 2**-24])
def test_extreme_draws_take_a_likely_token(number: float) -> None:
    scores = torch.tensor([[1.0, float("-inf"), 3.0, -200.0]])
    options = replace(FREE, do_sample=True, top_k=0)
    assert draw(scores, [options], torch.tensor([number])).item() in (0, 2)


def test_scores_that_are_no_numbers_still_name_a_token() -> None:
    options = replace(FREE, do_sample=True, top_k=0)
    assert 0 <= draw(torch.full((1, 4), float("nan")), [options], torch.tensor([0.5])).item() < 4


def test_seed_decides_the_draws_and_nothing_else_does(model: LexiMind) -> None:
    options = [replace(FREE, do_sample=True, top_k=0, seed=seed) for seed in (1, 2, 1)]
    ids = torch.full((3, 5), 9)
    mask = torch.ones_like(ids, dtype=torch.bool)
    torch.manual_seed(0)
    first, second, again = decode(TorchBackend(model), model.encode(ids, mask), mask, options)
    torch.manual_seed(1)
    assert decode(TorchBackend(model), model.encode(ids, mask), mask, options) == [first, second, again]
    assert first == again != second


def test_draws_are_uniform_and_never_one() -> None:
    draws: Tensor = uniforms(replace(FREE, seed=3, max_new_tokens=20_000))
    assert draws.min() >= 0
    assert draws.max() < 1
    # The mean of 20,000 uniform numbers has a standard deviation of 0.002.
    assert draws.mean().item() == pytest.approx(0.5, abs=0.01)
