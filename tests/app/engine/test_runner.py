"""The runner alone: padding, heads, sharing, joining and leaving, on a real two-layer model."""

import math
from collections.abc import Callable

import pytest
import torch

from app.engine.request import EngineRequest, EngineResult
from app.engine.runner import Runner
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind
from support.engines import HEADS, assert_same

Source = Callable[[int, int], tuple[int, ...]]
Alone = Callable[[EngineRequest], EngineResult]


def finish(runner: Runner) -> dict[int, EngineResult]:
    answers = {}
    while runner.num_rows:
        for update in runner.step():
            if isinstance(update.end, EngineResult):
                answers[update.key] = update.end
    return answers


def test_heads_score_as_the_model_does_on_the_unpadded_source(model: LexiMind, source: Source) -> None:
    runner = Runner(TorchBackend(model), HEADS)
    requests = {key: EngineRequest(source(key, 5 + 9 * key), math.inf, heads=("emotions", "topic")) for key in range(4)}
    for update in runner.join(runner.encode(requests)):
        ids = torch.tensor([requests[update.key].input_ids])
        mask = torch.ones_like(ids, dtype=torch.bool)
        with torch.inference_mode():
            hidden = model.encode(ids, mask)
            emotions = model.classify(hidden, mask, ["emotions"])["emotions"][0].sigmoid().tolist()
            topic = model.classify(hidden, mask, ["topic"])["topic"][0].softmax(0).tolist()
        assert isinstance(update.end, EngineResult)
        # float32, and padding changes the order of summation
        assert update.end.scores["emotions"] == pytest.approx(emotions, abs=1e-5)
        assert update.end.scores["topic"] == pytest.approx(topic, abs=1e-5)
        assert sum(update.end.scores["topic"]) == pytest.approx(1, abs=1e-6)


def test_bucketed_lengths_change_no_answer(
    model: LexiMind, source: Source, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.runner._LENGTH_MULTIPLES", {"cpu": 64})
    options = DecodingOptions(max_new_tokens=6)
    requests = {key: EngineRequest(source(key, 30 * key + 5), math.inf, options=options) for key in range(3)}
    runner = Runner(TorchBackend(model), HEADS)
    encoded = runner.encode(requests)
    assert (encoded.num_tokens, encoded.padded_tokens) == (105, 3 * 128)
    runner.join(encoded)
    assert {key: one.summary for key, one in finish(runner).items()} == {
        key: alone(request).summary for key, request in requests.items()
    }


def test_results_hold_what_was_requested_and_nothing_else(model: LexiMind, source: Source) -> None:
    runner = Runner(TorchBackend(model), HEADS)
    ids, options = source(1, 9), DecodingOptions(max_new_tokens=3)
    requests = {
        1: EngineRequest(ids, math.inf, heads=("emotions",)),
        2: EngineRequest(ids, math.inf, heads=("topic",)),
        3: EngineRequest(ids, math.inf, options=options),
        4: EngineRequest(ids, math.inf, heads=("emotions",), options=options),
    }
    first = {update.key: update.end for update in runner.join(runner.encode(requests))}
    assert set(first) == {1, 2}, "what decodes is answered later"
    answers = first | finish(runner)
    asked = {key: (one.heads, one.options is not None) for key, one in requests.items()}
    assert asked == {key: (tuple(one.scores), one.summary is not None) for key, one in answers.items()}


def test_equal_sources_are_encoded_once(
    model: LexiMind, source: Source, encoded_shapes: list[tuple[int, int]], alone: Alone
) -> None:
    runner = Runner(TorchBackend(model), HEADS)
    ids, other = source(1, 12), source(2, 7)
    options = [DecodingOptions(max_new_tokens=6, num_beams=beams) for beams in (1, 2)]
    requests = {
        1: EngineRequest(ids, math.inf, heads=("topic",)),
        2: EngineRequest(other, math.inf, options=options[0]),
        3: EngineRequest(ids, math.inf, options=options[0]),
        4: EngineRequest(ids, math.inf, options=options[1]),
    }
    encoded = runner.encode(requests)
    assert encoded_shapes == [(2, 12)]
    assert (encoded.num_tokens, encoded.padded_tokens) == (19, 24)
    runner.join(encoded)
    answers = finish(runner)
    for key in (2, 3, 4):
        assert_same(answers[key], alone(requests[key]))


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(max_new_tokens=12),
        DecodingOptions(max_new_tokens=12, num_beams=3),
        DecodingOptions(max_new_tokens=12, do_sample=True, seed=3),
        DecodingOptions(max_new_tokens=1),
    ],
    ids=["greedy", "beams", "sampled", "one token"],
)
def test_tokens_of_all_updates_are_the_result(model: LexiMind, source: Source, options: DecodingOptions) -> None:
    for seed in range(6):
        runner = Runner(TorchBackend(model), HEADS)
        runner.join(runner.encode({7: EngineRequest(source(seed, 11), math.inf, options=options)}))
        token_ids: list[int] = []
        result: DecodingResult | None = None
        while runner.num_rows:
            for update in runner.step():
                token_ids += update.token_ids
                result = update.end.summary if isinstance(update.end, EngineResult) else None
        assert result is not None
        assert tuple(token_ids) == result.token_ids


def test_removed_request_leaves_at_once_and_the_others_go_on(model: LexiMind, source: Source, alone: Alone) -> None:
    runner = Runner(TorchBackend(model), HEADS)
    options = DecodingOptions(max_new_tokens=10, min_new_tokens=10)
    requests = {key: EngineRequest(source(key, 8 + key), math.inf, options=options) for key in range(3)}
    runner.join(runner.encode(requests))
    runner.step()
    runner.remove([1, 99])
    assert runner.num_rows == 2
    answers = finish(runner)
    assert answers.keys() == {0, 2}
    assert all(answers[key].summary == alone(requests[key]).summary for key in answers)


def test_check_leaves_what_decodes_alone(model: LexiMind, source: Source, alone: Alone) -> None:
    runner = Runner(TorchBackend(model), HEADS)
    request = EngineRequest(source(1, 9), math.inf, options=DecodingOptions(max_new_tokens=8))
    runner.join(runner.encode({1: request}))
    runner.step()
    runner.check()
    assert finish(runner)[1].summary == alone(request).summary


def test_reset_forgets_everything(model: LexiMind, source: Source) -> None:
    runner = Runner(TorchBackend(model), HEADS)
    options = DecodingOptions(max_new_tokens=8, num_beams=2)
    runner.join(runner.encode({1: EngineRequest(source(1, 9), math.inf, options=options)}))
    runner.reset()
    assert runner.num_rows == 0
    assert runner.step() == []
