"""A decoder's weights packed for the kernels, and what runs on them: a step, and the source's keys and values."""

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.choices import Precision
from model.config import ModelConfig
from model.kernels import structs
from model.kernels.library import loaded_library
from model.kernels.packing import Packer, gates_and_values, num_bytes, padded, padded_rows, shape_of
from model.precision import computing_dtype


class NativeDecoder:
    """All layers and the output matrix, a step in one call.

    Matrices are in `precision`; the residual stream, norms, softmax and sums are float32 in all of them. What a row
    gives is bit for bit what it gives alone.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: ModelConfig, precision: Precision, bias: Tensor) -> None:
        """`weights` are the network's by name; `bias` (H, distances) is that of a key so many tokens before its query,
        the last one that of all that are farther."""
        self._library = loaded_library()
        self._vocab_size = config.vocab_size
        self._shape = shape_of(config, precision)
        packer, source_packer = Packer(weights, precision), Packer(weights, precision)
        names = [f"decoder.layers.{number}" for number in range(config.num_decoder_layers)]
        self._layers = (structs.DecoderLayer * len(names))(*(_layer(packer, name, config.d_ff) for name in names))
        self._sources = (structs.Linear * len(names))(
            *(source_packer.matrix(f"{name}.cross_attention.kv.weight") for name in names)
        )
        norm = weights["decoder.norm.weight"].to(computing_dtype(precision))
        self._decoder = structs.Decoder(
            shape=self._shape,
            num_layers=len(names),
            layers=self._layers,
            norm=packer.vector(norm * (config.d_model**-0.5 if config.scale_lm_head else 1.0)),
            lm_head=packer.matrix("embedding.weight" if config.tie_lm_head else "lm_head.weight"),
            bias=packer.vector(bias),
            num_distances=bias.shape[1],
        )
        self._kept, self._kept_sources = packer.kept, source_packer.kept

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a step reads."""
        return num_bytes(self._kept)

    def project_source(self, encoder_states: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write the cross-attention keys and values of (B, S, D) states: arrays as source.h has them, zeros before.

        Where `mask` (B, S) is False they stay as they are.
        """
        places = mask.nonzero().T.contiguous()  # documents, then their tokens
        rows = padded_rows(encoder_states[mask])
        self._library.leximind_project(
            ctypes.byref(self._shape),
            self._sources,
            len(self._sources),
            rows.data_ptr(),
            len(rows),
            places[0].data_ptr(),
            places[1].data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            keys.stride(0) * keys.itemsize,
            values.stride(0) * values.itemsize,
            keys.shape[3],
            torch.get_num_threads(),
        )

    def step(self, x: Tensor, caches: Sequence[structs.Cache]) -> Tensor:
        """One new token a row: embedded tokens (R, D) of all `caches` in order to logits (R, V) float32."""
        stream = padded_rows(x)
        logits = torch.empty(len(x), padded(self._vocab_size))
        self._library.leximind_decoder_step(
            ctypes.byref(self._decoder),
            (structs.Cache * len(caches))(*caches),
            len(caches),
            stream.data_ptr(),
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        return logits[:, : self._vocab_size]


def _layer(packer: Packer, name: str, d_ff: int) -> structs.DecoderLayer:
    return structs.DecoderLayer(
        self_norm=packer.vector(f"{name}.self_norm.weight"),
        cross_norm=packer.vector(f"{name}.cross_norm.weight"),
        feed_forward_norm=packer.vector(f"{name}.feed_forward_norm.weight"),
        qkv=packer.matrix(f"{name}.self_attention.qkv.weight"),
        self_out=packer.matrix(f"{name}.self_attention.out.weight"),
        q=packer.matrix(f"{name}.cross_attention.q.weight"),
        cross_out=packer.matrix(f"{name}.cross_attention.out.weight"),
        wi=packer.matrix(f"{name}.feed_forward.wi.weight", gates_and_values(d_ff)),
        wo=packer.matrix(f"{name}.feed_forward.wo.weight"),
    )
