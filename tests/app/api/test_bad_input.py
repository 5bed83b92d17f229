import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

JSON = {"content-type": "application/json"}

# path, body, the field that is named, what its message says
INVALID = [
    ("/summarize", {}, "text", "missing"),
    ("/summarize", {"text": ""}, "text", "is blank (0 characters)"),
    ("/summarize", {"text": " \n\t\u3000"}, "text", "is blank"),
    ("/emotions", {"text": ["fine", " "]}, "text[1]", "is blank"),
    ("/topic", {"text": "\x01\x1b\u200b"}, "text", "control or invisible"),
    ("/topic", {"text": "\x00"}, "text", "control or invisible"),
    ("/topic", {"text": "\u3164\u115f\u2800"}, "text", "control or invisible"),
    ("/topic", {"text": []}, "text", "at least one"),
    ("/topic", {"text": ["a"] * 33}, "text", "has 33 texts, 32 are allowed (max_items)"),
    ("/topic", {"text": ["a", "b" * 200_001]}, "text[1]", "has 200001 characters, 200000 are allowed"),
    ("/topic", {"text": 3}, "text", "3 is not allowed; it must be a text or a list of texts"),
    ("/topic", {"text": None}, "text", "null is not allowed"),
    ("/topic", {"text": {"a": 1}}, "text", "an object is not allowed"),
    ("/topic", {"text": ["a", 3]}, "text[1]", "3 is not allowed; it must be a valid string"),
    ("/topic", {"text": [["a"]]}, "text[0]", "a list is not allowed"),
    ("/topic", {"text": "a", "topk": 3}, "topk", "not known here"),
    ("/topic?top_k=3", {"text": "a"}, "top_k", "not known in the query; options go into the JSON body"),
    ("/topic", {"text": "a", "k" * 3000: 3}, "k" * 40, "not known here"),
    ("/topic", {"text": "a", **dict.fromkeys(map(str, range(64)))}, "body", "has 65 fields, at most 64 are allowed"),
    ("/topic", {"text": "a", "top_k": 0}, "top_k", "0 is not allowed; it must be greater than or equal to 1"),
    ("/topic", {"text": "a", "top_k": "3"}, "top_k", "'3' is not allowed; it must be a valid integer"),
    ("/topic", {"text": "a", "top_k": True}, "top_k", "true is not allowed"),
    ("/topic", {"text": "a", "top_k": 1.5}, "top_k", "1.5 is not allowed"),
    ("/emotions", {"text": "a", "threshold": 1.5}, "threshold", "it must be less than or equal to 1"),
    ("/emotions", {"text": "a", "threshold": -0.1}, "threshold", "-0.1 is not allowed"),
    ("/summarize", {"text": "a", "num_beams": 9}, "num_beams", "9 is not allowed; it must be less than or equal to 8"),
    ("/summarize", {"text": "a", "num_beams": 0}, "num_beams", "0 is not allowed"),
    ("/summarize", {"text": "a", "max_new_tokens": 0}, "max_new_tokens", "0 is not allowed"),
    ("/summarize", {"text": "a", "max_new_tokens": 513}, "max_new_tokens", "513 is not allowed; it must be at most 5"),
    ("/summarize", {"text": "a", "max_new_tokens": 5, "min_new_tokens": 6}, "min_new_tokens", "6 is not allowed"),
    ("/summarize", {"text": "a", "do_sample": True, "num_beams": 2}, "do_sample", "sampling takes num_beams 1"),
    ("/summarize", {"text": "a", "temperature": 0}, "temperature", "0 is not allowed; it must be greater than or eq"),
    ("/summarize", {"text": "a", "temperature": 1e300}, "temperature", "1e+300 is not allowed; it must be less than o"),
    ("/summarize", {"text": "a", "temperature": 1e-320}, "temperature", "it must be greater than or equal to 0.01"),
    ("/summarize", {"text": "a", "repetition_penalty": 1e300}, "repetition_penalty", "1e+300 is not allowed"),
    ("/summarize", {"text": "a", "length_penalty": -1e308}, "length_penalty", "must be greater than or equal to -10"),
    ("/summarize", {"text": "a", "top_p": 0}, "top_p", "0 is not allowed"),
    ("/summarize", {"text": "a", "top_p": 1.1}, "top_p", "1.1 is not allowed"),
    ("/summarize", {"text": "a", "top_k": -1}, "top_k", "-1 is not allowed"),
    ("/summarize", {"text": "a", "seed": 2**63}, "seed", "is not allowed; it must be less than"),
    ("/summarize", {"text": "a", "repetition_penalty": 0}, "repetition_penalty", "0 is not allowed"),
    ("/summarize", {"text": "a", "early_stopping": "x"}, "early_stopping", "'x' is not allowed; it must be 'never'"),
    ("/summarize", {"text": "a", "early_stopping": 1}, "early_stopping", "1 is not allowed"),
    ("/summarize", {"text": "a", "on_long": "cut"}, "on_long", "'chunk', 'reduce', 'truncate' or 'error'"),
    ("/summarize", {"text": "a", "on_long": "reduce", "target_tokens": 0}, "target_tokens", "0 is not allowed"),
    ("/summarize", {"text": ["a"], "stream": True}, "stream", "one text at a time"),
    ("/summarize", {"text": "a", "stream": True, "num_beams": 2}, "stream", "num_beams 2"),
    ("/summarize", {"text": "a", "stream": "yes"}, "stream", "must be a valid boolean"),
    ("/summarize", [1], "body", "must be a JSON object"),
    ("/summarize", "text", "body", "must be a JSON object"),
    ("/analyze", {"text": "a", "tasks": ["sentiment"]}, "tasks[0]", "'summarize', 'emotions' or 'topic'"),
    ("/analyze", {"text": "a", "tasks": []}, "tasks", "at least 1"),
    ("/analyze", {"text": "a", "tasks": ["topic"] * 4}, "tasks", "at most 3"),
    ("/analyze", {"text": "a", "summary": {"max_new_tokens": 513}}, "summary.max_new_tokens", "at most 512"),
    ("/analyze", {"text": "a", "summary": {"beams": 2}}, "summary.beams", "not known here"),
    ("/analyze", {"text": "a", "summary": {"num_beams": 2, "do_sample": True}}, "summary.do_sample", "num_beams 1"),
    ("/hf/summarize", {"inputs": " "}, "inputs", "is blank"),
    ("/hf/summarize", {"inputs": "a", "parameters": {"generate_parameters": {"x": 1}}},
     "parameters.generate_parameters.x", "not known here"),
    ("/hf/summarize", {"inputs": "a", "parameters": {"generate_parameters": {"max_new_tokens": 513}}},
     "parameters.generate_parameters.max_new_tokens", "at most 512"),
    ("/hf/summarize", {"inputs": "a", "parameters": {"truncation": "only_second"}}, "parameters.truncation", "first"),
    ("/hf/topic", {"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}},
     "parameters.function_to_apply", "send 'softmax'"),
    ("/hf/emotions", {"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k", "0 is not allowed"),
    ("/predict", {"inputs": ["a", "b"]}, "inputs", "has 2 strings, 1 is allowed"),
    ("/predict", {"inputs": [["a"], ["b", "c"]]}, "inputs[1]", "has 2 strings, 1 is allowed"),
    ("/predict", {"inputs": [["a"], [" "]]}, "inputs[1]", "is blank"),
    ("/predict", {"inputs": []}, "inputs", "has 0 strings"),
    ("/predict", {"inputs": "a", "raw_scores": True}, "raw_scores", "true is not allowed"),
    ("/predict", {"inputs": "a", "raw_scores": 0}, "raw_scores", "0 is not allowed"),
    ("/predict", {"inputs": "a", "truncation_direction": "Left"}, "truncation_direction", "it must be 'Right'"),
    ("/predict?tsk=topic", {"inputs": "a"}, "tsk", "not known in the query"),
    ("/predict?task=summarize", {"inputs": "a"}, "task", "'emotions' or 'topic'"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "field", "message"), INVALID)
async def test_invalid_field_is_named_with_value_and_limit(
    client: httpx.AsyncClient, path: str, body: Any, field: str, message: str
) -> None:
    response = await client.post(path, json=body)
    problem = response.json()
    assert response.status_code == 422, problem
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["error_type"], problem["error"]) == (422, "validation", problem["detail"])
    [error] = problem["errors"]
    assert error["field"] == field
    assert message in error["message"]


async def test_every_wrong_field_is_named(client: httpx.AsyncClient) -> None:
    response = await client.post("/summarize", json={"text": 1, "num_beams": 99, "beams": 2})
    assert {error["field"] for error in response.json()["errors"]} == {"text", "num_beams", "beams"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/topic", {"text": [1] * 100_000}),
        ("/topic", {"text": "a", **dict.fromkeys(map(str, range(100_000)))}),
        ("/analyze", {"text": "a", "tasks": [1] * 100_000}),
        ("/hf/topic", {"inputs": [1] * 100_000}),
        ("/predict", {"inputs": [["a"]] + [1] * 100_000}),
    ],
)
async def test_hundred_thousand_mistakes_get_a_short_answer(client: httpx.AsyncClient, path: str, body: Any) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 422
    assert len(response.content) < 5000


async def test_fields_after_the_first_twenty_are_counted(client: httpx.AsyncClient) -> None:
    response = await client.post("/topic", json={"text": "a", **dict.fromkeys(map(str, range(50)))})
    assert len(response.json()["errors"]) == 21
    assert response.json()["errors"][-1] == {"field": "body", "message": "has 30 further errors; mend these first"}


@pytest.mark.parametrize("options", [{"do_sample": True}, {"num_beams": 3}, {}])
@pytest.mark.parametrize(
    "extreme",
    [{"temperature": 0.01, "repetition_penalty": 0.01}, {"temperature": 100, "repetition_penalty": 100, "top_p": 1e-99},
     {"length_penalty": 10, "no_repeat_ngram_size": 16}, {"length_penalty": -10, "top_k": 10**30}],
)  # fmt: skip
async def test_extremes_that_are_allowed_are_answered(
    client: httpx.AsyncClient, options: dict[str, Any], extreme: dict[str, Any]
) -> None:
    """What failed in one document's arithmetic would fail all that decode with it."""
    response = await client.post("/summarize", json={"text": "a bridge", "max_new_tokens": 8, **options, **extreme})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b'{"text": "a\nb"}', "not JSON: Invalid control character at line 1, column 12"),
        (b"hello", "not JSON: Expecting value at line 1, column 1"),
        (b'{"text": "a"', "not JSON: Expecting"),
        (b'{"text": "\xff"}', "byte 10 of the body is not UTF-8"),
        (b'{"text": "a", "temperature": NaN}', "NaN is no JSON number"),
        (b'{"text": "a", "temperature": -Infinity}', "-Infinity is no JSON number"),
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the JSON has 100001 lists and objects"),
        (b'{"text": "[a\\"[\\\\", "x": [' + b"[]," * 10_000 + b"[]]}", "10003 lists and objects, 10000 are allowed"),
        (b'{"text": "a", "seed": ' + b"1" * 5000 + b"}", "integer string conversion"),
    ],
)
async def test_what_is_not_json_is_400(client: httpx.AsyncClient, body: bytes, message: str) -> None:
    response = await client.post("/summarize", content=body, headers=JSON)
    assert response.status_code == 400
    assert message in response.json()["detail"]


async def test_number_beyond_floats_is_422(client: httpx.AsyncClient) -> None:
    response = await client.post("/summarize", content=b'{"text": "a", "temperature": 1e999}', headers=JSON)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "temperature"


@pytest.mark.parametrize("text", ["lone \ud800 here", "\udc00", "a" * 50 + "\ud83d"])
async def test_lone_surrogate_is_422(client: httpx.AsyncClient, text: str) -> None:
    response = await client.post("/summarize", content=json.dumps({"text": ["a", text]}), headers=JSON)
    assert response.status_code == 422
    [error] = response.json()["errors"]
    assert error["field"] == "text[1]"
    assert "surrogate" in error["message"]
    paired = await client.post("/topic", content=b'{"text": "fine \\ud83d\\ude00"}', headers=JSON)
    assert paired.status_code == 200


async def test_control_characters_among_words_are_text(client: httpx.AsyncClient) -> None:
    response = await client.post("/topic", json={"text": "a\x00b \x1b[31mred\x07 \u202e words\r\n"})
    assert response.status_code == 200


@pytest.mark.parametrize("field", ["target_tokens", "detail"])
async def test_null_is_as_if_left_out(client: httpx.AsyncClient, field: str) -> None:
    assert (await client.post("/summarize", json={"text": "a bridge", field: None})).status_code == 200


async def test_duplicate_keys_take_the_last(client: httpx.AsyncClient) -> None:
    response = await client.post("/topic", content=b'{"text": 1, "text": "a"}', headers=JSON)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/a/b+json", ""]
)
async def test_other_content_type_is_415_with_the_remedy(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post("/topic", content=b'{"text": "a"}', headers={"content-type": content_type})
    assert response.status_code == 415
    assert "send Content-Type: application/json" in response.json()["detail"]


async def test_deep_nesting_is_refused_by_the_parser_or_the_schema(client: httpx.AsyncClient) -> None:
    body = b'{"text": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"  # newer interpreters read that
    response = await client.post("/topic", content=body, headers=JSON)
    assert response.status_code in (400, 422)


async def test_brackets_in_a_text_are_text(client: httpx.AsyncClient) -> None:
    text = '[a] {b} "[" \\ ' * 2_000
    assert (await client.post("/topic", json={"text": text})).status_code == 200


async def test_compressed_body_is_415_with_the_remedy(client: httpx.AsyncClient) -> None:
    body = gzip.compress(b'{"text": "a"}')
    response = await client.post("/topic", content=body, headers={**JSON, "Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert "Content-Encoding is gzip; send the body as it is" in response.json()["detail"]
    plain = await client.post("/topic", content=b'{"text": "a"}', headers={**JSON, "Content-Encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"])
async def test_spellings_of_the_content_type_are_taken(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post("/topic", content=b'{"text": "a"}', headers={"content-type": content_type})
    assert response.status_code == 200


async def test_announced_body_over_the_limit_is_413(client: httpx.AsyncClient) -> None:
    response = await client.post("/topic", json={"text": "a" * 10_000_000})
    assert response.status_code == 413
    assert "2097152 are allowed (max_body_bytes)" in response.json()["detail"]


async def test_streamed_body_over_the_limit_is_413(serving: Serving) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"text": "'
        for _ in range(100):
            yield b"a" * 1000

    async with serving(max_body_bytes=50_000) as client:
        response = await client.post("/topic", content=body(), headers=JSON)
        assert response.status_code == 413
        assert "more than 50000" in response.json()["detail"]


async def test_hundred_thousand_words_are_refused_with_value_and_limit(client: httpx.AsyncClient) -> None:
    response = await client.post("/topic", json={"text": "word " * 100_000})
    assert response.status_code == 422
    assert "has 500000 characters, 200000 are allowed (max_text_chars)" in response.json()["detail"]


async def test_hundred_thousand_words_are_read_in_chunks_where_they_are_allowed(serving: Serving) -> None:
    room = {"max_queued_requests": 100_000, "max_queued_tokens": 10_000_000}
    async with serving(max_text_chars=1_000_000, max_batch_tokens=65_536, **room) as client:
        response = await client.post("/topic", json={"text": " ".join(map(str, range(100_000)))})
        assert response.status_code == 200, response.text


async def test_cost_over_all_chunks_and_texts_is_limited(serving: Serving) -> None:
    async with serving(max_cost=1000) as client:
        fits = {"text": ["a"] * 10, "max_new_tokens": 50, "num_beams": 2}
        assert (await client.post("/summarize", json=fits)).status_code == 200
        response = await client.post("/summarize", json={**fits, "max_new_tokens": 51})
        assert response.status_code == 422
        assert "is 1020, 1000 are allowed (max_cost)" in response.json()["detail"]
        long = {"text": "words. " * 1000, "max_new_tokens": 50}
        assert (await client.post("/summarize", json=long)).status_code == 422
        assert (await client.post("/summarize", json={**long, "on_long": "truncate"})).status_code == 200


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["a"] * 9, "is 9 texts or chunks of texts in all, 8 are allowed (half of max_queued_requests)"),
        (["word " * 9] * 8, " tokens in all, 80 are allowed (half of max_queued_tokens)"),
    ],
)
async def test_one_request_takes_half_of_the_queue_at_most(serving: Serving, texts: list[str], reason: str) -> None:
    async with serving(max_queued_requests=16, max_queued_tokens=160) as client:
        response = await client.post("/emotions", json={"text": texts})
        assert response.status_code == 422
        assert reason in response.json()["detail"]
        assert (await client.post("/emotions", json={"text": ["a"] * 8})).status_code == 200


async def test_lower_limit_of_new_tokens_holds_where_none_are_asked(serving: Serving) -> None:
    async with serving(max_new_tokens=4) as client:
        for path in ("/topic", "/emotions", "/predict", "/hf/summarize"):
            body = {"inputs": "a"} if path in ("/predict", "/hf/summarize") else {"text": "a"}
            assert (await client.post(path, json=body)).status_code == 200, path
        summary = (await client.post("/summarize", json={"text": "a bridge"})).json()
        assert summary["output_tokens"] <= 4
        analysis = (await client.post("/analyze", json={"text": "a bridge"})).json()
        assert analysis["summary"] == summary
        refused = await client.post("/summarize", json={"text": "a", "max_new_tokens": 5})
        assert "5 is not allowed; it must be at most 4" in refused.json()["detail"]
        refused = await client.post("/summarize", json={"text": "a", "min_new_tokens": 5})
        assert "min_new_tokens: 5 is not allowed" in refused.json()["detail"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "abc", "", "²", " "])
async def test_timeout_header_must_be_a_whole_number(client: httpx.AsyncClient, value: str) -> None:
    headers = {"X-Request-Timeout-Ms": value.encode("latin-1")}
    response = await client.post("/topic", json={"text": "a"}, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "X-Request-Timeout-Ms"


async def test_no_error_repeats_a_text(client: httpx.AsyncClient) -> None:
    secret = "the patient said that nobody must know about this at all"
    for body in ({"text": secret, "x": 1}, {"text": {"inner": secret}}, {"text": "a", "on_long": secret}, secret):
        response = await client.post("/summarize", json=body)
        assert response.status_code == 422
        assert "patient" not in response.text


async def test_service_answers_after_all_that(client: httpx.AsyncClient) -> None:
    for path, body, _, _ in INVALID:
        await client.post(path, json=body)
    assert (await client.post("/topic", json={"text": "a"})).status_code == 200


async def test_body_for_operators_that_is_not_json_is_refused_as_any_other(serving: Serving, tmp_path: Path) -> None:
    async with serving(admin_keys="operator", reload_root=tmp_path) as client:
        response = await client.post("/admin/reload", content=b'{"checkpoint"', headers={"X-API-Key": "operator"})
    assert response.status_code == 400
    assert response.json()["detail"].startswith("not JSON: ")
