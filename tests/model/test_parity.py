"""Our network and decoding against `transformers`' T5 on the same weights: equal states, logits, ids and scores."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from support.reference import BASE, BEAM, GREEDY, NUM_TOKENS, TOLERANCE, Pair, generate


def test_encoder_states_equal(pair: Pair, sources: tuple[Tensor, Tensor]) -> None:
    ids, mask = sources
    theirs = pair.reference.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    ours = pair.model.encode(ids, mask)
    torch.testing.assert_close(ours[mask], theirs[mask], **TOLERANCE)


def test_teacher_forced_logits_equal(pair: Pair, sources: tuple[Tensor, Tensor]) -> None:
    ids, mask = sources
    targets = torch.randint(3, NUM_TOKENS, (5, 140), generator=torch.Generator().manual_seed(2))
    targets[:, 0] = 0
    theirs = pair.reference(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits
    torch.testing.assert_close(pair.model(ids, mask, targets), theirs, **TOLERANCE)


@pytest.mark.parametrize("options", GREEDY, ids=str)
def test_greedy_ids_equal(pair: Pair, sources: tuple[Tensor, Tensor], options: DecodingOptions) -> None:
    ours = decode(TorchBackend(pair.model), pair.model.encode(*sources), sources[1], [options] * 5)
    theirs, _ = generate(pair, sources, options)
    assert [list(result.token_ids) for result in ours] == theirs


@pytest.mark.parametrize("options", BEAM, ids=str)
def test_beam_ids_and_scores_equal(pair: Pair, sources: tuple[Tensor, Tensor], options: DecodingOptions) -> None:
    ours = decode(TorchBackend(pair.model), pair.model.encode(*sources), sources[1], [options] * 5)
    theirs, scores = generate(pair, sources, options)
    assert [list(result.token_ids) for result in ours] == theirs
    torch.testing.assert_close(torch.tensor([result.score for result in ours]), scores, **TOLERANCE)


def test_some_reference_outputs_stop_and_some_run_to_the_limit(pair: Pair, sources: tuple[Tensor, Tensor]) -> None:
    results = decode(
        TorchBackend(pair.model), pair.model.encode(*sources), sources[1], [replace(BASE, num_beams=4)] * 5
    )
    results += decode(
        TorchBackend(pair.model), pair.model.encode(*sources), sources[1], [replace(BASE, max_new_tokens=140)] * 5
    )
    lengths = [len(result.token_ids) for result in results]
    for result in results:
        assert result.finish_reason == "stop" or len(result.token_ids) in (24, 140), lengths
