"""A real Prometheus with the committed configuration, and with time that passes sixty times as fast."""

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def started_prometheus(folder: Path) -> Iterator[Callable[..., str]]:
    """Yields `run(port, key)`: the URL of one that scrapes the service there. Those that were run end with it.

    What takes a minute there takes a second: the rules are the committed ones with every time divided by 60.
    """
    running: list[subprocess.Popen[bytes]] = []

    def run(port: int, key: str = "") -> str:
        own = folder / f"prometheus-{len(running)}"
        (own / "rules").mkdir(parents=True)
        for path in (DEPLOY / "prometheus" / "rules").glob("*.yml"):
            (own / "rules" / path.name).write_text(minutes_to_seconds(path.read_text(encoding="utf-8")))
        (own / "metrics-key").write_text(key)
        config = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
        config = config.replace("10s", "1s").replace("scrape_timeout: 5s", "scrape_timeout: 1s")
        config = config.replace("/etc/prometheus", str(own)).replace("leximind:8000", f"127.0.0.1:{port}")
        (own / "prometheus.yml").write_text(config)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        flags = [f"--config.file={own}/prometheus.yml", f"--storage.tsdb.path={own}/data"]
        with (own / "log").open("wb") as log:
            command = ["prometheus", *flags, f"--web.listen-address={address}"]
            running.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=own))
        return f"http://{address}"

    yield run
    for process in running:
        process.terminate()
    for process in running:
        process.wait(20)


def minutes_to_seconds(rules: str) -> str:
    """Rules whose ranges, offsets and `for` are a sixtieth of those given."""
    times = re.compile(r"(\[|\boffset |\bfor: )(\d+)([smhd])\b")
    return times.sub(lambda found: f"{found[1]}{int(found[2]) * _SECONDS[found[3]] // 60}s", rules)
