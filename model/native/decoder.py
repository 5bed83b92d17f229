"""A decoder's weights packed for the kernels, and what runs on them: the same functions as those of `Decoder`."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from model.decoder import Decoder, DecoderLayer
from model.kv_cache import KVCache
from model.native import library
from model.native.packing import Packer, interleave_gates, padded, padded_rows
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
        self._packer, self._source_packer = Packer(precision), Packer(precision)
        layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
        self._layers = (library.DecoderLayer * len(layers))(*map(self._layer, layers))
        table = decoder.relative_bias
        distances = torch.arange(table.max_distance + 1, device="cpu")
        bias = table.by_offset(-distances).detach().float().contiguous()  # (H, max_distance + 1)
        self._vocab_size = len(lm_head)
        self._cross = (library.Linear * len(layers))(
            *(self._source_packer.matrix(layer.cross_attention.kv.weight) for layer in layers)
        )
        self._shape = library.Shape(
            library.KINDS[precision],
            lm_head.shape[1],
            layers[0].self_attention.num_heads,
            layers[0].self_attention.out.in_features // layers[0].self_attention.num_heads,
            layers[0].feed_forward.wo.in_features,
            decoder.norm.epsilon,
        )
        self._decoder = library.Decoder(
            self._shape,
            len(layers),
            self._layers,
            self._packer.vector(decoder.norm.weight * logit_scale),
            self._packer.matrix(lm_head),
            self._packer.vector(bias),
            bias.shape[1],
        )

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a step reads."""
        return self._packer.num_bytes

    def project_source(self, hidden: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each layer the cross-attention keys and values of `hidden` (B, S, D): two of (B, H, S, K).

        Zeros where `mask` (B, S) is False.
        """
        batch, length, _ = hidden.shape
        places = mask.nonzero().T.contiguous()  # documents, then their tokens
        rows = padded_rows(hidden[mask])
        sizes = (len(self._layers), batch, self._shape.num_heads, length, self._shape.d_kv)
        keys, values = torch.zeros(2, *sizes, dtype=self.cache_dtype).unbind()
        self._library.leximind_project(
            ctypes.byref(self._shape),
            self._cross,
            len(self._layers),
            rows.data_ptr(),
            len(rows),
            places[0].data_ptr(),
            places[1].data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            keys.stride(0),
            length,
            torch.get_num_threads(),
        )
        return list(zip(keys, values, strict=True))

    def step(self, x: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """One new token a row: embedded tokens (R, D) of all `caches` in order to logits (R, V) float32."""
        stream = padded_rows(x)
        logits = torch.empty(len(x), padded(self._vocab_size))
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
        norms = (layer.self_norm, layer.cross_norm, layer.feed_forward_norm)
        matrices = (own.qkv, own.out, cross.q, cross.out)
        return library.DecoderLayer(
            *(self._packer.vector(norm.weight) for norm in norms),
            *(self._packer.matrix(matrix.weight) for matrix in matrices),
            self._packer.matrix(interleave_gates(feed_forward.wi.weight)),
            self._packer.matrix(feed_forward.wo.weight),
        )
