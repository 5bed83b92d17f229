"""The examples of `/docs` are what the bundled checkpoint answers now, and every route and every error has one."""

import json
from typing import Any

import httpx
import pytest

from app.api.examples import RECORDED
from model.choices import BUNDLED
from support.examples import record
from support.recorded import identity_of
from support.services import Serving

REMEDY = "record the examples again: make answers"
# Of this process or processor, not of the answer; a title is a status in words, which are other ones in other versions
# of Python.
PASSING = {"loaded_at", "seconds", "version", "title", "kernels", "why_no_kernels"}


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Every leaf by its place."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parts = [flat(part, f"{place}/{name}") for name, part in items if name not in PASSING]
        return {name: leaf for part in parts for name, leaf in part.items()}
    return {place: value}


async def test_examples_are_what_is_answered() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert recorded["identity"] == identity_of(BUNDLED), REMEDY
    expected, found = flat(recorded["examples"]), flat(await record())
    assert found.keys() == expected.keys(), REMEDY
    for place, value in found.items():
        if isinstance(value, float):  # rounded, and other processors add in another order
            assert value == pytest.approx(expected[place], abs=2e-4), (place, REMEDY)
        else:
            assert value == expected[place], (place, REMEDY)


@pytest.fixture
async def operations(serving: Serving, tmp_path: Any) -> dict[tuple[str, str], Any]:
    async with serving(api_keys="work", admin_keys="operator", reload_root=tmp_path) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    return {(path, method): of for path, item in paths.items() for method, of in item.items()}


def test_every_answer_and_every_error_has_an_example_of_its_own(operations: dict[tuple[str, str], Any]) -> None:
    for (path, method), operation in operations.items():
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                if path == "/metrics" and status == "200":
                    continue
                assert content.get("examples"), (method, path, status, kind)
                for example in content["examples"].values():
                    if kind == "application/problem+json":
                        assert example["value"]["status"] == int(status), (path, status)
        asked = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if asked is not None:
            answered = operation["responses"]["200"]["content"].values()
            assert asked["examples"].keys() == {name for one in answered for name in one["examples"]}, path


def test_titles_are_written_and_not_made_of_names(operations: dict[tuple[str, str], Any]) -> None:
    titles = [operation["summary"] for operation in operations.values()]
    assert len(set(titles)) == len(titles) - 1  # /health is /health/ready
    for title in titles:
        words = [word for word in title.split()[1:] if word[0].isupper()]
        assert set(words) <= {"Prometheus", "Hugging", "Face's"}, title


async def test_root_leads_to_the_docs_and_says_what_it_is(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert (response.status_code, response.headers["Location"]) == (307, "/docs")
    about = response.json()
    assert "Summaries, emotions and topics" in about["description"]
    assert about["model_terms"] == "not recorded: see its MODEL_CARD.md"
    for link in ("routes", "openapi", "served", "ready"):
        assert (await client.get(about[link])).status_code == 200


async def test_docs_say_the_terms_once_the_checkpoint_is_known(client: httpx.AsyncClient) -> None:
    description = (await client.get("/openapi.json")).json()["info"]["description"]
    assert "Terms of the weights: not recorded: see its MODEL_CARD.md." in description
