"""How long `leximind serve` takes to be ready, and the memory that it takes at most, beside its weights.

    python -m benchmarks.startup [--quick] [--update-readme]

Ready: from starting the process to the first healthy answer. Peak: the kernel's high-water mark of resident memory
after a request for a summary, less what the same service takes with a network of no size worth mentioning.
"""

import argparse
import json
import math
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report, servers
from benchmarks.weights import BASE, CACHE, SMOKE, prepare
from model.choices import PRECISIONS, Precision
from model.kernels.formats import FORMATS

BUNDLED = Path(__file__).parents[1] / "model" / "pretrained" / "tiny"
_TEXT = "The council voted on Tuesday to build a new bridge over the river. Engineers said the old one is too weak. "


def main(argv: Sequence[str] | None = None) -> None:
    """Start the service on each checkpoint in each precision, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a two-layer network instead of base")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=report.FOLDER)
    args = parser.parse_args(argv)
    shape = SMOKE if args.quick else BASE
    folders = {"bundled": BUNDLED, "small net" if args.quick else "base": prepare(shape, args.cache).ours}
    smallest = prepare(SMOKE, args.cache).ours
    rows = []
    for precision in PRECISIONS:
        _, without_mib = start(smallest, precision, args.cache)
        for name, folder in folders.items():
            ready_s, peak_mib = start(folder, precision, args.cache)
            weights_mib = weights_bytes(folder, precision) / 2**20
            rows.append([name, precision, ready_s, peak_mib, peak_mib - without_mib, weights_mib])
    data = {"facts": report.facts(), "rows": rows}
    report.save("startup-quick" if args.quick else "startup", data, markdown(data), args.output)
    print(markdown(data))
    if args.update_readme:
        report.update_readme("startup", markdown(data))


def markdown(data: dict[str, Any]) -> str:
    """One line a checkpoint and precision."""
    header = ["checkpoint", "precision", "ready, s", "peak, MiB", "of it the model, MiB", "its numbers, MiB", "ratio"]
    lines = [
        [name, precision, f"{ready:.1f}", f"{peak:,.0f}", f"{own:,.0f}", f"{weights:,.0f}", f"{own / weights:.2f}"]
        for name, precision, ready, peak, own, weights in data["rows"]
    ]
    return (
        f"{report.caption(data['facts'])}\n{report.table(header, lines)}\n\nThe model's share: peak less that of the "
        "same service with a two-layer network. Its numbers: parameters times bytes of the precision; with int8 the "
        "embedding is bfloat16.\n"
    )


def start(folder: Path, precision: str, log_folder: Path) -> tuple[float, float]:
    """Seconds until ready, and MiB of resident memory at most."""
    port = servers.free_port()
    server = servers.ours(precision)
    command = [sys.executable, *server.arguments(folder, port, 2)]
    started_at = time.perf_counter()
    with servers.running(command, port, server.health, log_folder / "startup.log") as (url, pid):
        ready_s = time.perf_counter() - started_at
        body = json.dumps(server.body(_TEXT * 8, 16)).encode()
        request = urllib.request.Request(url + server.path, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        status = Path(f"/proc/{pid}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return ready_s, peak_kib / 1024


def weights_bytes(folder: Path, precision: Precision) -> int:
    """Bytes of a checkpoint's numbers as they are kept: the embedding in bfloat16 at least, matrices in `precision`."""
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    counts = {name: math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}
    embedding = counts.pop("embedding.weight")
    each = FORMATS[precision].dtype.itemsize
    return embedding * max(2, each) + sum(counts.values()) * each


if __name__ == "__main__":
    main()
