"""Cross-entropy without float32 copies of all logits, by the kernel and by torch, against the plain formula."""

import pytest
import torch
from torch.nn import functional as F

from model.kernels.gradients import have_kernel
from training.optimization.cross_entropy import linear_cross_entropy


@pytest.fixture(params=["kernel", "torch"], autouse=True)
def _by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr("training.optimization.cross_entropy.have_kernel", lambda *_: False)
    elif not have_kernel(torch.float32):
        pytest.skip("no native kernels: no compiler, or a processor without AVX2")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [5, 130])  # part of a chunk, and chunks with a rest; 50 is no multiple of a register
def test_cross_entropy_of_states_is_that_of_logits(rows: int, smoothing: float) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    labels = torch.randint(50, (rows,))
    ours = linear_cross_entropy(states, weight, labels, smoothing)
    plain = F.cross_entropy(states @ weight.T, labels, label_smoothing=smoothing)
    torch.testing.assert_close(ours, plain)
    pairs = (torch.autograd.grad(3 * loss, (states, weight)) for loss in (ours, plain))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # float32 sums in another order


def test_half_precision_keeps_the_gradients_of_unlikely_words() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(4, 8, requires_grad=True), torch.randn(5000, 8, requires_grad=True)
    labels = torch.zeros(4, dtype=torch.int64)
    wide = torch.autograd.grad(linear_cross_entropy(states, weight, labels, 0.0), weight)[0]
    with torch.autocast("cpu", torch.float16):
        loss = linear_cross_entropy(states, weight, labels, 0.0)
    narrow = torch.autograd.grad(loss * 1024, weight)[0] / 1024
    # A gradient in float16 has about three digits, a sum of four of them two.
    assert (narrow - wide).norm() < 0.01 * wide.norm()


def test_bfloat16_errs_by_its_rounding() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(70, 8, requires_grad=True), torch.randn(5000, 8, requires_grad=True)
    labels = torch.randint(5000, (70,))
    plain = F.cross_entropy(states @ weight.T, labels, label_smoothing=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(states, weight, labels, 0.1)
    torch.testing.assert_close(ours, plain, rtol=3e-3, atol=0)
    pairs = (torch.autograd.grad(loss, (states, weight)) for loss in (ours, plain))
    for one, other in zip(*pairs, strict=True):
        assert (one - other).norm() < 0.01 * other.norm()


def test_what_is_no_number_is_not_lost() -> None:
    states, weight = torch.randn(3, 8), torch.randn(50, 8)
    weight[7] = torch.nan
    assert torch.isnan(linear_cross_entropy(states, weight, torch.zeros(3, dtype=torch.int64), 0.0))
