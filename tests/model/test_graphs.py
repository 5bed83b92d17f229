"""Steps in fixed shapes: the logits of the step in exact shapes, whatever the bucket; eager where capturing fails."""

import pytest
import torch
from torch import Tensor

from model.inference.backend import Backend
from model.inference.decoding.batch import DecodingBatch, decode
from model.inference.decoding.options import DecodingOptions
from model.inference.decoding.rows import Outcome
from model.inference.graphs import Capture, StepGraphs, Work
from model.inference.kv_cache import KVCache
from model.inference.torch_backend import TorchBackend
from support.models import CONFIG, random_model, replayed
from support.reference import TOLERANCE

LENGTHS = (30, 4, 70)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return TorchBackend(random_model(CONFIG))


def filled(backend: Backend, num_beams: int) -> KVCache:
    ids = torch.randint(3, 90, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    cache = backend.new_cache(num_beams)
    cache.add(backend.project_source(backend.encode(ids * mask, mask), mask), mask, [40] * len(LENGTHS))
    return cache


def tokens(step: int, num_rows: int) -> Tensor:
    return (torch.arange(num_rows) * 7 + step * 5) % 87 + 3


@pytest.mark.parametrize("num_beams", [1, 3])
@torch.inference_mode()
def test_buckets_change_no_logits(backend: Backend, num_beams: int) -> None:
    graphs, exact, fixed = StepGraphs(backend, replayed), filled(backend, num_beams), filled(backend, num_beams)
    fixed.reserve(16, 500, 60)
    parents = torch.arange(exact.num_rows).view(-1, num_beams).flip(1).flatten()
    for step in range(20):
        ids = tokens(step, exact.num_rows)
        expected = backend.step(ids, [exact])
        torch.testing.assert_close(graphs.step(ids, fixed), expected, **TOLERANCE)
        for cache in (exact, fixed):
            cache.reorder(parents)
        if step == 9:  # a bucket of fewer documents
            for cache in (exact, fixed):
                cache.truncate(1)
            parents = parents[:num_beams]
    assert graphs.num_recorded == 2


@torch.inference_mode()
def test_prepared_buckets_are_recorded_before_anyone_waits(backend: Backend) -> None:
    graphs, cache = StepGraphs(backend, replayed), backend.new_cache(1)
    cache.reserve(4, 256, 32)
    graphs.prepare(cache)
    assert graphs.num_recorded == 3 * 3  # 1, 2, 4 documents by 64, 128, 256 source tokens
    assert not cache.positions.any()
    ids = torch.full((1, 20), 5)
    mask = torch.ones(1, 20, dtype=torch.bool)
    cache.add(backend.project_source(backend.encode(ids, mask), mask), mask, [31])
    graphs.step(torch.tensor([0]), cache)
    assert graphs.num_recorded == 3 * 3


@torch.inference_mode()
def test_graphs_of_arrays_that_moved_are_forgotten(backend: Backend) -> None:
    graphs, cache = StepGraphs(backend, replayed), filled(backend, 1)
    graphs.step(tokens(0, 3), cache)
    cache.reserve(50, 100, 100)
    graphs.step(tokens(1, 3), cache)
    assert graphs.num_recorded == 1


def test_failed_capture_falls_back_to_eager_steps(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    def fails(work: Work, rehearse: Work) -> Work:  # half-way, as on a GPU
        rehearse()
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs, exact, other = StepGraphs(backend, fails), filled(backend, 1), filled(backend, 1)
    for step in range(3):
        torch.testing.assert_close(
            graphs.step(tokens(step, 3), other), backend.step(tokens(step, 3), [exact]), **TOLERANCE
        )
    assert not graphs.works
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "a decode step cannot be captured, decoding goes on without CUDA graphs"
    ]


@pytest.mark.parametrize("capture", [None, replayed])
def test_steps_ask_nothing_of_the_device(capture: Capture | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without numbers whoever reads one fails."""
    monkeypatch.setattr(Outcome, "read", lambda _: [])  # the one place that waits, a step late; nobody finishes
    backend = TorchBackend(random_model(CONFIG).to("meta"))
    batch = DecodingBatch(backend, StepGraphs(backend, capture) if capture else None, lags=True)
    encoder_states = torch.empty(3, 70, CONFIG.d_model, device="meta")
    mask = torch.ones(3, 70, dtype=torch.bool, device="meta")
    rules = {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_new_tokens": 3}
    options = [
        DecodingOptions(max_new_tokens=40, **rules),
        DecodingOptions(max_new_tokens=30, num_beams=4, **rules),
        DecodingOptions(max_new_tokens=40, do_sample=True, top_k=5, top_p=0.9, seed=3),
    ]
    for turn in range(3):  # some join those in flight, some leave
        batch.add(range(3 * turn, 3 * turn + 3), encoder_states, mask, options)
        batch.remove([3 * turn - 1, 3 * turn - 2])
        batch.step()
    assert batch.num_rows == 4 + 4  # greedy and sampled ones, and the beams of the last


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captured_decoding_equals_eager(dtype: torch.dtype) -> None:
    backend = TorchBackend(random_model(CONFIG).to("cuda", dtype))
    ids = torch.randint(3, 90, (3, 70), generator=torch.Generator().manual_seed(3)).cuda()
    mask = torch.arange(70, device="cuda") < torch.tensor(LENGTHS, device="cuda")[:, None]
    encoder_states = backend.encode(ids * mask, mask)
    options = [
        DecodingOptions(max_new_tokens=40),
        DecodingOptions(max_new_tokens=30, num_beams=4),
        DecodingOptions(max_new_tokens=40, do_sample=True, seed=3),
    ]
    same_shapes = StepGraphs(backend, replayed)  # other shapes may be summed in another order
    expected = decode(backend, encoder_states, mask, options, DecodingBatch(backend, same_shapes))
    graphs = StepGraphs(backend)
    batch = DecodingBatch(backend, graphs)
    for _ in range(2):  # captured on the way, then replayed alone
        results = decode(backend, encoder_states, mask, options, batch)
        assert [one.token_ids for one in results] == [one.token_ids for one in expected]
        assert results[1].score == pytest.approx(expected[1].score, rel=1e-3)
    assert graphs.works
    assert graphs.num_recorded == same_shapes.num_recorded
