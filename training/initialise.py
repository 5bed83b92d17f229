"""How a network that starts from nothing is initialised, and how its queries are scaled while it learns.

T5's initialisation and its unscaled attention were made for Adafactor's relative steps. From scratch with AdamW or
Muon they stall: matrices start by fan-in here, queries 1/√K smaller, and that factor can be taken out of the weights
that the optimizer sees (`scale_queries`) and multiplied in again at the end (`fold_queries`): the architecture stays
T5's.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from model.attention import CrossAttention, SelfAttention
from model.encoder import Encoder
from model.leximind import LexiMind

EMBEDDING_STD = 0.05
NEIGHBOUR_BIAS = 3.0


def initialise(model: LexiMind) -> None:
    """Fill every parameter; uses torch's global random state.

    Two starts make copying from the source near at hand instead of a habit that thousands of steps must form
    (mimetic initialisation, Trockman and Kolter 2023): cross-attention hands the source's state on as it is
    (`out @ v` is a multiple of the identity), and two encoder heads begin by looking at the previous and the next
    token.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_STD)
    for name in ("encoder_positions", "decoder_positions"):
        if hasattr(model, name):
            nn.init.normal_(getattr(model, name), std=EMBEDDING_STD / 5)
    for module in model.modules():
        if isinstance(module, SelfAttention):
            _shrink(module.qkv.weight.chunk(3)[0], module.num_heads)
        elif isinstance(module, CrossAttention):
            _shrink(module.q.weight, module.num_heads)
            _copy_source(module)
        elif isinstance(module, Encoder):
            _look_at_neighbours(module)


def scale_queries(model: LexiMind) -> None:
    """Take 1/√K out of the query rows of every attention: what they compute stays, what is stored grows by √K."""
    for module in model.modules():
        if isinstance(module, SelfAttention):
            parametrize.register_parametrization(module.qkv, "weight", _QueryScale(module.qkv, module.num_heads, 3))
        elif isinstance(module, CrossAttention):
            parametrize.register_parametrization(module.q, "weight", _QueryScale(module.q, module.num_heads, 1))


def fold_queries(model: LexiMind) -> LexiMind:
    """A copy of `model` with the scale multiplied into its weights and no parametrization left."""
    folded = copy.deepcopy(model)
    for module in folded.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return folded


class _QueryScale(nn.Module):
    scale: Tensor

    def __init__(self, linear: nn.Linear, num_heads: int, parts: int) -> None:
        super().__init__()
        width = linear.out_features // parts
        scale = torch.ones(linear.out_features, 1)
        scale[:width] = (width // num_heads) ** -0.5
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / self.scale  # what the layer computes stays the same when the scale is attached


def _shrink(queries: Tensor, num_heads: int) -> None:
    with torch.no_grad():
        queries.mul_((queries.shape[0] // num_heads) ** -0.5)


def _copy_source(attention: CrossAttention) -> None:
    values = attention.kv.weight.chunk(2)[1]
    nn.init.orthogonal_(values)
    with torch.no_grad():
        attention.out.weight.copy_(values.T)


def _look_at_neighbours(encoder: Encoder) -> None:
    bias = encoder.relative_bias
    for head, offset in enumerate((-1, 1)):
        if head < bias.table.num_embeddings and head < bias.table.embedding_dim:
            with torch.no_grad():
                bias.table.weight[bias.bucket(torch.tensor(offset)), head] = NEIGHBOUR_BIAS
