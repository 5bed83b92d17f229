"""An encoder's weights packed for the kernels, and the function of `network.encoder.Encoder` on them."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from model.choices import Precision
from model.config import ModelConfig
from model.kernels import structs
from model.kernels.library import loaded_library
from model.kernels.packing import Packer, gates_and_values, padded_rows, shape_of
from model.precision import computing_dtype


class NativeEncoder:
    """All layers in one call, documents without their padding.

    Documents pass through all layers a few at a time, so that what lies between the layers stays in the processor's
    caches; a document's states are bit for bit those that it has alone.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: ModelConfig, precision: Precision) -> None:
        """`weights` are the network's by name; each is read once."""
        self._library = loaded_library()
        packer = Packer(weights, precision)
        layers = [_layer(packer, f"encoder.layers.{n}", config.d_ff) for n in range(config.num_encoder_layers)]
        self._layers = (structs.EncoderLayer * len(layers))(*layers)
        self._encoder = structs.Encoder(
            shape=shape_of(config, precision),
            num_layers=len(layers),
            layers=self._layers,
            norm=packer.vector(weights["encoder.norm.weight"].to(computing_dtype(precision))),
        )
        self._kept = packer.kept

    def encode(self, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        """States (B, S, D) float32, 0 past the ends.

        Args:
            x: (B, S, D) embedded tokens.
            mask: (B, S) bool, True at real tokens.
            bias: (H, 2·reach - 1) float32 by key minus query, where no document is longer than `reach`.
        """
        ends = (mask * torch.arange(1, mask.shape[1] + 1)).amax(1)  # (B,), one past the last token
        is_row = torch.arange(mask.shape[1]) < ends[:, None]
        rows = padded_rows(x[is_row])
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends.cumsum(0)])
        additive_mask = torch.zeros(len(rows)).masked_fill_(~mask[is_row], float("-inf"))
        self._library.leximind_encode(
            ctypes.byref(self._encoder),
            starts.data_ptr(),
            len(ends),
            rows.data_ptr(),
            additive_mask.data_ptr(),
            bias.data_ptr(),
            (bias.shape[1] + 1) // 2,
            torch.get_num_threads(),
        )
        states = torch.zeros(x.shape)
        states[is_row] = rows[:, : x.shape[2]]
        return states


def _layer(packer: Packer, name: str, d_ff: int) -> structs.EncoderLayer:
    return structs.EncoderLayer(
        attention_norm=packer.vector(f"{name}.attention_norm.weight"),
        feed_forward_norm=packer.vector(f"{name}.feed_forward_norm.weight"),
        qkv=packer.matrix(f"{name}.attention.qkv.weight"),
        out=packer.matrix(f"{name}.attention.out.weight"),
        wi=packer.matrix(f"{name}.feed_forward.wi.weight", gates_and_values(d_ff)),
        wo=packer.matrix(f"{name}.feed_forward.wo.weight"),
    )
