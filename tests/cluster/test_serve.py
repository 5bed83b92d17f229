"""deploy/ray on a real Ray: of two replicas on CPUs one is killed, and the autoscaler ends one and starts one."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.waiting import until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"
CONFIG = yaml.safe_load((FOLDER / "serve.yaml").read_text(encoding="utf-8"))
# `serve run` for each configuration that comes, on a Ray of its own that ends with it; app/pool.py has why it may take
# more than one attempt.
PROGRAM = """
import sys, ray
from ray.serve.scripts import cli
for _ in range(3):
    try:
        ray.init("local", namespace="serve", include_dashboard=False, num_cpus=2, object_store_memory=80 * 2**20)
        break
    except Exception as error:
        print(error, file=sys.stderr)
        ray.shutdown()
for line in sys.stdin:
    cli(["run", "--non-blocking", line.strip()], standalone_mode=False)
"""
_SILENT_S = 180
WORD = "Shares of the chip maker rose twelve percent after it reported record profits. "


@dataclass(frozen=True)
class Cluster:
    """A Ray that serves; `replicas` are the processes of replicas that are there."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    config: dict[str, Any]

    def scale(self, least: int, most: int) -> None:
        """Between so many replicas, at once."""
        scaling = self.config["applications"][0]["deployments"][0]["autoscaling_config"]
        scaling |= {"min_replicas": least, "max_replicas": most}
        scaling |= {"upscale_delay_s": 0, "downscale_delay_s": 1, "look_back_period_s": 2}
        path = self.log.with_name(f"{least}-{most}.yaml")
        path.write_text(yaml.safe_dump(self.config))
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()

    @property
    def replicas(self) -> list[int]:
        """Process ids."""
        return [pid for pid in descendants(self.process.pid) if b"ServeReplica" in command_of(pid)]

    def wait(self, is_so: Callable[["Cluster"], bool]) -> None:
        """Until it is so; no longer than Ray, which tells every half minute what it waits for, has been silent."""
        size, give_up = -1, 0.0
        while not is_so(self):
            if self.log.stat().st_size != size:
                size, give_up = self.log.stat().st_size, time.monotonic() + _SILENT_S
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.2)

    @property
    def num_ready(self) -> int:
        """Replicas that have ever loaded."""
        return self.log.read_text(errors="replace").count("app.service [-] ready")


def descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):  # it has ended
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            yield child
            yield from descendants(child)


def command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.fixture(scope="module")
def cluster(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas by deploy/ray/serve.yaml."""
    folder = tmp_path_factory.mktemp("ray")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = yaml.safe_load((FOLDER / "serve.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"] = port
    settings = {"checkpoint": str(checkpoint_folder), "device": "cpu", "threads": "1", "max_decode_rows": "2"}
    environment = {
        **os.environ,
        **{f"LEXIMIND_{name.upper()}": value for name, value in settings.items()},
        "PYTHONPATH": str(FOLDER.parents[1]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deploy.ray.proxy:middlewares",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment
        )
    cluster = Cluster(f"http://127.0.0.1:{port}", process, log, config)
    try:
        cluster.scale(2, 2)
        cluster.wait(lambda one: one.num_ready == 2 and is_answering(one))
        yield cluster
    finally:
        left = list(descendants(process.pid))
        assert process.stdin is not None
        process.stdin.close()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for pid in [process.pid, *left]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def is_answering(cluster: Cluster) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{cluster.url}/health/ready").status_code == 200
    return False


async def summarize(client: httpx.AsyncClient, number: int, num_texts: int = 16, length: int = 64) -> httpx.Response:
    body = {"text": [f"{WORD}{number} {index}" for index in range(num_texts)], "max_new_tokens": length}
    return await client.post("/summarize", json=body)


def client_of(cluster: Cluster) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=cluster.url, timeout=_SILENT_S, limits=limits, trust_env=False)


def summaries(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return [one["summary"] for one in response.json()]


async def test_requests_of_a_replica_that_is_killed_get_503_and_succeed_on_one_retry(cluster: Cluster) -> None:
    async with client_of(cluster) as client:
        alone = [summaries(await summarize(client, number)) for number in range(8)]
        is_killed, num_answered = False, 0

        async def ask(number: int) -> httpx.Response:
            """The answer to what is asked when the replica is killed."""
            nonlocal num_answered
            while (answer := await summarize(client, number)).status_code == 200 and not is_killed:
                num_answered += 1
            return answer

        begun = [asyncio.create_task(ask(number)) for number in range(8)]
        await until(lambda: num_answered >= 16, _SILENT_S)
        os.kill(cluster.replicas[0], signal.SIGKILL)
        is_killed = True
        answers = await asyncio.gather(*begun)
        lost = [number for number, answer in enumerate(answers) if answer.status_code != 200]
        assert lost, "some were with the replica that was killed"
        for number in lost:
            assert answers[number].status_code == 503
            assert answers[number].headers["content-type"] == "application/problem+json"
            assert answers[number].json()["status"] == 503
            await asyncio.sleep(float(answers[number].headers["retry-after"]))
            answers[number] = await summarize(client, number)
        assert [summaries(answer) for answer in answers] == alone
    cluster.wait(lambda one: one.num_ready == 3 and len(one.replicas) == 2)


async def test_a_replica_that_is_scaled_down_finishes_what_it_has(cluster: Cluster) -> None:
    num_answered = 0
    cluster.scale(1, 2)
    async with client_of(cluster) as client:

        async def ask() -> None:
            nonlocal num_answered
            for number in itertools.count():
                summaries(await summarize(client, number))
                num_answered += 1
                if len(cluster.replicas) == 1:
                    return

        await asyncio.gather(*(ask() for _ in range(6)))
    assert num_answered > 6
    assert "Removing 1 replica" in cluster.log.read_text()


async def test_tokens_that_wait_start_a_replica(cluster: Cluster) -> None:
    cluster.scale(1, 2)
    cluster.wait(lambda one: len(one.replicas) == 1)
    num_ready = cluster.num_ready
    async with client_of(cluster) as client:

        async def ask() -> list[Any]:
            """The same again and again: 24 of these have some 40,000 tokens between them."""
            answers = []
            while cluster.num_ready == num_ready:
                answers.append(summaries(await summarize(client, 0, num_texts=32, length=8)))
            return answers

        answers = [one for some in await asyncio.gather(*(ask() for _ in range(24))) for one in some]
    assert answers == len(answers) * [answers[0]]
    assert "Adding 1 replica" in cluster.log.read_text()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic
def test_configuration_is_what_ray_reads_and_kuberay_is_given_the_same() -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(CONFIG)
    manifest = yaml.safe_load((FOLDER / "rayservice.yaml").read_text(encoding="utf-8"))
    inside = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(inside)
    assert inside == CONFIG | {"http_options": {"host": "0.0.0.0", "port": 8000}}
