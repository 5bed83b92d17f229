"""The network as torch computes it: any device, float32 or bfloat16; a decode step is one token a row on a cache."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from model.choices import Precision
from model.config import ModelConfig
from model.inference.backend import Backend
from model.inference.kv_cache import KVCache
from model.inference.spelling import FREE, Spelling
from model.network.attention import CrossAttention, SelfAttention, split_heads
from model.network.decoder import DecoderLayer
from model.network.leximind import LexiMind
from model.network.positions import add_positions_at
from model.network.relative_bias import RelativeBias


class TorchBackend(Backend):
    """Calls the modules of a network, which it puts into evaluation mode."""

    def __init__(self, model: LexiMind, spelling: Spelling = FREE) -> None:
        self.config: ModelConfig = model.config
        self.spelling = spelling
        self.model = model.eval()

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.model.device

    @property
    def precision(self) -> Precision:
        """As the parameters are."""
        return cast("Precision", str(self.model.dtype).removeprefix("torch."))

    def encode(self, input_ids: Tensor, encoder_mask: Tensor) -> Tensor:
        """See `LexiMind.encode`."""
        return self.model.encode(input_ids, encoder_mask)

    def classify(self, encoder_states: Tensor, encoder_mask: Tensor, heads: Iterable[str]) -> dict[str, Tensor]:
        """See `LexiMind.classify`."""
        return self.model.classify(encoder_states, encoder_mask, heads)

    def new_cache(self, num_beams: int) -> KVCache:
        """Everything in the dtype of the activations."""
        return KVCache(self.config, num_beams, self.device, self.model.dtype)

    def project_source(self, encoder_states: Tensor, encoder_mask: Tensor) -> list[tuple[Tensor, Tensor]]:  # noqa: ARG002
        """Padding is projected too: the cache's mask hides it."""
        return [layer.cross_attention.project(encoder_states) for layer in self._layers]

    def compute_step(self, token_ids: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """The arithmetic of `Decoder.forward` for one token a row."""
        model, decoder = self.model, self.model.decoder
        positions = [cache.positions[: cache.num_rows] for cache in caches]
        x = add_positions_at(model.embedding(token_ids), positions, model.decoder_positions)  # (R, D)
        for cache in caches:
            cache.begin_step()
        biases = [_bias(decoder.relative_bias, cache) for cache in caches]
        for number, layer in enumerate(self._layers):
            x = x + _self_attention(layer.self_attention, layer.self_norm(x), caches, biases, number)
            x = x + _cross_attention(layer.cross_attention, layer.cross_norm(x), caches, number)
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
        logits = self._logits(model.scaled(decoder.norm(x)))
        for cache in caches:
            cache.advance()
        return logits.float()

    def _logits(self, states: Tensor) -> Tensor:
        return torch.nn.functional.linear(states, self.model.lm_head_weight)

    @property
    def _layers(self) -> Sequence[DecoderLayer]:
        return cast("Sequence[DecoderLayer]", self.model.decoder.layers)


def _bias(relative_bias: RelativeBias, cache: KVCache) -> Tensor:
    # Rows have different ages: the bias is looked up by offset and keys from the future are masked.
    keys = torch.arange(cache.target_length, device=cache.positions.device)
    offsets = keys - cache.positions[: cache.num_rows, None]  # (R, T)
    bias = relative_bias.by_offset(offsets).transpose(0, 1).float()  # (R, H, T)
    return bias.masked_fill(offsets[:, None] > 0, float("-inf"))[:, :, None]  # (R, H, 1, T)


def _self_attention(
    attention: SelfAttention, x: Tensor, caches: Sequence[KVCache], biases: Sequence[Tensor], layer: int
) -> Tensor:
    """`x` (R, D), the rows of all `caches` in order; writes the new tokens' keys and values. Returns (R, D)."""
    outputs = []
    parts = attention.qkv(x).split([cache.num_rows for cache in caches])
    for rows, cache, bias in zip(parts, caches, biases, strict=True):
        q, k, v = rows.view(cache.num_rows, 3, attention.num_heads, -1).unbind(1)  # (R, H, K)
        keys, values = cache.append(layer, k, v)  # (R, H, T, K)
        outputs.append(_attend(q[:, :, None], keys, values, bias).flatten(1))
    out: Tensor = attention.out(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    return out


def _cross_attention(attention: CrossAttention, x: Tensor, caches: Sequence[KVCache], layer: int) -> Tensor:
    """`x` (R, D); the beams of a document read its one copy of keys and values. Returns (R, D)."""
    outputs = []
    parts = attention.q(x).split([cache.num_rows for cache in caches])
    for rows, cache in zip(parts, caches, strict=True):
        q = split_heads(rows.unflatten(0, (-1, cache.num_beams)), attention.num_heads)  # (C, H, N, K)
        keys, values, mask = cache.source(layer)
        context = _attend(q, keys, values, mask)  # (C, H, N, K)
        outputs.append(context.transpose(1, 2).reshape(cache.num_rows, -1))
    out: Tensor = attention.out(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    # With a single query SDPA on CPU takes 4.2 ms a layer where this takes 0.6 (bf16, 32 rows, 256 keys).
    scores = (q @ k.transpose(-1, -2)).float() + bias
    return torch.softmax(scores, dim=-1).to(v.dtype) @ v
