"""The network on the kernels of `model.kernels`, in float32, bfloat16 or int8."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.choices import Precision
from model.config import ModelConfig
from model.inference.backend import Backend
from model.inference.kv_cache import KVCache, SourceLayout
from model.inference.spelling import FREE, Spelling
from model.kernels.decoder import NativeDecoder
from model.kernels.encoder import NativeEncoder
from model.kernels.formats import FORMATS
from model.kernels.library import COLUMNS, MAX_HEAD_WIDTH, absence, chosen_name
from model.kernels.packing import Memory
from model.kernels.structs import Cache
from model.network.heads import head_tensors
from model.network.positions import add_positions, add_positions_at
from model.network.relative_bias import bias_by_offset
from model.precision import computing_dtype

_LARGE_ARRAY = 2**24  # bytes; smaller ones would take more than they need of large pages, and longer to come


def why_not_native(config: ModelConfig, device: torch.device) -> str | None:
    """Why the native kernels do not compute such a network on `device`, and what to do about it; None where they do."""
    if device.type != "cpu":
        return f"they are for a CPU, and {device} computes"
    if (absent := absence()) is not None:
        return str(absent)
    if config.d_kv > MAX_HEAD_WIDTH:
        return f"this network has {config.d_kv} numbers a head, and they take up to {MAX_HEAD_WIDTH}; torch computes"
    return None


class NativeBackend(Backend):
    """Both stacks and the output matrix are the kernels'; embedding, positions and heads are torch's.

    The embedding is bfloat16 but in float32; positions, heads and all between the matrices is float32.
    """

    device = torch.device("cpu")
    rows_are_independent = True

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: ModelConfig,
        precision: Precision,
        spelling: Spelling = FREE,
    ) -> None:
        """`weights` are the network's by name (`tensor_shapes`); of the large ones one at a time is asked for."""
        self.config = config
        self.spelling = spelling
        self._precision = precision
        self.kernels = chosen_name()
        self._format = FORMATS[precision]
        self._layout = _source_layout(config, precision)

        def small(name: str) -> Tensor:
            return weights[name].to(computing_dtype(precision), copy=True)

        # First of all, while there is room: afterwards memory would hold it twice beside everything else.
        self._embedding = weights["embedding.weight"].to(
            torch.float32 if precision == "float32" else torch.bfloat16, copy=True
        )
        distances = torch.arange(config.relative_attention_max_distance + 1)
        bias = bias_by_offset(small("decoder.relative_bias.table.weight"), -distances, config, bidirectional=False)
        self._decoder = NativeDecoder(weights, config, precision, bias)
        self._encoder = NativeEncoder(weights, config, precision)
        self._bias_table = small("encoder.relative_bias.table.weight")
        self._encoder_bias = torch.empty(0, 0)  # (H, 2·reach - 1) by key minus query, for the longest source so far
        self._encoder_positions, self._decoder_positions = (
            small(f"{stack}_positions").float() if config.num_positions else None for stack in ("encoder", "decoder")
        )
        self._heads = {name: [small(tensor).float() for tensor in head_tensors(name)] for name in config.heads}

    @property
    def precision(self) -> Precision:
        """That of the matrices."""
        return self._precision

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a step reads."""
        return self._decoder.step_bytes

    def encode(self, input_ids: Tensor, encoder_mask: Tensor) -> Tensor:
        """Float32, 0 past the sources' ends."""
        x = add_positions(F.embedding(input_ids, self._embedding), self._encoder_positions)
        length = x.shape[1]
        if 2 * length - 1 > self._encoder_bias.shape[1]:
            offsets = torch.arange(1 - length, length)
            bias = bias_by_offset(self._bias_table, offsets, self.config, bidirectional=True)
            self._encoder_bias = bias.float().contiguous()
        return self._encoder.encode(x, encoder_mask, self._encoder_bias)

    def classify(self, encoder_states: Tensor, encoder_mask: Tensor, heads: Iterable[str]) -> dict[str, Tensor]:
        """See `LexiMind.classify`; a row at a time.

        torch sums in another order over another length, and multiplies another number of rows by another kernel: of a
        whole batch, the last digit of a score would depend on what is beside it.
        """
        weights = encoder_mask.float() / encoder_mask.sum(1, keepdim=True)
        ends = (encoder_mask * torch.arange(1, encoder_mask.shape[1] + 1)).amax(1).tolist()
        rows = zip(weights, encoder_states, ends, strict=True)
        means = [shares[None, :end] @ states[:end] for shares, states, end in rows]  # (1, D) each
        return {name: torch.cat([F.linear(mean, *self._heads[name]) for mean in means]) for name in heads}

    def new_cache(self, num_beams: int) -> KVCache:
        """As the precision's `Format` has it."""
        return KVCache(self.config, num_beams, self.device, self._format.cache_dtype, self._layout, _zeros)

    def project_source(self, encoder_states: Tensor, encoder_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Zeros where `encoder_mask` is False."""
        layout, (batch, length, _) = self._layout, encoder_states.shape
        keys, values = (
            torch.zeros(self.config.num_decoder_layers, batch, rows, layout.stored(length), numbers, dtype=layout.dtype)
            for rows, numbers in (layout.keys, layout.values)
        )
        self._decoder.project_source(encoder_states, encoder_mask, keys, values)
        return list(zip(keys, values, strict=True))

    def compute_step(self, token_ids: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """All layers and the output matrix in one call."""
        positions = [cache.step_positions for cache in caches]
        x = add_positions_at(F.embedding(token_ids, self._embedding), positions, self._decoder_positions)
        logits = self._decoder.step(x, [_struct_of(cache) for cache in caches])
        for cache in caches:
            cache.advance()
        return logits


def _zeros(*sizes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A step with 32 rows reads a hundred megabytes of keys, which takes a tenth longer in small pages.
    if math.prod(sizes) * dtype.itemsize < _LARGE_ARRAY:
        return torch.zeros(sizes, dtype=dtype, device=device)
    return Memory().allocate(dtype, *sizes)


def _source_layout(config: ModelConfig, precision: Precision) -> SourceLayout:
    """As source.h has it: blocks of `COLUMNS` positions; values in rows of as many of their numbers."""
    layout, heads, width = FORMATS[precision], config.num_heads, config.d_kv
    key = -(-width // layout.group) * layout.group + layout.key_extra
    return SourceLayout(layout.source_dtype, (heads, key), (heads * -(-width // COLUMNS), COLUMNS), block=COLUMNS)


def _struct_of(cache: KVCache) -> Cache:
    """What is in use, as the kernels take it; void once documents join."""
    return Cache(
        num_documents=cache.num_documents,
        num_beams=cache.num_beams,
        self_keys=cache.self_keys.data_ptr(),
        self_values=cache.self_values.data_ptr(),
        self_stride=cache.self_keys.stride(0),
        target_capacity=cache.self_keys.shape[3],
        lineage=cache.lineage.data_ptr(),
        lineage_stride=cache.lineage.shape[1],
        cross_keys=cache.cross_keys.data_ptr(),
        cross_values=cache.cross_values.data_ptr(),
        cross_key_stride=cache.cross_keys.stride(0),
        cross_value_stride=cache.cross_values.stride(0),
        source_capacity=cache.cross_keys.shape[3],
        additive_mask=cache.additive_mask.data_ptr(),
        mask_stride=cache.additive_mask.shape[1],
        positions=cache.positions.data_ptr(),
        source_ends=cache.source_ends.data_ptr(),
        token_ends=None if cache.step_tokens is None else cache.step_tokens.ends.data_ptr(),
    )
