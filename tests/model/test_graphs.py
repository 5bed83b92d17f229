"""Steps in fixed shapes: the logits of the step in exact shapes, whatever the bucket; eager where capturing fails."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.decoding.batch import decode
from model.decoding.graphs import StepGraphs
from model.decoding.options import DecodingOptions
from model.kv_cache import KVCache
from model.leximind import LexiMind
from tests.model.conftest import CONFIG, random_model
from tests.model.test_parity import TOLERANCE

LENGTHS = (30, 4, 70)


@pytest.fixture(scope="module")
def model() -> LexiMind:
    return random_model(CONFIG)


def replayed(work: Callable[[], None]) -> Callable[[], None]:
    return work


def filled(model: LexiMind, num_beams: int) -> KVCache:
    ids = torch.randint(3, 90, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    cache = model.new_cache(num_beams)
    cache.add(model.project_source(model.encode(ids * mask, mask), mask), mask, [40] * len(LENGTHS))
    return cache


def tokens(step: int, num_rows: int) -> Tensor:
    return (torch.arange(num_rows) * 7 + step * 5) % 87 + 3


@pytest.mark.parametrize("num_beams", [1, 3])
@torch.inference_mode()
def test_buckets_change_no_logits(model: LexiMind, num_beams: int) -> None:
    graphs, exact, fixed = StepGraphs(model, replayed), filled(model, num_beams), filled(model, num_beams)
    fixed.reserve(16, 500, 60)
    parents = torch.arange(exact.num_rows).view(-1, num_beams).flip(1).flatten()
    for step in range(20):
        ids = tokens(step, exact.num_rows)
        expected = model.step(ids, [exact])
        torch.testing.assert_close(graphs.step(ids, fixed), expected, **TOLERANCE)
        for cache in (exact, fixed):
            cache.reorder(parents)
        if step == 9:  # a bucket of fewer documents
            for cache in (exact, fixed):
                cache.truncate(1)
            parents = parents[:num_beams]
    assert graphs.num_recorded == 2


@torch.inference_mode()
def test_prepared_buckets_are_recorded_before_anyone_waits(model: LexiMind) -> None:
    graphs, cache = StepGraphs(model, replayed), model.new_cache(1)
    cache.reserve(4, 256, 32)
    graphs.prepare(cache)
    assert graphs.num_recorded == 3 * 3  # 1, 2, 4 documents by 64, 128, 256 source tokens
    assert not cache.positions.any()
    ids = torch.full((1, 20), 5)
    mask = torch.ones(1, 20, dtype=torch.bool)
    cache.add(model.project_source(model.encode(ids, mask), mask), mask, [31])
    graphs.step(torch.tensor([0]), cache)
    assert graphs.num_recorded == 3 * 3


@torch.inference_mode()
def test_graphs_of_arrays_that_moved_are_forgotten(model: LexiMind) -> None:
    graphs, cache = StepGraphs(model, replayed), filled(model, 1)
    graphs.step(tokens(0, 3), cache)
    cache.reserve(50, 100, 100)
    graphs.step(tokens(1, 3), cache)
    assert graphs.num_recorded == 1


def test_failed_capture_falls_back_to_eager_steps(model: LexiMind, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs, exact, other = StepGraphs(model, fails), filled(model, 1), filled(model, 1)
    for step in range(3):
        torch.testing.assert_close(
            graphs.step(tokens(step, 3), other), model.step(tokens(step, 3), [exact]), **TOLERANCE
        )
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "a decode step cannot be captured, decoding goes on without CUDA graphs"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captured_decoding_equals_eager(dtype: torch.dtype) -> None:
    from model.decoding.batch import DecodingBatch

    model = random_model(CONFIG).to("cuda", dtype)
    ids = torch.randint(3, 90, (3, 70), generator=torch.Generator().manual_seed(3)).cuda()
    mask = torch.arange(70, device="cuda") < torch.tensor(LENGTHS, device="cuda")[:, None]
    hidden = model.encode(ids * mask, mask)
    options = [
        DecodingOptions(max_new_tokens=40),
        DecodingOptions(max_new_tokens=30, num_beams=4),
        DecodingOptions(max_new_tokens=40, do_sample=True, seed=3),
    ]
    graphs = StepGraphs(model)
    batch = DecodingBatch(model, graphs)
    assert decode(model, hidden, mask, options, batch) == decode(model, hidden, mask, options)
    assert graphs.num_recorded
    assert decode(model, hidden, mask, options, batch) == decode(model, hidden, mask, options)  # replayed alone
