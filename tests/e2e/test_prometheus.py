"""A real Prometheus with the committed configuration scrapes a real service, with an admin key and without."""

import json
import shutil
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
]

_WITHIN_S = 60.0


def health(url: str) -> dict[str, Any]:
    """The state of the one target, once it was scraped."""
    give_up = time.monotonic() + _WITHIN_S
    while True:
        try:
            (target,) = httpx.get(f"{url}/api/v1/targets").json()["data"]["activeTargets"]
        except (httpx.TransportError, ValueError):  # it is starting
            target = {"health": "unknown"}
        if target["health"] != "unknown":
            return dict(target)
        assert time.monotonic() < give_up
        time.sleep(0.1)


@pytest.mark.parametrize(("flags", "key"), [((), ""), (("--admin-keys", "operator"), "operator")])
def test_committed_configuration_scrapes_the_service(
    serve: Callable[..., Any], prometheus: Callable[..., str], flags: tuple[str, ...], key: str
) -> None:
    server = serve(*flags)
    url = prometheus(server.port, key)
    assert health(url)["health"] == "up", health(url)
    query = urllib.parse.quote("leximind_build_info")
    (series,) = httpx.get(f"{url}/api/v1/query?query={query}").json()["data"]["result"]
    assert series["metric"]["job"] == "leximind", json.dumps(series)


def test_without_the_key_the_scrape_is_refused(serve: Callable[..., Any], prometheus: Callable[..., str]) -> None:
    server = serve("--admin-keys", "operator")
    assert "401" in health(prometheus(server.port))["lastError"]
