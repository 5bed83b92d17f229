"""What training on a CPU computes by hand, forward and backward, against the plain formula and autograd."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels.gradients import have_kernel
from model.network.attention import additive_mask, attend
from model.network.layers import FeedForward, RMSNorm

# float32 sums in another order
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(params=["kernel", "torch"])
def _by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr("model.network.layers.have_kernel", lambda *_: False)
        monkeypatch.setattr("model.network.attention.have_kernel", lambda *_: False)
    elif not have_kernel(torch.float32):
        pytest.skip("no native kernels: no compiler, or a processor without AVX2")


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return list(torch.autograd.grad(out, inputs, grad))


def assert_same(ours: tuple[Tensor, list[Tensor]], plain: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(ours[0], plain[0], **CLOSE)
    for one, other in zip(ours[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("shape", [(4, 9, 9), (2, 4, 9, 9)])
def test_attention_with_a_bias_that_learns(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 9, 4 * 8).unflatten(-1, (4, 8)).transpose(1, 2).requires_grad_() for _ in range(3))
    learned = torch.randn(shape, requires_grad=True)
    bias = learned + additive_mask(torch.arange(9) < 6, torch.float32)
    plain = torch.softmax(q @ k.transpose(-1, -2) + bias, dim=-1) @ v
    inputs = [q, k, v, learned]
    ours = attend(q, k, v, bias)
    assert_same((ours, gradients(ours, inputs)), (plain, gradients(plain, inputs)))


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize(
    ("queries", "keys", "width", "bias_shape"),
    [(9, 9, 8, (4, 9, 9)), (53, 53, 64, (2, 4, 53, 53)), (7, 40, 34, (2, 1, 1, 40)), (1, 1, 2, (4, 1, 1))],
)
def test_attention_in_bfloat16_is_as_near_as_bfloat16_is(
    queries: int, keys: int, width: int, bias_shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    scale = width**-0.25  # scores of about 1
    wide = [
        (scale * torch.randn(2, length, 4 * width)).unflatten(-1, (4, width)).transpose(1, 2).requires_grad_()
        for length in (queries, keys, keys)
    ]
    narrow = [one.detach().bfloat16().requires_grad_() for one in wide]
    bias = torch.randn(bias_shape, requires_grad=True)
    padding = additive_mask(torch.arange(keys) < max(1, keys - 3), torch.float32)
    plain = F.scaled_dot_product_attention(*wide, attn_mask=bias + padding, scale=1.0)
    ours = attend(*narrow, bias + padding)
    assert ours.dtype == torch.bfloat16
    for one, other in zip(
        [ours, *gradients(ours, [*narrow, bias])], [plain, *gradients(plain, [*wide, bias])], strict=True
    ):
        assert (one.float() - other).norm() <= 0.02 * other.norm() + 1e-6


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("shape", [(3, 5, 16), (130, 24)])  # more rows than a chunk of sums, part of a register
def test_normalisation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(shape[-1], 1e-6)
    norm.weight.data = torch.randn(shape[-1])
    x = torch.randn(shape, requires_grad=True)
    inputs = [x, norm.weight]
    plain = norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    assert_same((norm(x), gradients(norm(x), inputs)), (plain, gradients(plain, inputs)))


@pytest.mark.usefixtures("_by")
def test_normalisation_under_autocast_gives_what_a_matrix_reads() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(16, 1e-6), torch.randn(3, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, norm(x).bfloat16())
    wide, narrow = (gradients(one.float(), [x, norm.weight]) for one in (norm(x), out))
    for one, other in zip(narrow, wide, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)  # the gradient above is rounded to bfloat16


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("d_ff", [12, 32])
def test_gated_feed_forward(d_ff: int) -> None:
    torch.manual_seed(0)
    layer = FeedForward(8, d_ff, 0.0)
    x = torch.randn(2, 5, 8, requires_grad=True)
    inputs = [x, layer.wi.weight, layer.wo.weight]
    gate, value = F.linear(x, layer.wi.weight).chunk(2, dim=-1)
    plain = F.linear(F.gelu(gate, approximate="tanh") * value, layer.wo.weight)
    exact = [plain, *gradients(plain, inputs)]
    ours = layer(x)
    assert_same((ours, gradients(ours, inputs)), (exact[0], exact[1:]))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = layer(x)
    for one, other in zip([narrow, *gradients(narrow, inputs)], exact, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.usefixtures("_by")
def test_what_is_no_number_is_not_lost() -> None:
    q, k, v = (torch.randn(1, 2, 40, 8).bfloat16().requires_grad_() for _ in range(3))
    with torch.no_grad():
        k[0, 0, 3] = torch.nan  # one key of the first head; its value is a number
    out = attend(q, k, v, torch.zeros(2, 1, 1))
    assert torch.isnan(out[0, 0]).all()
    assert torch.isfinite(out[0, 1]).all()
    x = torch.randn(4, 24)
    x[1, 5] = torch.nan
    layer, norm = FeedForward(24, 24, 0.0), RMSNorm(24, 1e-6)
    for one in (layer(norm(x.requires_grad_())), norm(x)):
        assert torch.isnan(one[1]).all()
        assert torch.isfinite(one[[0, 2, 3]]).all()
