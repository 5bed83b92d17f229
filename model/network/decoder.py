"""The decoder: whole targets at once, each token seeing those before it and the whole source."""

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.network.attention import CrossAttention, SelfAttention, additive_mask
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

    def forward(self, x: Tensor, bias: Tensor, encoder_states: Tensor, source_bias: Tensor) -> Tensor:
        """(B, T, D), `bias` (H, T, T), states (B, S, D), `source_bias` (B, 1, 1, S). Returns (B, T, D)."""
        x = x + self.dropout(self.self_attention(self.self_norm(x), bias))
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), encoder_states, source_bias))
        out: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return out


class Decoder(nn.Module):
    """Embedded target to states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.relative_bias = RelativeBias.of(config, bidirectional=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, encoder_states: Tensor, source_mask: Tensor) -> Tensor:
        """`x` (B, T, D), `encoder_states` (B, S, D), `source_mask` (B, S) bool. Returns (B, T, D)."""
        length = x.shape[1]
        bias = self.relative_bias.square(length)  # (H, T, T)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        bias = bias + additive_mask(causal, bias.dtype)
        source_bias = additive_mask(source_mask, bias.dtype)[:, None, None, :]
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias, encoder_states, source_bias)
        out: Tensor = self.dropout(self.norm(x))
        return out
