"""Texts, options and JSON of every kind, made by hypothesis, against `leximind serve`.

What must be answered is answered, what must be refused says why, and nothing is a server error or a dropped connection.
"""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.depth import examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

JSON = {"content-type": "application/json"}
MAX_CHARS = 1_000_000
NEW_TOKENS = 24
WORK = ("/summarize", "/emotions", "/topic", "/analyze", "/classify/topic", "/hf/summarize", "/hf/topic", "/predict")
REFUSALS = {400, 409, 413, 422, 429}


@pytest.fixture(scope="module")
def client(serve_shared: Callable[..., Any]) -> Any:
    """Asks a server that takes a million characters, and more of them than half of its queue may hold."""
    limits = ("--max-text-chars", str(MAX_CHARS), "--max-body-bytes", "8000000", "--max-new-tokens", str(NEW_TOKENS))
    queue = ("--max-queued-tokens", "4000000", "--max-queued-requests", "100000", "--max-cost", "10000000")
    server = serve_shared(*limits, *queue, "--log-level", "warning")
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
    assert server.log.read_text() == ""  # neither a traceback nor a warning


def ask(client: httpx.Client, path: str, body: Any) -> httpx.Response:
    """`body` as JSON in ASCII, in which a lone surrogate can be sent; the answer keeps to the contract."""
    response = client.post(path, content=json.dumps(body).encode(), headers=JSON)
    if response.status_code != 200:
        assert response.status_code in REFUSALS, response.text
        problem = response.json()
        assert response.headers["content-type"] == "application/problem+json"
        assert (problem["status"], problem["error"]) == (response.status_code, problem["detail"])
        assert problem["detail"]
    return response


def has_words(text: str) -> bool:
    """Whether it must be answered: a letter or digit of ASCII is never dropped, and there is no lone surrogate."""
    return any(one.isascii() and one.isalnum() for one in text) and not any(0xD800 <= ord(one) < 0xE000 for one in text)


def letters_of(*ranges: tuple[int, int]) -> st.SearchStrategy[str]:
    return st.one_of(*(st.characters(min_codepoint=first, max_codepoint=last) for first, last in ranges))


CHARACTERS = st.one_of(
    st.characters(codec="utf-8"),
    letters_of((0x10000, 0x1FFFF), (0x20000, 0x3FFFF), (0xE0000, 0x10FFFF)),  # the planes above the first
    st.characters(categories=["Cs"]),  # surrogates
    letters_of((0x00, 0x1F), (0x7F, 0x9F)),  # NUL and other controls
    letters_of((0x0590, 0x08FF), (0x202A, 0x202E), (0x2066, 0x2069)),  # right to left, and what overrides it
    letters_of((0x0300, 0x036F), (0xFE00, 0xFE0F), (0x200B, 0x200F)),  # combining, variation selectors, no width
    st.sampled_from("▁ \t\r\n\u2028\u3000#:.!?\ufdfa\ufffd\ufeff"),
)
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=200),
    st.text(st.sampled_from("abc XYZ.,19\n"), min_size=1, max_size=400),
    st.sampled_from(["a", "</s>", "<pad>", "<unk>", "<0x00>", "<extra_id_0>", "summarize: ", "▁", "\x00", "\ud800"]),
)


@st.composite
def huge_texts(draw: st.DrawFn) -> str:
    """Up to the most characters that may be, of one character or of words; one more at times."""
    part = draw(st.sampled_from(["a", "word ", "A sentence. ", "\n", "é", "\U0001f600", "\u202ba\u202c", "\x00a"]))
    length = draw(st.sampled_from([1_000, 50_000, MAX_CHARS - 1, MAX_CHARS, MAX_CHARS + 1]))
    return (part * (length // len(part) + 1))[:length]


@st.composite
def decoding_options(draw: st.DrawFn) -> dict[str, Any]:
    """Any that are allowed together."""
    longest = draw(st.integers(1, NEW_TOKENS))
    options = {
        "min_new_tokens": st.integers(0, longest),
        "length_penalty": st.floats(-10, 10),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "no_repeat_ngram_size": st.integers(0, 16),
        "repetition_penalty": st.floats(0.01, 100),
        "temperature": st.floats(0.01, 100),
        "top_k": st.integers(0, 2**31),
        "top_p": st.floats(0, 1, exclude_min=True),
        "seed": st.integers(0, 2**63 - 1),
        "on_long": st.sampled_from(["chunk", "truncate"]),
    }
    chosen: dict[str, Any] = draw(st.fixed_dictionaries({"max_new_tokens": st.just(longest)}, optional=options))
    one = draw(st.sampled_from(["greedy", "beams", "sampling"]))
    return chosen | ({"num_beams": draw(st.integers(2, 8))} if one == "beams" else {"do_sample": one == "sampling"})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(CHARACTERS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "text inputs parameters tasks summary stream top_k threshold max_new_tokens num_beams do_sample temperature "
    "early_stopping on_long truncate raw_scores seed generate_parameters function_to_apply"
).split()


@examples(120, 5_000)
@given(text=TEXTS, others=st.lists(TEXTS, max_size=3), path=st.sampled_from(WORK))
def test_any_text_is_answered_or_refused_by_its_field(
    client: httpx.Client, text: str, others: list[str], path: str
) -> None:
    name = "inputs" if path.startswith(("/hf", "/predict")) else "text"
    value: Any = [text, *others] if others else text
    if path == "/predict" and others:
        value = [[one] for one in value]
    response = ask(client, path, {name: value})
    if all(map(has_words, [text, *others])):
        assert response.status_code == 200, response.text
    if response.status_code == 200:
        answers = response.json()
        assert len(answers) == len(others) + 1 if others else isinstance(answers, dict | list)
    else:
        assert response.status_code == 422
        assert {error["field"].partition("[")[0] for error in response.json()["errors"]} == {name}


@examples(60, 3_000)
@given(options=decoding_options(), text=TEXTS.filter(has_words))
def test_options_that_are_allowed_together_are_answered(
    client: httpx.Client, options: dict[str, Any], text: str
) -> None:
    response = ask(client, "/summarize", {"text": text, **options})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert options.get("min_new_tokens", 0) <= answer["output_tokens"]
    assert answer["output_tokens"] <= options["max_new_tokens"] * answer["chunks"]
    again = ask(client, "/analyze", {"text": text, "summary": options, "tasks": ["summarize"]})
    assert again.json()["summary"] == answer
    if "num_beams" not in options:
        stream = ask(client, "/summarize", {"text": text, **options, "stream": True})
        assert json.loads(stream.text.strip().rpartition("data: ")[2]) == answer


@examples(200, 10_000)
@given(path=st.sampled_from(WORK), body=ANYTHING | st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=5))
def test_any_json_is_answered_or_refused(client: httpx.Client, path: str, body: Any) -> None:
    ask(client, path, body)


@examples(100, 5_000)
@given(path=st.sampled_from(WORK), body=st.binary(max_size=200), prefix=st.sampled_from([b"", b'{"text": ', b'[{"a":']))
def test_any_bytes_are_refused_or_answered(client: httpx.Client, path: str, body: bytes, prefix: bytes) -> None:
    response = client.post(path, content=prefix + body, headers=JSON)
    assert response.status_code in {200, *REFUSALS}, response.text


@settings(examples(6, 60), suppress_health_check=[HealthCheck.large_base_example, HealthCheck.data_too_large])
@given(text=huge_texts(), path=st.sampled_from(["/topic", "/summarize"]))
def test_up_to_the_most_characters_are_read(client: httpx.Client, text: str, path: str) -> None:
    response = ask(client, path, {"text": text, **({"on_long": "truncate"} if path == "/summarize" else {})})
    if len(text) > MAX_CHARS:
        assert f"has {len(text)} characters, {MAX_CHARS} are allowed" in response.json()["detail"]
    elif has_words(text):
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("text", ["a", ".", "5", "é", "Ж", "東", "🙂", "\ufdfa", "</s>", "<pad>", "▁a"])
def test_one_token_is_text(client: httpx.Client, text: str) -> None:
    for path in ("/topic", "/emotions", "/summarize"):
        assert ask(client, path, {"text": text}).status_code == 200
