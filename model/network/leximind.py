"""The network: one embedding, one encoder, one decoder, any number of heads."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.inference.kv_cache import KVCache
from model.kernels.decoder import NativeDecoder
from model.kernels.encoder import NativeEncoder
from model.network.decoder import Decoder
from model.network.encoder import Encoder
from model.network.heads import mean_over_tokens, new_heads


class LexiMind(nn.Module):
    """T5 v1.1 / FLAN-T5's function, plus learned positions and classification heads, each known by its name.

    With the position tables at zero, as imported, encoder states and logits are FLAN-T5's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.num_positions:
            self.encoder_positions = nn.Parameter(torch.zeros(config.num_positions, config.d_model))
            self.decoder_positions = nn.Parameter(torch.zeros(config.num_positions, config.d_model))
        if not config.tie_lm_head:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.heads = new_heads(config.d_model, config.heads, config.dropout)
        self.byte_pieces: tuple[int, ...] = ()  # of bytes 0 to 255, where the vocabulary spells characters in bytes
        self.packed_lm_head: nn.Module | None = None  # these three by model.inference.onednn, after loading
        self.native_encoder: NativeEncoder | None = None
        self.native_decoder: NativeDecoder | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What embeddings, activations and caches are."""
        return self.embedding.weight.dtype

    @property
    def precision(self) -> str:
        """`float32`, `bfloat16` or `int8`: the numbers that the matrices are in."""
        if self.native_decoder is not None:
            return self.native_decoder.precision
        return "int8" if self.packed_lm_head is not None else str(self.dtype).removeprefix("torch.")

    def new_cache(self, num_beams: int) -> KVCache:
        """An empty cache for documents with `num_beams` rows each."""
        native = self.native_decoder
        dtypes = (self.dtype,) if native is None else (native.cache_dtype, native.source_dtype)
        return KVCache(self.config, num_beams, self.device, *dtypes)

    @property
    def lm_head_weight(self) -> Tensor:
        """The output matrix (V, D), the embedding itself when tied."""
        return self.embedding.weight if self.config.tie_lm_head else self.lm_head.weight

    @property
    def large_parts(self) -> list[nn.Module]:
        """The layers of both stacks and the output matrix where it is not the embedding: nearly all of the weights."""
        return [*self.encoder.layers, *self.decoder.layers, *([] if self.config.tie_lm_head else [self.lm_head])]

    def forward(self, input_ids: Tensor, encoder_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Teacher-forced logits: (B, S), (B, S), (B, T) to (B, T, V)."""
        return self.decode(self.encode(input_ids, encoder_mask), encoder_mask, decoder_input_ids)

    def encode(self, input_ids: Tensor, encoder_mask: Tensor) -> Tensor:
        """`input_ids` (B, S) int64, `encoder_mask` (B, S) bool, True at real tokens. Returns states (B, S, D)."""
        x = self.embedding(input_ids)
        if self.config.num_positions:
            x = _add_positions(x, self.encoder_positions)
        if self.native_encoder is not None:
            return self.native_encoder.encode(x, encoder_mask)
        hidden: Tensor = self.encoder(x, encoder_mask)
        return hidden

    def project_source(self, hidden: Tensor, encoder_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each decoder layer the cross-attention keys and values of `hidden` (B, S, D): two of (B, H, S, K)."""
        if self.native_decoder is not None:
            return self.native_decoder.project_source(hidden, encoder_mask)
        return self.decoder.project_source(hidden)

    def decode(self, hidden: Tensor, encoder_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Teacher-forced logits on given states: (B, S, D), (B, S), (B, T) to (B, T, V)."""
        x = self.embedding(decoder_input_ids)
        if self.config.num_positions:
            x = _add_positions(x, self.decoder_positions)
        return self._logits(self.decoder(x, hidden, encoder_mask))

    def step(self, token_ids: Tensor, caches: list[KVCache]) -> Tensor:
        """Logits of the next token of every row of `caches`, in order: (R,) to (R, V) float32.

        Writes the tokens' keys and values; every document is a token older afterwards.
        """
        logits = self.compute_step(token_ids, caches)
        for cache in caches:
            cache.count_step()
        return logits

    def compute_step(self, token_ids: Tensor, caches: list[KVCache]) -> Tensor:
        """What `step` has the device do; what the host knows of the caches stays as it is."""
        x = self.embedding(token_ids)
        if self.config.num_positions:
            positions = torch.cat([cache.positions[: cache.num_rows] for cache in caches])
            known = (positions < self.config.num_positions)[:, None]
            x = x + F.embedding(positions.clamp(max=self.config.num_positions - 1), self.decoder_positions) * known
        if self.native_decoder is not None:
            logits = self.native_decoder.step(x, caches)
        else:
            logits = self._logits(self.decoder.step(x, caches))
        for cache in caches:
            cache.advance()
        return logits.float()

    def classify(self, hidden: Tensor, encoder_mask: Tensor, heads: Iterable[str]) -> dict[str, Tensor]:
        """Logits of each of `heads`: (B, S, D), (B, S) to (B, labels of the head)."""
        pooled = mean_over_tokens(hidden, encoder_mask)
        return {name: self.heads[name](pooled) for name in heads}

    def _logits(self, states: Tensor) -> Tensor:
        if self.config.scale_lm_head:
            states = states * self.config.d_model**-0.5
        if self.packed_lm_head is not None:
            logits: Tensor = self.packed_lm_head(states)
            return logits
        return F.linear(states, self.lm_head_weight)


def _add_positions(x: Tensor, table: Tensor) -> Tensor:
    # Positions past the table get no embedding; the relative bias still tells them apart.
    length = min(x.shape[1], table.shape[0])
    return x + F.pad(table[:length], (0, 0, 0, x.shape[1] - length))
