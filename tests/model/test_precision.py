"""Packed bfloat16 and int8 by torch, where the native kernels do not run: near what float32 computes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.choices import Precision
from model.inference.backend import Backend
from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.onednn_backend import Int8Linear, OneDnnBackend, PackedLinear
from model.inference.torch_backend import TorchBackend
from model.precision import computing_dtype
from support.models import CONFIG, random_model


def packed(precision: Precision, *, tied: bool = False) -> TorchBackend:
    model = random_model(replace(CONFIG, tie_lm_head=tied)).to(computing_dtype(precision))
    return TorchBackend(model) if precision == "float32" else OneDnnBackend(model, precision)


def step_logits(backend: Backend, ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Logits (B, T, V) of feeding the documents `targets`."""
    cache = backend.new_cache(1)
    cache.add(backend.project_source(backend.encode(ids, mask), mask), mask, [targets.shape[1]] * len(targets))
    return torch.stack([backend.step(column, [cache]) for column in targets.unbind(1)], dim=1)


def sources(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 90, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids * mask, mask


def test_int8_matrix_errs_by_its_rounding_and_no_more() -> None:
    weight, x = torch.randn(40, 64), torch.randn(7, 3, 64)
    exact = F.linear(x, weight)
    ours = Int8Linear(weight)(x)
    # Two roundings to 127 levels: each term errs by half a level of its weight and of its activation at most.
    half_w = weight.abs().amax(1) / 254  # (40,)
    half_x = x.abs().amax(-1, keepdim=True) / 254  # (7, 3, 1)
    bound = x.abs().sum(-1, keepdim=True) * half_w + half_x * weight.abs().sum(1) + 64 * half_w * half_x
    assert ours.shape == exact.shape
    assert bool(((ours - exact).abs() <= bound * 1.001).all())
    assert float((ours - exact).norm() / exact.norm()) < 0.02


def test_int8_rows_do_not_depend_on_their_batch() -> None:
    linear, x = Int8Linear(torch.randn(48, 64)), torch.randn(33, 64) * torch.logspace(-3, 3, 33)[:, None]
    together = linear(x)
    assert all(torch.equal(linear(x[row : row + 1])[0], together[row]) for row in range(33))


def test_int8_takes_rows_of_zeros() -> None:
    assert torch.equal(Int8Linear(torch.randn(5, 8))(torch.zeros(2, 8)), torch.zeros(2, 5))


def test_packed_bfloat16_matrix_is_the_plain_one() -> None:
    weight, x = torch.randn(48, 64).bfloat16(), torch.randn(9, 2, 64).bfloat16()
    torch.testing.assert_close(
        PackedLinear(weight)(x), F.linear(x, weight), rtol=2e-2, atol=2e-2
    )  # sums in other order


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_logits_stay_near_float32(precision: Precision, tied: bool) -> None:
    ids, mask = sources([20, 7])
    targets = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(4))
    exact = step_logits(packed("float32", tied=tied), ids, mask, targets)
    model = packed(precision, tied=tied)
    assert model.precision == precision
    error = (step_logits(model, ids, mask, targets) - exact).norm() / exact.norm()
    # Single matrices err by 1 %; unscaled attention over random weights makes a tenth of it.
    assert 0 < float(error) < 0.2


def test_int8_tokens_are_the_same_alone_and_batched() -> None:
    model = packed("int8")
    options = [
        DecodingOptions(max_new_tokens=20),
        DecodingOptions(max_new_tokens=12, num_beams=3),
        DecodingOptions(max_new_tokens=20, do_sample=True, seed=5),
        DecodingOptions(max_new_tokens=30, min_new_tokens=30, no_repeat_ngram_size=0),
    ]
    ids, mask = sources([30, 4, 17, 11])
    together = decode(model, model.encode(ids, mask), mask, options)
    for row, option in enumerate(options):
        one, its_mask = ids[row : row + 1, mask[row]], mask[row : row + 1, mask[row]]
        assert decode(model, model.encode(one, its_mask), its_mask, [option])[0].token_ids == together[row].token_ids
