"""A real Prometheus with the committed configuration scrapes a real service, with an admin key and without."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
]

CONFIG = Path(__file__).parents[2] / "deploy/prometheus/prometheus.yml"
_WITHIN_S = 60.0


@contextmanager
def prometheus(folder: Path, target: str, key: str) -> Iterator[str]:
    """The URL of one that scrapes `target` every second and sends `key`."""
    (folder / "metrics-key").write_text(key)
    config = CONFIG.read_text(encoding="utf-8").replace("10s", "1s").replace("scrape_timeout: 5s", "scrape_timeout: 1s")
    config = config.replace("/etc/prometheus/metrics-key", str(folder / "metrics-key"))
    (folder / "prometheus.yml").write_text(config.replace("leximind:8000", target))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", *flags, f"--web.listen-address={address}"], stdout=log, stderr=log, cwd=folder
        )
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(20)


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
    serve: Callable[..., Any], tmp_path: Path, flags: tuple[str, ...], key: str
) -> None:
    server = serve(*flags)
    with prometheus(tmp_path, server.url.removeprefix("http://"), key) as url:
        assert health(url)["health"] == "up", health(url)
        query = urllib.parse.quote("leximind_build_info")
        (series,) = httpx.get(f"{url}/api/v1/query?query={query}").json()["data"]["result"]
        assert series["metric"]["job"] == "leximind", json.dumps(series)


def test_without_the_key_the_scrape_is_refused(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve("--admin-keys", "operator")
    with prometheus(tmp_path, server.url.removeprefix("http://"), "") as url:
        assert "401" in health(url)["lastError"]
