"""An encoder's weights packed for the kernels, and the function of `Encoder` on them."""

import ctypes
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.kernels import library
from model.kernels.packing import Packer, gates_and_values, padded_rows, shape_of, take_layers
from model.network.encoder import Encoder, EncoderLayer
from model.precision import Precision


class NativeEncoder:
    """All layers in one call, documents without their padding.

    Documents pass through all layers a few at a time, so that what lies between the layers stays in the processor's
    caches; a document's states are bit for bit those that it has alone.
    """

    def __init__(
        self, encoder: Encoder, config: ModelConfig, precision: Precision, fill: Callable[[nn.Module], None]
    ) -> None:
        """Takes `encoder` apart; `fill` is called with each layer first."""
        loaded = library.library()
        assert loaded is not None, "the caller asks is_available first"
        self._library = loaded
        self._packer = Packer(precision)
        layers = [self._layer(cast("EncoderLayer", layer)) for layer in take_layers(encoder.layers, fill)]
        self._layers = (library.EncoderLayer * len(layers))(*layers)
        self._table = encoder.relative_bias
        norm = self._packer.vector(encoder.norm.weight)
        self._encoder = library.Encoder(shape_of(config, precision), len(layers), self._layers, norm)
        self._bias = torch.empty(0, 0)  # (H, 2 · reach - 1) by key minus query, for the longest document so far

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` (B, S, D), `mask` (B, S) bool, True at real tokens. Returns (B, S, D) float32, 0 past the ends."""
        ends = (mask * torch.arange(1, mask.shape[1] + 1)).amax(1)  # (B,), one past the last token
        is_row = torch.arange(mask.shape[1]) < ends[:, None]
        rows = padded_rows(x[is_row])
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends.cumsum(0)])
        hidden = torch.zeros(len(rows)).masked_fill_(~mask[is_row], float("-inf"))
        reach = self._reach(int(ends.max()))
        self._library.leximind_encode(
            ctypes.byref(self._encoder),
            starts.data_ptr(),
            len(ends),
            rows.data_ptr(),
            hidden.data_ptr(),
            self._bias.data_ptr(),
            reach,
            torch.get_num_threads(),
        )
        states = torch.zeros(x.shape)
        states[is_row] = rows[:, : x.shape[2]]
        return states

    def _reach(self, length: int) -> int:
        reach = (self._bias.shape[1] + 1) // 2
        if length > reach:
            offsets = torch.arange(1 - length, length)
            self._bias = self._table.by_offset(offsets).detach().float().contiguous()
            reach = length
        return reach

    def _layer(self, layer: EncoderLayer) -> library.EncoderLayer:
        attention, feed_forward = layer.attention, layer.feed_forward
        return library.EncoderLayer(
            self._packer.vector(layer.attention_norm.weight),
            self._packer.vector(layer.feed_forward_norm.weight),
            self._packer.matrix(attention.qkv.weight),
            self._packer.matrix(attention.out.weight),
            self._packer.matrix(feed_forward.wi.weight, gates_and_values(feed_forward.wo.in_features)),
            self._packer.matrix(feed_forward.wo.weight),
        )
