"""The encoder: every source token sees every other."""

from torch import Tensor, nn

from model.config import ModelConfig
from model.network.attention import SelfAttention, additive_mask
from model.network.layers import FeedForward, RMSNorm
from model.network.relative_bias import RelativeBias


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each on the normalised residual stream (pre-LN)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = SelfAttention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, S, D) to (B, S, D); `bias` (B, H, S, S)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), bias))
        out: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return out


class Encoder(nn.Module):
    """Embedded source to states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.relative_bias = RelativeBias.of(config, bidirectional=True)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` (B, S, D), `mask` (B, S) bool, True at real tokens. Returns (B, S, D)."""
        bias = self.relative_bias.square(x.shape[1])  # (H, S, S)
        bias = bias + additive_mask(mask, bias.dtype)[:, None, None, :]  # (B, H, S, S), once for all layers
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias)
        out: Tensor = self.dropout(self.norm(x))
        return out
