"""How a fresh network starts: it can look back and copy, and scaled queries compute what plain ones do."""

import torch
from torch.nn import functional as F

from model.network.attention import CrossAttention, SelfAttention
from model.network.leximind import LexiMind, tensor_shapes
from support.models import CONFIG
from training.network.initialise import (
    COPY_GAIN,
    EMBEDDING_STD,
    NEIGHBOUR_BIAS,
    OUT_SCALE,
    fold_queries,
    initialise,
    scale_queries,
)
from training.network.lora import LoraConfig, add_lora

IDS = torch.tensor([[5, 17, 9, 44, 23, 8, 31, 1]])
MASK = torch.ones(1, 8, dtype=torch.bool)


def fresh(seed: int = 0) -> LexiMind:
    torch.manual_seed(seed)
    model = LexiMind(CONFIG).eval()
    initialise(model)
    return model


def logits(model: LexiMind) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, MASK, torch.tensor([[0, 17, 9]]))


def test_every_number_depends_on_the_seed_alone() -> None:
    one, two, other = fresh().state_dict(), fresh().state_dict(), fresh(1).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    drawn = {name for name in one if not torch.equal(one[name], other[name])}
    assert {name for name in one if name.endswith("norm.weight")} & drawn == set()
    assert {"embedding.weight", "encoder_positions", "decoder_positions", "lm_head.weight"} <= drawn


def test_a_fresh_network_states_no_preference_it_could_not_have() -> None:
    probabilities = logits(fresh()).softmax(-1)
    assert torch.isfinite(probabilities).all()
    assert probabilities.max() < 0.5


def test_heads_of_the_encoder_prefer_their_neighbours() -> None:
    bias = fresh().encoder.relative_bias.square(6)  # (H, 6, 6) by query and key
    for head, (offset, strength) in enumerate(zip((-1, 1), NEIGHBOUR_BIAS, strict=True)):
        for query in range(1, 5):
            assert bias[head, query].argmax() == query + offset
            assert bias[head, query, query + offset] == strength
    assert bias[2].abs().max() < min(NEIGHBOUR_BIAS) / 4


def test_what_goes_back_into_the_stream_is_small() -> None:
    torch.manual_seed(0)
    model = LexiMind(CONFIG)
    initialise(model)
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        wo = layer.feed_forward.wo
        assert wo.weight.std() < 1.2 * OUT_SCALE * wo.in_features**-0.5
    assert abs(model.embedding.weight.std() / EMBEDDING_STD - 1) < 0.1


def test_cross_attention_finds_where_the_newest_token_was_and_copies_what_follows() -> None:
    # Head 0 of each decoder layer searches with `read` for what the encoder's head 0 wrote of the previous token.
    model = fresh()
    encoder = next(module for module in model.encoder.modules() if isinstance(module, SelfAttention))
    width = CONFIG.d_kv
    values, back = encoder.qkv.weight.chunk(3)[2][:width], encoder.out.weight[:, :width]
    for attention in (module for module in model.decoder.modules() if isinstance(module, CrossAttention)):
        keys, carried = attention.kv.weight.chunk(2)
        token = F.normalize(torch.randn(40, CONFIG.d_model), dim=-1)
        written = token @ values.T @ back.T  # what the position after each token holds of it
        scores = (token @ attention.q.weight[:width].T) @ (written @ keys[:width].T).T
        assert (scores.argmax(1) == torch.arange(40)).float().mean() > 0.6
        copied = attention.out.weight[:, :width] @ carried[:width]
        expected = carried[:width].T @ carried[:width] * EMBEDDING_STD * COPY_GAIN
        torch.testing.assert_close(copied, expected)


def test_scaled_queries_compute_what_plain_ones_do() -> None:
    plain, scaled = fresh(), fresh()
    scale_queries(scaled)
    torch.testing.assert_close(logits(scaled), logits(plain), rtol=1e-5, atol=1e-5)
    attention = scaled.encoder.layers[0].attention
    stored = attention.qkv.parametrizations.weight.original.chunk(3)
    used = attention.qkv.weight.chunk(3)
    torch.testing.assert_close(stored[0], used[0] * CONFIG.d_kv**0.5)
    assert torch.equal(stored[1], used[1])


def test_folding_gives_a_plain_network_that_shares_nothing() -> None:
    model = fresh()
    scale_queries(model)
    add_lora(model, LoraConfig(2, 4.0))
    for name, parameter in model.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter)
    folded = fold_queries(model)
    assert {name: tuple(tensor.shape) for name, tensor in folded.state_dict().items()} == tensor_shapes(CONFIG)
    torch.testing.assert_close(logits(folded), logits(model), rtol=1e-5, atol=1e-5)
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    before = logits(folded)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(logits(folded), before)
