"""The network: one embedding, one encoder, one decoder, any number of heads."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from model.config import ModelConfig
from model.network.decoder import Decoder
from model.network.encoder import Encoder
from model.network.heads import mean_over_tokens, new_heads
from model.network.positions import add_positions


class LexiMind(nn.Module):
    """T5 v1.1 / FLAN-T5's function, plus learned positions and classification heads, each known by its name.

    With the position tables at zero, as imported, encoder states and logits are FLAN-T5's.
    """

    encoder_positions: nn.Parameter | None
    decoder_positions: nn.Parameter | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        for name in ("encoder_positions", "decoder_positions"):
            table = nn.Parameter(torch.zeros(config.num_positions, config.d_model)) if config.num_positions else None
            self.register_parameter(name, table)
        if not config.tie_lm_head:
            self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.heads = new_heads(config.d_model, config.heads, config.dropout)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What embeddings and activations are."""
        return self.embedding.weight.dtype

    @property
    def lm_head_weight(self) -> Tensor:
        """The output matrix (V, D), the embedding itself when tied."""
        return self.embedding.weight if self.config.tie_lm_head else self.lm_head.weight

    def forward(self, input_ids: Tensor, encoder_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Teacher-forced logits: (B, S), (B, S), (B, T) to (B, T, V)."""
        return self.decode(self.encode(input_ids, encoder_mask), encoder_mask, decoder_input_ids)

    def encode(self, input_ids: Tensor, encoder_mask: Tensor) -> Tensor:
        """`input_ids` (B, S) int64, `encoder_mask` (B, S) bool, True at real tokens. Returns states (B, S, D)."""
        x = add_positions(self.embedding(input_ids), self.encoder_positions)
        encoder_states: Tensor = self.encoder(x, encoder_mask)
        return encoder_states

    def decode(self, encoder_states: Tensor, encoder_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Teacher-forced logits on given states: (B, S, D), (B, S), (B, T) to (B, T, V)."""
        return F.linear(self.target_states(encoder_states, encoder_mask, decoder_input_ids), self.lm_head_weight)

    def target_states(self, encoder_states: Tensor, encoder_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """What `decode` multiplies with the output matrix: (B, S, D), (B, S), (B, T) to (B, T, D)."""
        x = add_positions(self.embedding(decoder_input_ids), self.decoder_positions)
        return self.scaled(self.decoder(x, encoder_states, encoder_mask))

    def scaled(self, states: Tensor) -> Tensor:
        """The decoder's states (…, D) as the output matrix takes them."""
        return states * self.config.d_model**-0.5 if self.config.scale_lm_head else states

    def classify(self, encoder_states: Tensor, encoder_mask: Tensor, heads: Iterable[str]) -> dict[str, Tensor]:
        """Logits of each of `heads`: (B, S, D), (B, S) to (B, labels of the head)."""
        pooled = mean_over_tokens(encoder_states, encoder_mask)
        return {name: self.heads[name](pooled) for name in heads}


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a network of `config` consists of."""
    return {name: tuple(tensor.shape) for name, tensor in _without_numbers(config).state_dict().items()}


def from_tensors(config: ModelConfig, tensors: Mapping[str, Tensor]) -> LexiMind:
    """The network that `tensors`, which have `tensor_shapes`, make up, in evaluation mode; they are not copied."""
    model = _without_numbers(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def _without_numbers(config: ModelConfig) -> LexiMind:
    with _Uninitialised(), torch.device("meta"):
        return LexiMind(config)


class _Uninitialised(TorchFunctionMode):
    """Nothing of `torch.nn.init` is done: on the meta device that costs a second and 70 MB, since it imports sympy."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
