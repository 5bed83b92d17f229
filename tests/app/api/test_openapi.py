import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from app.api.schemas import SummaryOptions
from model.inference.decoding.options import DecodingOptions

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
WORK = ["/summarize", "/emotions", "/topic", "/analyze", "/hf/summarize", "/hf/emotions", "/hf/topic", "/predict"]


@pytest.fixture
async def schema(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/openapi.json")).json()


@pytest.fixture
async def schema_with_keys(serving: Serving) -> dict[str, Any]:
    async with serving(api_keys="work", admin_keys="operator") as client:
        return (await client.get("/openapi.json")).json()


@pytest.mark.parametrize("path", WORK)
def test_every_error_of_a_route_is_shown_as_a_problem(
    schema: dict[str, Any], schema_with_keys: dict[str, Any], path: str
) -> None:
    errors = {"400", "408", "409", "413", "415", "422", "429", "500", "503", "504", "507"}
    if path.endswith("/summarize"):
        errors.remove("409")  # every checkpoint can
    assert schema["paths"][path]["post"]["responses"].keys() == {"200", *errors}
    responses = schema_with_keys["paths"][path]["post"]["responses"]
    errors.add("401")
    assert responses.keys() == {"200", *errors}
    for status in errors:
        assert responses[status]["content"].keys() == {"application/problem+json"}
        assert responses[status]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/ProblemSchema")


async def test_examples_are_requests_that_are_answered(client: httpx.AsyncClient, schema: dict[str, Any]) -> None:
    for path in WORK:
        reference = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        examples = schema["components"]["schemas"][reference.rpartition("/")[2]]["examples"]
        assert examples, path
        for example in examples:
            assert (await client.post(path, json=example)).status_code == 200, path


def test_stream_is_shown(schema: dict[str, Any]) -> None:
    summarize = schema["paths"]["/summarize"]["post"]
    assert summarize["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}


def test_a_key_is_shown_only_where_one_is_needed(schema: dict[str, Any], schema_with_keys: dict[str, Any]) -> None:
    assert "securitySchemes" not in schema["components"]
    assert not any("security" in one for path in schema["paths"].values() for one in path.values())
    for path in (*WORK, "/info", "/metrics"):
        (operation,) = schema_with_keys["paths"][path].values()
        assert operation["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}], path
    assert "security" not in schema_with_keys["paths"]["/health"]["get"]


async def test_admin_keys_alone_show_a_key_for_metrics_alone(serving: Serving) -> None:
    async with serving(admin_keys="operator") as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert [path for path, item in paths.items() if any("security" in one for one in item.values())] == ["/metrics"]


def test_a_list_of_texts_is_shown_to_need_one(schema: dict[str, Any]) -> None:
    for name in ("SummarizeBody", "EmotionsBody", "TopicBody", "AnalyzeBody"):
        _, several = schema["components"]["schemas"][name]["properties"]["text"]["oneOf"]
        assert several["minItems"] == 1, name


def test_options_are_those_of_decoding() -> None:
    options = SummaryOptions()
    assert options.decoding == DecodingOptions()
    assert set(SummaryOptions.model_fields) - {"on_long", "target_tokens", "support"} == set(
        DecodingOptions.__dataclass_fields__
    )


async def test_docs_need_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    needed = re.findall(r'(?:src|href|url)(?:=|: )["\']([^"\']+)', page)
    assert {"/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/openapi.json"} <= set(needed)
    for path in needed:
        assert path.startswith("/")
        assert (await client.get(path)).status_code == 200
