"""The memory that reloads take in both modes, and how long the service takes no requests.

    python -m benchmarks.reload [--reloads 5] [--update-results]

A server for each mode and checkpoint: the bundled one, and a random one of flan-t5-small's shape, whose weights are
what counts. A client asks one summary after the other; in between the checkpoint is loaded again, a number of times.
Peak: the kernel's high-water mark of resident memory from before the first reload, set back then.
"""

import argparse
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report, servers
from benchmarks.vitals import look
from benchmarks.weights import CACHE, SMALL, prepare
from model.choices import BUNDLED

RESULTS = report.FOLDER / "reliability.md"
MODES = ("beside", "drain")
_TEXT = "The council voted on Tuesday to build a new bridge over the river. Engineers said the old one is too weak. "
_RESET_PEAK = "5"  # proc(5), clear_refs
_QUIET_S = 3.0  # freed memory is given back after two without work


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both modes on each checkpoint, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--update-results", action="store_true", help=f"put the table into {RESULTS.name}")
    args = parser.parse_args(argv)
    folders = {"bundled": BUNDLED, "small": prepare(SMALL, args.cache).ours}
    data = {
        "facts": report.facts(),
        "rows": [
            [name, mode, *measure(folder, mode, args.reloads, args.cache)]
            for name, folder in folders.items()
            for mode in MODES
        ],
    }
    print(markdown(data))
    if args.update_results:
        report.update_readme("reload", markdown(data), RESULTS)


def markdown(data: dict[str, Any]) -> str:
    """One line a checkpoint and mode."""
    header = ["checkpoint", "mode", "before, MiB", "peak", "after", "reload, s", "no requests taken, s"]
    lines = [
        [name, mode, f"{before:.0f}", f"{peak:.0f}", f"{after:.0f}", f"{reload_s:.2f}", f"{refused_s:.2f}"]
        for name, mode, before, peak, after, reload_s, refused_s in data["rows"]
    ]
    return f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n"


def measure(folder: Path, mode: str, count: int, log_folder: Path) -> tuple[float, float, float, float, float]:
    """Resident MiB before, at most and after; mean seconds of a reload, and of those the ones without service."""
    port = servers.free_port()
    command = [sys.executable, *servers.ours("auto").arguments(folder, port, 1), "--reload", mode]
    command += ["--admin-keys", "operator", "--reload-root", str(folder.parent)]
    with servers.running(command, port, "/health/ready", log_folder / "reload.log") as (url, pid):
        over = threading.Event()
        refused: list[tuple[float, float]] = []
        asking = threading.Thread(target=_ask, args=(url, over, refused))
        asking.start()
        time.sleep(_QUIET_S)
        before = look(pid, 0.0).resident_mb
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
        seconds = 0.0
        for _ in range(count):
            started_at = time.perf_counter()
            _post(f"{url}/admin/reload", {})
            seconds += time.perf_counter() - started_at
            time.sleep(_QUIET_S)
        over.set()
        asking.join()
        status = Path(f"/proc/{pid}/status").read_text()
        peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        after = look(pid, 0.0).resident_mb
    refused_s = sum(end - start for start, end in refused)
    return before, peak_kib / 1024, after, seconds / count, refused_s / count


def _ask(url: str, over: threading.Event, refused: list[tuple[float, float]]) -> None:
    """One summary after the other; `refused` gets the spans in which there was 503."""
    since: float | None = None
    while not over.is_set():
        try:
            _post(f"{url}/summarize", {"text": _TEXT, "max_new_tokens": 4})
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            since = since or time.perf_counter()
        else:
            if since is not None:
                refused.append((since, time.perf_counter()))
                since = None
        time.sleep(0.01)


def _post(url: str, body: dict[str, Any]) -> None:
    headers = {"content-type": "application/json", "x-api-key": "operator"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()


if __name__ == "__main__":
    main()
