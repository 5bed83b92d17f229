"""The parts alone: norm, relative bias and heads, in the dtypes and at the distances where they go wrong."""

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerNorm

from model.network.heads import ClassificationHead, mean_over_tokens
from model.network.layers import RMSNorm
from model.network.relative_bias import RelativeBias


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 12), (64, 1000)])
def test_relative_buckets_equal_to_the_farthest_offset(bidirectional: bool, buckets: int, distance: int) -> None:
    ours = RelativeBias(buckets, distance, 1, bidirectional=bidirectional)
    offsets = torch.arange(-5000, 5001)
    assert torch.equal(
        ours.bucket(offsets), T5Attention._relative_position_bucket(offsets, bidirectional, buckets, distance)
    )


@pytest.mark.parametrize("bidirectional", [True, False])
def test_square_bias_is_the_bias_of_each_pair(bidirectional: bool) -> None:
    bias = RelativeBias(32, 128, 3, bidirectional=bidirectional)
    places = torch.arange(300)
    square = bias.square(300)
    assert torch.equal(square, bias.by_offset(places[None, :] - places[:, None]))
    assert square.stride(-1) == 1  # a GPU's fused attention takes no other bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm_equals_t5_in_every_dtype(dtype: torch.dtype) -> None:
    ours, theirs = RMSNorm(64, 1e-6), T5LayerNorm(64, 1e-6)
    torch.nn.init.normal_(ours.weight)
    theirs.weight = ours.weight
    x = torch.randn(5, 64).to(dtype)
    assert torch.equal(ours.to(dtype)(x), theirs.to(dtype)(x))


def test_norm_of_large_half_precision_states_has_its_variance_in_float32() -> None:
    x = torch.full((1, 64), 300.0, dtype=torch.float16)  # 300² passes the largest float16, 65,504
    assert torch.equal(RMSNorm(64, 1e-6).half()(x), torch.ones_like(x))


def test_heads_read_the_mean_over_real_tokens_only() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(48, 4, dropout=0.5).eval()
    encoder_states = torch.randn(2, 7, 48)
    mask = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])
    expected = head.linear(torch.stack([encoder_states[0, :4].mean(0), encoder_states[1].mean(0)]))
    said = head(mean_over_tokens(encoder_states, mask))
    torch.testing.assert_close(said, expected)  # the default tolerance of float32
    padded = torch.cat([encoder_states, torch.full((2, 9, 48), 1e4)], dim=1)
    longer = torch.cat([mask, torch.zeros(2, 9, dtype=torch.bool)], dim=1)
    assert torch.equal(head(mean_over_tokens(padded, longer)), said)


def test_head_mean_of_many_half_precision_states_is_summed_in_float32() -> None:
    encoder_states = torch.ones(1, 1000, 1, dtype=torch.bfloat16)  # a bf16 sum would stop at 256
    assert mean_over_tokens(encoder_states, torch.ones(1, 1000, dtype=torch.bool)).item() == 1.0
