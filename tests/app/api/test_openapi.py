import re
from typing import Any

import httpx
import pytest

from app.api.schemas import SummaryOptions
from model.decoding.options import DecodingOptions

WORK = ["/summarize", "/emotions", "/topic", "/analyze", "/hf/summarize", "/hf/emotions", "/hf/topic", "/predict"]


@pytest.fixture
async def schema(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("/openapi.json")).json()


@pytest.mark.parametrize("path", WORK)
def test_every_error_of_a_route_is_shown_as_a_problem(schema: dict[str, Any], path: str) -> None:
    responses = schema["paths"][path]["post"]["responses"]
    errors = {"400", "401", "408", "409", "413", "415", "422", "429", "500", "503", "504"}
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


def test_stream_and_keys_are_shown(schema: dict[str, Any]) -> None:
    summarize = schema["paths"]["/summarize"]["post"]
    assert summarize["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
    assert summarize["security"] == [{"HTTPBearer": []}]


def test_options_are_those_of_decoding() -> None:
    options = SummaryOptions()
    assert options.decoding() == DecodingOptions()
    assert set(SummaryOptions.model_fields) - {"on_long"} == set(DecodingOptions.__dataclass_fields__)


async def test_docs_need_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs")).text
    needed = re.findall(r'(?:src|href|url)(?:=|: )["\']([^"\']+)', page)
    assert {"/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/openapi.json"} <= set(needed)
    for path in needed:
        assert path.startswith("/")
        assert (await client.get(path)).status_code == 200
