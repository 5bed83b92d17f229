"""What training on a CPU computes by hand, forward and backward, against the plain formula and autograd."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.attention import attend, hide
from model.layers import FeedForward, RMSNorm

# float32 sums in another order
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(out, inputs, torch.randn(out.shape, generator=torch.Generator().manual_seed(1))))


def assert_same(mine: tuple[Tensor, list[Tensor]], plain: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(mine[0], plain[0], **CLOSE)
    for one, other in zip(mine[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("shape", [(4, 9, 9), (2, 4, 9, 9)])
def test_attention_with_a_bias_that_learns(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 9, 4 * 8).unflatten(-1, (4, 8)).transpose(1, 2).requires_grad_() for _ in range(3))
    learned = torch.randn(shape, requires_grad=True)
    bias = learned + hide(torch.arange(9) < 6, torch.float32)
    plain = torch.softmax(q @ k.transpose(-1, -2) + bias, dim=-1) @ v
    inputs = [q, k, v, learned]
    mine = attend(q, k, v, bias)
    assert_same((mine, gradients(mine, inputs)), (plain, gradients(plain, inputs)))


def test_attention_in_bfloat16_is_as_near_as_bfloat16_is() -> None:
    torch.manual_seed(0)
    wide = [torch.randn(2, 4, 9, 8, requires_grad=True) for _ in range(3)]
    narrow = [one.detach().bfloat16().requires_grad_() for one in wide]
    bias = torch.randn(4, 9, 9)
    plain, mine = F.scaled_dot_product_attention(*wide, attn_mask=bias, scale=1.0), attend(*narrow, bias)
    assert mine.dtype == torch.bfloat16
    for one, other in zip([mine, *gradients(mine.float(), narrow)], [plain, *gradients(plain, wide)], strict=True):
        # 8 bits of mantissa, and scores of 10 that are exponentiated
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.05)


def test_normalisation() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(16, 1e-6)
    norm.weight.data = torch.randn(16)
    x = torch.randn(3, 5, 16, requires_grad=True)
    inputs = [x, norm.weight]
    plain = norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    assert_same((norm(x), gradients(norm(x), inputs)), (plain, gradients(plain, inputs)))


def test_normalisation_under_autocast_gives_what_a_matrix_reads() -> None:
    norm, x = RMSNorm(16, 1e-6), torch.randn(3, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, norm(x).bfloat16())


def test_gated_feed_forward() -> None:
    torch.manual_seed(0)
    layer = FeedForward(8, 12, 0.0)
    x = torch.randn(2, 5, 8, requires_grad=True)
    inputs = [x, layer.wi.weight, layer.wo.weight]
    gate, value = F.linear(x, layer.wi.weight).chunk(2, dim=-1)
    plain = F.linear(F.gelu(gate, approximate="tanh") * value, layer.wo.weight)
    assert_same((layer(x), gradients(layer(x), inputs)), (plain, gradients(plain, inputs)))
