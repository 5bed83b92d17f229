"""Results as they are kept: JSON for machines, a Markdown table for people, the same table in README.md on request."""

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
_VERSIONS = ("torch", "transformers")


def facts() -> dict[str, Any]:
    """When, where, with what and by which command."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command(),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version for name in _VERSIONS if (version := _version(name))},
    }


def command() -> str:
    """What was typed, without the places that only this machine has."""
    module = Path(sys.argv[0]).stem
    args = ["…/" + Path(one).name if one.startswith("/") else one for one in sys.argv[1:]]
    return " ".join(
        ["python", "-m", f"benchmarks.{module}", *(shlex.quote(one) if " " in one else one for one in args)]
    )


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right, names to the left."""
    rows = [header, [":--", *["--:"] * (len(header) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def caption(known: Mapping[str, Any]) -> str:
    """`facts` in a few lines for people."""
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
    return (
        f"{known['date']}, commit {known['commit']}, {known['processor']}, {known['cores']} cores "
        f"(load average before: {known['load_before']}), Python {known['python']}, {versions}.\n\n"
        f"    {known['command']}\n"
    )


def save(name: str, data: Mapping[str, Any], markdown: str, folder: Path = FOLDER) -> None:
    """`name`.json and `name`.md, each replaced whole, so that an interrupted run leaves what it had."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(data, indent=1, ensure_ascii=False)), (".md", markdown)):
        partial = folder / f".{name}{suffix}"
        partial.write_text(text.rstrip() + "\n", encoding="utf-8")
        partial.rename(folder / f"{name}{suffix}")


def load(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """What `save` kept, if anything."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def update_readme(name: str, markdown: str, readme: Path = README) -> None:
    """Put `markdown` between the marks `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the marks are not there.
    """
    text = readme.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marked.search(text):
        raise ValueError(f"{readme.name} has no place marked {name}")
    readme.write_text(marked.sub(lambda found: f"{found[1]}{markdown.strip()}\n{found[2]}", text), encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    features = [name for name in _FEATURES if name in known.get("flags", "").split()]
    return f"{known.get('model name', platform.machine()).strip()} ({' '.join(features)})"


def _commit() -> str:
    ended = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=README.parent, capture_output=True, text=True, check=False
    )
    return ended.stdout.strip() or "unknown"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
