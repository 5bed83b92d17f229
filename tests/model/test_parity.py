"""Our network and decoding against `transformers`' T5 on the same weights: equal states, logits, ids and scores."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from tests.model.conftest import NUM_TOKENS, VOCAB_SIZE, Pair

# float32 in another order of summation (fused projections, another softmax): a few units in the last place of
# numbers around 30, through up to 8 layers of weights that amplify.
TOLERANCE = {"rtol": 1e-4, "atol": 5e-4}

BASE = DecodingOptions(max_new_tokens=24, no_repeat_ngram_size=0)
GREEDY = [
    BASE,
    replace(BASE, no_repeat_ngram_size=3),
    replace(BASE, no_repeat_ngram_size=1),
    replace(BASE, repetition_penalty=1.7, no_repeat_ngram_size=2),
    replace(BASE, min_new_tokens=20),
    replace(BASE, max_new_tokens=1),
    replace(BASE, max_new_tokens=140),
]
BEAM = [
    replace(BASE, num_beams=2),
    replace(BASE, num_beams=4, length_penalty=0.6, no_repeat_ngram_size=3),
    replace(BASE, num_beams=4, length_penalty=2.0, early_stopping=True),
    replace(BASE, num_beams=3, length_penalty=-1.0, early_stopping="never"),
    replace(BASE, num_beams=3, length_penalty=1.5, early_stopping="never", repetition_penalty=1.3),
    replace(BASE, num_beams=5, length_penalty=0.0, early_stopping=True, min_new_tokens=8),
    replace(BASE, num_beams=8, max_new_tokens=5),
]


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


def generate(pair: Pair, sources: tuple[Tensor, Tensor], options: DecodingOptions) -> tuple[list[list[int]], Tensor]:
    ids, mask = sources
    beams = {"length_penalty": options.length_penalty, "early_stopping": options.early_stopping}
    out = pair.reference.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        num_beams=options.num_beams,
        max_new_tokens=options.max_new_tokens,
        min_new_tokens=options.min_new_tokens or None,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        repetition_penalty=options.repetition_penalty,
        suppress_tokens=[0, 2, *range(NUM_TOKENS, VOCAB_SIZE)],
        do_sample=False,
        use_cache=False,  # transformers sizes its cache by the encoder's depth and fails on a deeper decoder
        return_dict_in_generate=True,
        output_scores=True,
        **(beams if options.num_beams > 1 else {}),
    )
    # After the start token; the end token and what pads a shorter row are no part of our result.
    rows = [[token for token in row[1:].tolist() if token not in (0, 1)] for row in out.sequences]
    return rows, getattr(out, "sequences_scores", None)
