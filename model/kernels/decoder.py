"""A decoder's weights packed for the kernels, and what runs on them: the same functions as those of `Decoder`."""

import ctypes
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.inference.kv_cache import KVCache, row_elements
from model.kernels import library
from model.kernels.packing import Packer, gates_and_values, padded, padded_rows, shape_of, take_layers
from model.network.decoder import Decoder, DecoderLayer
from model.precision import Precision


class NativeDecoder:
    """All layers and the output matrix, a step in one call.

    Matrices are in `precision`; the residual stream, norms, softmax and sums are float32 in all of them. What a row
    gives is bit for bit what it gives alone.
    """

    def __init__(
        self,
        decoder: Decoder,
        lm_head: Tensor,
        config: ModelConfig,
        precision: Precision,
        fill: Callable[[nn.Module], None],
    ) -> None:
        """Takes `decoder` apart; `fill` is called with each layer first. `lm_head` is the output matrix (V, D)."""
        self.cache_dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self.source_dtype = torch.int8 if precision == "int8" else self.cache_dtype  # of cross-attention
        self.precision = precision
        loaded = library.library()
        assert loaded is not None, "the caller asks is_available first"
        self._library = loaded
        self._packer, self._source_packer = Packer(precision), Packer(precision)
        pairs = [self._layer(cast("DecoderLayer", layer)) for layer in take_layers(decoder.layers, fill)]
        self._layers = (library.DecoderLayer * len(pairs))(*(layer for layer, _ in pairs))
        self._sources = (library.Linear * len(pairs))(*(source for _, source in pairs))
        distances = torch.arange(decoder.relative_bias.max_distance + 1)
        bias = decoder.relative_bias.by_offset(-distances)  # (H, max_distance + 1)
        self._vocab_size = len(lm_head)
        self._shape = shape_of(config, precision)
        self._decoder = library.Decoder(
            self._shape,
            len(pairs),
            self._layers,
            self._packer.vector(decoder.norm.weight * (config.d_model**-0.5 if config.scale_lm_head else 1.0)),
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

        Zeros where `mask` (B, S) is False; in int8 with their scales, as `KVCache` holds them.
        """
        batch, length, _ = hidden.shape
        places = mask.nonzero().T.contiguous()  # documents, then their tokens
        rows = padded_rows(hidden[mask])
        elements = row_elements(self._shape.d_kv, self.source_dtype)
        sizes = (len(self._layers), batch, self._shape.num_heads, length, elements)
        keys, values = torch.zeros(2, *sizes, dtype=self.source_dtype).unbind()
        self._library.leximind_project(
            ctypes.byref(self._shape),
            self._sources,
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

    def _layer(self, layer: DecoderLayer) -> tuple[library.DecoderLayer, library.Linear]:
        own, cross, feed_forward = layer.self_attention, layer.cross_attention, layer.feed_forward
        norms = (layer.self_norm, layer.cross_norm, layer.feed_forward_norm)
        matrices = (own.qkv, own.out, cross.q, cross.out)
        packed = library.DecoderLayer(
            *(self._packer.vector(norm.weight) for norm in norms),
            *(self._packer.matrix(matrix.weight) for matrix in matrices),
            self._packer.matrix(feed_forward.wi.weight, gates_and_values(feed_forward.wo.in_features)),
            self._packer.matrix(feed_forward.wo.weight),
        )
        return packed, self._source_packer.matrix(cross.kv.weight)
