"""A decoder's weights packed for the kernels, and the step that runs on them: the same function as `Decoder.step`."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from model.decoder import Decoder, DecoderLayer
from model.kv_cache import KVCache
from model.layers import RMSNorm
from model.native import library
from model.native.packing import PackedMatrix, interleave_gates, pack_matrix
from model.precision import Precision


class NativeDecoder:
    """All layers and the output matrix, a step in one call. The weights are copies: the module may be dropped.

    Matrices are in `precision`; the residual stream, norms, softmax and sums are float32 in all of them. What a row
    gives is bit for bit what it gives alone.
    """

    def __init__(self, decoder: Decoder, lm_head: Tensor, logit_scale: float, precision: Precision) -> None:
        self.cache_dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self.precision = precision
        loaded = library.library()
        assert loaded is not None, "the caller asks is_available first"
        self._library = loaded
        self._kept: list[Tensor | PackedMatrix] = []
        layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
        self._layers = (library.DecoderLayer * len(layers))(*map(self._layer, layers))
        table = decoder.relative_bias
        distances = torch.arange(table.max_distance + 1, device="cpu")
        bias = table.by_offset(-distances).detach().float().contiguous()  # (H, max_distance + 1)
        self._vocab_size = len(lm_head)
        first = layers[0]
        self._decoder = library.Decoder(
            library.Shape(
                library.KINDS[precision],
                lm_head.shape[1],
                first.self_attention.num_heads,
                first.self_attention.out.in_features // first.self_attention.num_heads,
                first.feed_forward.wo.in_features,
                decoder.norm.epsilon,
            ),
            len(layers),
            self._layers,
            self._vector(decoder.norm.weight * logit_scale),
            self._matrix(lm_head),
            self._vector(bias),
            bias.shape[1],
        )

    def step(self, x: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """One new token a row: embedded tokens (R, D) of all `caches` in order to logits (R, V) float32."""
        stream = torch.zeros(len(x), _padded(x.shape[1]))
        stream[:, : x.shape[1]] = x
        logits = torch.empty(len(x), _padded(self._vocab_size))
        structs = (library.Cache * len(caches))(*(cache.as_struct() for cache in caches))
        self._library.leximind_decoder_step(
            ctypes.byref(self._decoder),
            structs,
            len(caches),
            stream.data_ptr(),
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        return logits[:, : self._vocab_size]

    def _layer(self, layer: DecoderLayer) -> library.DecoderLayer:
        own, cross, feed_forward = layer.self_attention, layer.cross_attention, layer.feed_forward
        return library.DecoderLayer(
            *map(self._norm, (layer.self_norm, layer.cross_norm, layer.feed_forward_norm)),
            *map(self._matrix, (own.qkv.weight, own.out.weight, cross.q.weight, cross.out.weight)),
            self._matrix(interleave_gates(feed_forward.wi.weight)),
            self._matrix(feed_forward.wo.weight),
        )

    def _norm(self, norm: RMSNorm) -> int:
        return self._vector(norm.weight)

    def _vector(self, values: Tensor) -> int:
        kept = values.detach().float().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()

    def _matrix(self, weight: Tensor) -> library.Linear:
        kept = pack_matrix(weight, self.precision)
        self._kept.append(kept)
        return kept.as_struct()


def _padded(width: int) -> int:
    return -(-width // library.COLUMNS) * library.COLUMNS
