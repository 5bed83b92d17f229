"""The examples of the OpenAPI document: requests and what the bundled checkpoint answered to them, recorded.

`make answers` records them again (tests/support/example_requests.py has the requests).
"""

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

from app.api.problems import MEDIA_TYPE

RECORDED = Path(__file__).with_suffix(".json")
_EXAMPLES: list[dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))["examples"]
for _one in _EXAMPLES:
    if _one["type"] == MEDIA_TYPE:  # a status in words, which are other ones in other versions of Python
        _one["answer"]["title"] = HTTPStatus(_one["status"]).phrase


def add_examples(schema: dict[str, Any]) -> None:
    """Give every request and every answer of `schema` its examples, in place.

    One without paths is of every route that has none of its own with this status.
    """
    own = {(path, one["status"]) for one in _EXAMPLES for path in one["paths"]}
    for path, item in schema["paths"].items():
        for operation in item.values():
            for one in _EXAMPLES:
                is_shared = not one["paths"] and (path, one["status"]) not in own
                if path in one["paths"] or is_shared:
                    _add(operation, one)


def _add(operation: dict[str, Any], one: dict[str, Any]) -> None:
    content = operation["responses"].get(str(one["status"]), {}).get("content", {}).get(one["type"])
    if content is None:  # such as 401 where no key is needed
        return
    content.setdefault("examples", {})[one["name"]] = {"summary": one["about"], "value": one["answer"]}
    if one["status"] == 200 and "requestBody" in operation:
        asked = operation["requestBody"]["content"]["application/json"]
        asked.setdefault("examples", {})[one["name"]] = {"summary": one["about"], "value": one["request"]}
