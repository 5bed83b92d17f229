"""The decoder: whole targets at once in training, one token a row on a cache in decoding; the same arithmetic."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.inference.kv_cache import KVCache
from model.network.attention import CrossAttention, SelfAttention, hide
from model.network.layers import FeedForward, RMSNorm
from model.network.relative_bias import RelativeBias


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and feed-forward, each pre-LN."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.self_attention = SelfAttention(config)
        self.cross_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.cross_attention = CrossAttention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor, source_bias: Tensor) -> Tensor:
        """`x` (B, T, D), `bias` (H, T, T), `hidden` (B, S, D), `source_bias` (B, 1, 1, S). Returns (B, T, D)."""
        x = x + self.dropout(self.self_attention(self.self_norm(x), bias))
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), hidden, source_bias))
        out: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return out

    def step(self, x: Tensor, caches: list[KVCache], biases: list[Tensor], layer: int) -> Tensor:
        """One new token a row: (R, D) to (R, D)."""
        x = x + self.self_attention.step(self.self_norm(x), caches, biases, layer)
        x = x + self.cross_attention.step(self.cross_norm(x), caches, layer)
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Decoder(nn.Module):
    """Embedded target to states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.relative_bias = RelativeBias(
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            config.num_heads,
            bidirectional=False,
        )
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, hidden: Tensor, source_mask: Tensor) -> Tensor:
        """`x` (B, T, D), `hidden` (B, S, D), `source_mask` (B, S) bool. Returns (B, T, D)."""
        length = x.shape[1]
        bias = self.relative_bias.square(length)  # (H, T, T)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        bias = bias + hide(causal, bias.dtype)
        source_bias = hide(source_mask, bias.dtype)[:, None, None, :]
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias, hidden, source_bias)
        out: Tensor = self.dropout(self.norm(x))
        return out

    def project_source(self, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each layer the cross-attention keys and values of `hidden` (B, S, D): two of (B, H, S, K)."""
        return [layer.cross_attention.project(hidden) for layer in self._layers()]

    def step(self, x: Tensor, caches: list[KVCache]) -> Tensor:
        """One new token a row, `x` (R, D), for the rows of all `caches` in order. Returns (R, D)."""
        for cache in caches:
            cache.begin_step()
        biases = [self._step_bias(cache) for cache in caches]
        for index, layer in enumerate(self._layers()):
            x = layer.step(x, caches, biases, index)
        out: Tensor = self.norm(x)
        return out

    def _layers(self) -> Iterable[DecoderLayer]:
        return cast("Iterable[DecoderLayer]", self.layers)

    def _step_bias(self, cache: KVCache) -> Tensor:
        # Rows have different ages: the bias is looked up by offset and keys from the future are hidden.
        keys = torch.arange(cache.target_length, device=cache.positions.device)
        offsets = keys - cache.positions[: cache.num_rows, None]  # (R, T)
        bias = self.relative_bias.by_offset(offsets).transpose(0, 1).float()  # (R, H, T)
        return bias.masked_fill(offsets[:, None] > 0, float("-inf"))[:, :, None]  # (R, H, 1, T)
