"""A result does not depend on what it is decoded with: alone, batched, padded, joined mid-flight, after others left."""

import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.inference.backend import Backend
from model.inference.decoding.batch import DecodingBatch, decode
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.graphs import StepGraphs
from model.inference.kv_cache import KVCache
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
from model.kernels.library import is_available
from support.models import CONFIG, random_model, replayed

GREEDY = DecodingOptions(max_new_tokens=20, no_repeat_ngram_size=0)
KINDS = {
    "greedy": GREEDY,
    "rules": replace(GREEDY, no_repeat_ngram_size=2, repetition_penalty=1.4, min_new_tokens=6),
    "long": replace(GREEDY, max_new_tokens=45),  # past the 16 learned positions
    "one": replace(GREEDY, max_new_tokens=1),
    "sampled": replace(GREEDY, do_sample=True, temperature=1.3, top_k=0, seed=7),
    "nucleus": replace(GREEDY, do_sample=True, top_p=0.8, top_k=12, seed=8),
    "beams": replace(GREEDY, num_beams=3, length_penalty=0.7),
    "early": replace(GREEDY, num_beams=3, early_stopping=True, no_repeat_ngram_size=3),
    "wide": replace(GREEDY, num_beams=5, max_new_tokens=30, length_penalty=2.0, early_stopping="never"),
}


@pytest.fixture(scope="module", params=["torch", "native"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Random, and fond enough of its end token that documents end at different times."""
    model = random_model(CONFIG)
    model.lm_head.weight[1] *= 1.5
    if request.param == "native":
        if not is_available():
            pytest.skip("no native kernels: no compiler, or a processor without AVX2")
        return NativeBackend(model.state_dict(), CONFIG, "float32")
    return TorchBackend(model)


def source(number: int) -> Tensor:
    """Ids (S,) of one document, 1 to 30."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(3, 90, (1 + (number * 7) % 30,), generator=generator)


def padded(numbers: list[int], width: int = 0) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(source(number)) for number in numbers])
    width = max(width, int(lengths.max()))
    ids = torch.stack([torch.nn.functional.pad(source(n), (0, width - len(source(n)))) for n in numbers])
    return ids, torch.arange(width) < lengths[:, None]


def alone(backend: Backend, number: int, options: DecodingOptions) -> DecodingResult:
    ids, mask = padded([number])
    return decode(backend, backend.encode(ids, mask), mask, [options])[0]


def assert_equal(result: DecodingResult, expected: DecodingResult) -> None:
    assert result.token_ids == expected.token_ids
    assert result.finish_reason == expected.finish_reason
    assert (result.score is None) == (expected.score is None)
    if result.score is not None and expected.score is not None:
        assert result.score == pytest.approx(expected.score, rel=1e-4, abs=1e-5)  # float32 sums over other widths


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_batched_and_padded_equal_alone(backend: Backend, options: DecodingOptions) -> None:
    numbers = list(range(1, 9))
    ids, mask = padded(numbers, width=50)
    for number, result in zip(numbers, decode(backend, backend.encode(ids, mask), mask, [options] * 8), strict=True):
        assert_equal(result, alone(backend, number, options))


def test_documents_end_both_ways_and_at_different_times(backend: Backend) -> None:
    results = [alone(backend, number, KINDS["greedy"]) for number in range(1, 13)]
    assert {result.finish_reason for result in results} == {"stop", "length"}
    assert len({len(result.token_ids) for result in results}) > 3


def test_mixed_kinds_in_one_batch_equal_alone(backend: Backend) -> None:
    numbers = list(range(1, 2 * len(KINDS) + 1))
    options = [*KINDS.values(), *reversed(KINDS.values())]
    ids, mask = padded(numbers)
    for number, option, result in zip(
        numbers, options, decode(backend, backend.encode(ids, mask), mask, options), strict=True
    ):
        assert_equal(result, alone(backend, number, option))


def plain(backend: Backend) -> DecodingBatch:
    return DecodingBatch(backend)


def lagging(backend: Backend) -> DecodingBatch:
    return DecodingBatch(backend, lags=True)


def graphed(backend: Backend) -> DecodingBatch:
    batch = DecodingBatch(backend, StepGraphs(backend, replayed), lags=True)
    batch.prepare(6, 40, 10)  # too little for all: it grows, and records anew
    return batch


BATCHES = [plain, lagging, graphed]


@pytest.mark.parametrize("make_batch", BATCHES)
@pytest.mark.parametrize("seed", range(6))
def test_joining_mid_flight_and_others_leaving_change_nothing(
    backend: Backend, seed: int, make_batch: Callable[[Backend], DecodingBatch]
) -> None:
    if make_batch is graphed and isinstance(backend, NativeBackend):
        pytest.skip("graphs are for GPUs, the kernels for processors")
    choose = random.Random(seed)
    waiting = {number: choose.choice(list(KINDS.values())) for number in range(1, 25)}
    expected = {number: alone(backend, number, options) for number, options in waiting.items()}
    batch, joined, gone, finished = make_batch(backend), set(), set(), {}
    while len(finished) + len(gone) < len(expected):
        numbers = choose.sample(sorted(waiting), k=min(len(waiting), choose.randint(0, 3)))
        if numbers:
            ids, mask = padded(numbers, width=choose.randint(0, 60))
            batch.add(numbers, backend.encode(ids, mask), mask, [waiting.pop(number) for number in numbers])
            joined |= set(numbers)
        for _ in range(choose.randint(1, 6)):
            finished |= {step.key: step.result for step in batch.step() if step.result is not None}
        running = sorted(joined - gone - finished.keys())
        if running and choose.random() < 0.3:
            leaving = choose.sample(running, k=min(len(running), 2))
            batch.remove([*leaving, 999])  # 999: long gone
            gone |= set(leaving)
    assert gone
    assert batch.num_rows == 0
    assert not finished.keys() & gone
    for number, result in finished.items():
        assert_equal(result, expected[number])


@pytest.mark.parametrize("make_batch", [plain, lagging])
@pytest.mark.parametrize("name", ["greedy", "sampled", "long"])
def test_streamed_tokens_are_the_result(
    backend: Backend, name: str, make_batch: Callable[[Backend], DecodingBatch]
) -> None:
    ids, mask = padded([5, 6])
    batch = make_batch(backend)
    batch.add([5, 6], backend.encode(ids, mask), mask, [KINDS[name]] * 2)
    streamed: dict[int, list[int]] = {5: [], 6: []}
    results = {}
    while batch.num_rows:
        for step in batch.step():
            streamed[step.key] += step.token_ids
            if step.result:
                results[step.key] = list(step.result.token_ids)
    assert streamed == results


def test_finished_documents_cost_no_rows(backend: Backend) -> None:
    ids, mask = padded([1, 2, 3])
    batch = DecodingBatch(backend)
    batch.add([1, 2, 3], backend.encode(ids, mask), mask, [KINDS["one"], KINDS["beams"], KINDS["greedy"]])
    assert batch.num_rows == 1 + 3 + 1
    batch.step()
    assert batch.num_rows <= 3 + 1
    batch.remove([2])
    assert batch.num_rows <= 1


@pytest.mark.parametrize("graphs", [False, True])
def test_caches_of_beam_widths_that_nobody_uses_are_given_up(graphs: bool) -> None:
    backend = TorchBackend(random_model(CONFIG))
    made: list[weakref.ref[KVCache]] = []

    class Recording(KVCache):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    backend.new_cache = lambda num_beams: Recording(backend.config, num_beams, backend.device, torch.float32)  # type: ignore[method-assign]
    batch = DecodingBatch(backend, StepGraphs(backend, replayed) if graphs else None)
    ids, mask = padded([3])
    encoder_states = backend.encode(ids, mask)
    for num_beams in (1, 2, 3, 4, 2):
        options = replace(GREEDY, num_beams=num_beams)
        [result] = decode(backend, encoder_states, mask, [options], batch)
        assert result.token_ids == alone(TorchBackend(random_model(CONFIG)), 3, options).token_ids
    gc.collect()
    assert len(made) == 5
    # Recorded steps hold the last width's cache, since recording takes longer than a request.
    assert [cache.num_beams for one in made if (cache := one())] == ([1, 2] if graphs else [1])


def test_large_cache_is_given_up_when_its_last_document_leaves(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = padded([1, 2, 3])
    caches: list[weakref.ref[KVCache]] = []

    def decoded_in(batch: DecodingBatch) -> dict[int, DecodingResult]:
        batch.add([1, 2, 3], backend.encode(ids, mask), mask, [GREEDY] * 3)
        caches.append(weakref.ref(batch._group(1).cache))
        return {step.key: step.result for _ in range(20) for step in batch.step() if step.result}

    batch = DecodingBatch(backend)
    first = decoded_in(batch)
    assert caches[0]() is not None, "small: the next request has no need of a new one"
    monkeypatch.setattr("model.inference.decoding.batch._KEPT_BYTES", caches[0]().num_bytes - 1)  # type: ignore[union-attr]
    assert decoded_in(batch) == first
    gc.collect()
    assert caches[1]() is None
    assert decoded_in(batch) == first
