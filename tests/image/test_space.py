"""A Space is built from what `make space` writes, and serves the page to the hub, which runs it as user 1000."""

import contextlib
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from support.containers import Spec, running
from support.depth import FULL
from support.images import REPOSITORY, Builder


@pytest.mark.skipif(not FULL, reason="installs what the page needs, in minutes: make image-test with PROOF=full")
@pytest.mark.timeout(3600)
def test_a_space_answers_on_its_page(build: Builder, tmp_path: Path) -> None:
    subprocess.run(["make", "space", f"SPACE={tmp_path / 'space'}"], cwd=REPOSITORY, check=True)
    build.build(tmp_path / "space", "space")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    with build.mounted("space") as root:
        page = Spec.of(build.config("space"), root, "demo", "--port", port)
        with running(replace(page, user=1000, group=1000), tmp_path / "container") as container:
            give_up = time.monotonic() + 120
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = httpx.get(f"http://127.0.0.1:{port}/config", trust_env=False)
                    break
                assert container.process.poll() is None, container.log.read_text()
                assert time.monotonic() < give_up, container.log.read_text()
                time.sleep(0.5)
            assert answer.status_code == 200
            assert "LexiMind" in answer.text
            health = container.execute("python3", "-I", "/opt/leximind/healthcheck.py")
            assert health.returncode == 0, health.stderr
