"""Parity is no accident: each single change of T5's arithmetic, the faults of the reference among them, breaks it."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.network.decoder import DecoderLayer
from model.network.leximind import LexiMind
from support.reference import NUM_TOKENS, TOLERANCE, Pair

Mutation = Callable[[LexiMind, pytest.MonkeyPatch], None]
gelu = F.gelu


def exact_gelu(_: LexiMind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "gelu", lambda x, **_: gelu(x))


def scaled_scores(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    with torch.no_grad():  # scores are linear in the queries
        model.encoder.layers[0].attention.qkv.weight[: model.config.inner_width] *= model.config.d_kv**-0.5


def scaled_cross_scores(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        model.decoder.layers[0].cross_attention.q.weight *= model.config.d_kv**-0.5


def encoder_border(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    model.encoder.relative_bias.max_distance += 8


def decoder_border(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    model.decoder.relative_bias.max_distance += 8


def one_sided_encoder(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    model.encoder.relative_bias.bidirectional = False


def two_sided_decoder(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    model.decoder.relative_bias.bidirectional = True


def shared_bias_table(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    model.decoder.relative_bias.table = model.encoder.relative_bias.table


def tied_head(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    model.lm_head.weight = model.embedding.weight


def scaled_head(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    object.__setattr__(model.config, "scale_lm_head", True)


def positions(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        model.decoder_positions += 0.01


def centred_norm(model: LexiMind, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = type(model.encoder.norm)
    forward = norm.forward
    monkeypatch.setattr(norm, "forward", lambda self, x: forward(self, x - x.mean(-1, keepdim=True)))


def bias_in_a_projection(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    out = model.encoder.layers[0].attention.out
    out.bias = torch.nn.Parameter(torch.full((out.out_features,), 0.01))


def norm_left_out(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    layer = model.decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    layer.cross_norm = torch.nn.Identity()


def swapped_gate(model: LexiMind, _: pytest.MonkeyPatch) -> None:
    wi = model.encoder.layers[0].feed_forward.wi
    wi.weight = torch.nn.Parameter(wi.weight.roll(model.config.d_ff, dims=0))


MUTATIONS: list[Mutation] = [
    exact_gelu,
    scaled_scores,
    scaled_cross_scores,
    encoder_border,
    decoder_border,
    one_sided_encoder,
    two_sided_decoder,
    shared_bias_table,
    tied_head,
    scaled_head,
    positions,
    centred_norm,
    bias_in_a_projection,
    norm_left_out,
    swapped_gate,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_changed_arithmetic_breaks_parity(
    pair: Pair, sources: tuple[Tensor, Tensor], mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = sources
    targets = torch.randint(3, NUM_TOKENS, (5, 140), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = pair.reference(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits
        model = copy.deepcopy(pair.model)
        torch.testing.assert_close(model(ids, mask, targets), theirs, **TOLERANCE)
        mutation(model, monkeypatch)
        with pytest.raises(AssertionError, match="Tensor-likes are not close"):
            torch.testing.assert_close(model(ids, mask, targets), theirs, **TOLERANCE)
