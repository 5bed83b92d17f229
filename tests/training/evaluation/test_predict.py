"""Texts through a model: in the order they were given, each as if alone, with its task's prompt and limit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from model.storage.checkpoint import LoadedCheckpoint
from training.evaluation import predict
from training.evaluation.predict import Predictor

TEXTS = ["The council votes.", "Shares of the chip maker rose twelve percent. " * 3, "Rain.", "They won the final."]
OPTIONS = DecodingOptions(max_new_tokens=6)


@pytest.fixture
def predictor(checkpoint: LoadedCheckpoint) -> Predictor:
    return Predictor(TorchBackend(checkpoint.model), checkpoint.tokenizer, checkpoint.tasks)


@pytest.fixture(params=[8192, 40, 1], ids=["one_batch", "some", "each_alone"])
def batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens a batch may have."""
    monkeypatch.setattr(predict, "_TOKENS_A_BATCH", request.param)


@pytest.mark.usefixtures("batches")
def test_logits_are_those_of_each_text_alone(predictor: Predictor, checkpoint: LoadedCheckpoint) -> None:
    found = predictor.classify("topic", TEXTS)
    assert found.shape == (4, 4)
    for text, row in zip(TEXTS, found, strict=True):
        ids = torch.tensor([checkpoint.tokenizer.encode_source(text, checkpoint.tasks.prompts["topic"], 64)])
        states = checkpoint.model.encode(ids, ids != 0)
        expected = checkpoint.model.classify(states, ids != 0, ["topic"])["topic"][0].detach().numpy()
        np.testing.assert_allclose(row, expected, atol=1e-5)  # float32 in another order of summation


@pytest.mark.usefixtures("batches")
def test_mean_states_are_what_a_head_reads(predictor: Predictor, checkpoint: LoadedCheckpoint) -> None:
    states = predictor.mean_states("topic", TEXTS)
    linear = checkpoint.model.heads["topic"].linear
    np.testing.assert_allclose(linear(states).detach().numpy(), predictor.classify("topic", TEXTS), atol=1e-5)


@pytest.mark.usefixtures("batches")
def test_summaries_come_in_order(predictor: Predictor, checkpoint: LoadedCheckpoint) -> None:
    found = predictor.summarize(TEXTS, OPTIONS)
    for text, summary in zip(TEXTS, found, strict=True):
        ids = torch.tensor([checkpoint.tokenizer.encode_source(text, checkpoint.tasks.prompts["summarize"], 64)])
        backend = TorchBackend(checkpoint.model)
        [alone] = decode(backend, backend.encode(ids, ids != 0), ids != 0, [OPTIONS])
        assert summary == checkpoint.tokenizer.decode(alone.token_ids)


def test_a_prompt_is_put_before_every_text(predictor: Predictor) -> None:
    [head] = [head for head in predictor.tasks.heads if head.name == "topic"]
    prompted = replace(predictor, tasks=replace(predictor.tasks, heads=(replace(head, prompt="topic: "),)))
    found = prompted.classify("topic", TEXTS)
    plain = replace(predictor, tasks=replace(predictor.tasks, heads=(replace(head, prompt=""),)))
    expected = plain.classify("topic", [f"topic: {text}" for text in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_text_is_cut_to_the_limit(predictor: Predictor) -> None:
    short = replace(predictor, tasks=replace(predictor.tasks, max_source_tokens=8))
    one, other = (f"They won the final. {rest}" * 2 for rest in ("It rained.", "Shares fell in the winter."))
    start = "They won the final by two goals " * 4
    found = short.classify("topic", [start + one, start + other])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    longer = predictor.classify("topic", [one, other])
    assert not np.allclose(longer[0], longer[1], atol=1e-6)
