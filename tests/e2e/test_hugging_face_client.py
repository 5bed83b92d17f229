"""The routes under `/hf` as Hugging Face's own client speaks them, over a real socket."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

pytestmark = pytest.mark.slow

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."


def test_inference_client_gets_what_our_routes_give(serve: Callable[..., Any]) -> None:
    url = serve().url
    summarizer = InferenceClient(model=f"{url}/hf/summarize", timeout=30)
    ours = httpx.post(f"{url}/summarize", json={"text": NEWS}).json()
    assert summarizer.summarization(NEWS).summary_text == ours["summary"]
    short = summarizer.summarization(
        NEWS,
        generate_parameters={"max_new_tokens": 5, "num_beams": 2},
        truncation="longest_first",
        clean_up_tokenization_spaces=True,
    )
    ours = httpx.post(f"{url}/summarize", json={"text": NEWS, "max_new_tokens": 5, "num_beams": 2}).json()
    assert short.summary_text == ours["summary"]

    emotions = InferenceClient(model=f"{url}/hf/emotions", timeout=30).text_classification(NEWS)
    everything = httpx.post(f"{url}/emotions", json={"text": NEWS, "threshold": 0}).json()["emotions"]
    assert [(one.label, one.score) for one in emotions] == [(one["label"], one["score"]) for one in everything]

    topics = InferenceClient(model=f"{url}/hf/topic", timeout=30)
    best = topics.text_classification(NEWS, top_k=2, function_to_apply="softmax")
    scores = httpx.post(f"{url}/topic", json={"text": NEWS}).json()["scores"][:2]
    assert [(one.label, one.score) for one in best] == [(one["label"], one["score"]) for one in scores]

    for path in ("", "/hf/summarize", "/hf/topic"):  # only this provider's clients ask for health and info
        client = InferenceClient(model=url + path, provider="hf-inference")
        assert client.health_check()
        assert client.get_endpoint_info()["model_id"] == "random"


def test_inference_client_sends_its_token_and_shows_our_errors(serve: Callable[..., Any]) -> None:
    url = serve("--api-keys", "secret").url
    allowed = InferenceClient(model=f"{url}/hf/topic", token="secret", timeout=30)
    assert allowed.text_classification(NEWS, top_k=1)
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(model=f"{url}/hf/topic", token="other", timeout=30).text_classification(NEWS)
    with pytest.raises(HfHubHTTPError, match="is blank"):
        allowed.text_classification(" ")
