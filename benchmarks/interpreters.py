"""The harness's side of the workers: which interpreter has what, starting, asking, ending."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.trainers import TRAINERS
from benchmarks.weights import Weights

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600.0
_LIST = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
)


class WorkerFailed(Exception):
    """A contender could not be loaded or failed at an order; the message is the end of its log."""


@dataclass(frozen=True)
class Interpreter:
    """A Python and the versions of what it has installed."""

    path: str
    versions: dict[str, str] = field(compare=False)

    def lacks(self, requires: Sequence[str]) -> list[str]:
        """The distributions of `requires` that are not installed."""
        return [name for name in requires if name not in self.versions]


def interpreters(peer_pythons: Sequence[str]) -> list[Interpreter]:
    """This Python, then the peers'."""
    paths = [sys.executable, *peer_pythons]
    lists = [subprocess.run([path, "-c", _LIST], capture_output=True, text=True, check=True).stdout for path in paths]
    return [Interpreter(path, json.loads(one)) for path, one in zip(paths, lists, strict=True)]


def named(names: Iterable[str], parts: Sequence[str]) -> list[str]:
    """Those of `names` that have one of `parts`.

    Raises:
        SystemExit: a part that no name has; who types it would wait for nothing.
    """
    names = list(names)
    for part in parts:
        if not any(part in name for name in names):
            raise SystemExit(f"--only {part}: no such contender; there are {', '.join(names)}")
    return [name for name in names if any(part in name for part in parts)]


def choose(pythons: Sequence[Interpreter], requires: Sequence[str]) -> Interpreter | None:
    """The first that has all of `requires`."""
    return next((python for python in pythons if not python.lacks(requires)), None)


class Worker:
    """A contender at work in a process of its own; use it as a context."""

    def __init__(self, name: str, python: Interpreter, weights: Weights, threads: int) -> None:
        self.name = name
        self.versions = {one: python.versions[one] for one in (CONTENDERS | TRAINERS)[name].requires}
        self._log = weights.folder / f"{name.replace(' ', '-')}.log"
        command = [python.path, "-m", "benchmarks.worker", weights.shape.name, str(weights.folder.parent), name]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, str(threads)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ready(self) -> float:
        """Wait until it is loaded; the seconds that it took.

        Raises:
            WorkerFailed: it ended instead.
        """
        seconds: float = self._hear()["load_s"]
        return seconds

    def ask(self, **order: Any) -> dict[str, Any]:
        """One order, one answer.

        Raises:
            WorkerFailed: it ended instead.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self._hear()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        guard = threading.Timer(PATIENCE_S, self._process.kill)
        guard.start()
        line = self._process.stdout.readline()
        guard.cancel()
        if not line:
            self._fail()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _fail(self) -> None:
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        raise WorkerFailed(f"{self.name} failed: {' '.join(last) or 'no word'} (log: {self._log})")
