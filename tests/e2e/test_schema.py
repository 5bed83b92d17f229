"""schemathesis against `leximind serve`: every check of it, on every route that `/openapi.json` has."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.depth import FULL, depth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CONFIG = Path(__file__).with_name("schemathesis.toml")


def without_headers(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without the headers of requests, of which tests/app has tests.

    schemathesis wants unknown ones refused, which HTTP has servers ignore, and no 504 for a deadline of a millisecond.
    """
    for path in schema["paths"].values():
        for operation in path.values():
            operation["parameters"] = [one for one in operation.get("parameters", []) if one["in"] != "header"]
    return schema


@pytest.mark.parametrize("has_keys", [False, True], ids=["open", "keys"])
def test_every_answer_is_one_that_the_schema_has_and_none_is_a_server_error(
    serve: Callable[..., Any], checkpoint_folder: Path, tmp_path: Path, has_keys: bool
) -> None:
    keys = ("--api-keys", "work", "--admin-keys", "operator", "--reload-root", str(checkpoint_folder.parent))
    server = serve("--log-level", "warning", *(keys if has_keys else ()))
    schema = without_headers(httpx.get(f"{server.url}/openapi.json").json())
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", "schema.json"]
    command += ["--url", server.url, "--checks", "all", "--no-color"]
    command += ["--max-examples", str(depth(5, 300)), *([] if FULL else ["--seed", "1"])]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    num_routes = sum(map(len, schema["paths"].values()))
    assert f"Tested: {num_routes}\n" in ran.stdout
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "WARNING" not in log
