"""`leximind` in a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "app.cli"]


def local_flags(checkpoint_folder: Path) -> list[str]:
    """Of a command that answers by itself, on one thread."""
    return ["--checkpoint", str(checkpoint_folder), "--threads", "1", "--device", "cpu"]


def started(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """The command, running, with pipes to it."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [*COMMAND, *arguments]
    return subprocess.Popen(command, env=environment(), preexec_fn=_heed_interrupts, **{**pipes, **options})


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command, once it has ended."""
    return subprocess.run([*COMMAND, *arguments], input=stdin, capture_output=True, env=environment(), timeout=240)


def completions(*words: str) -> list[str]:
    """What the shell is offered for the last of `words`."""
    code = "import sys; sys.argv[0] = 'leximind'; from app.cli import main; main()"
    asked = {"_LEXIMIND_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    variables = {**environment(), **asked}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=variables, timeout=120, check=True)
    return done.stdout.decode().split()


def read_terminal(terminal: int) -> bytes:
    """What comes next at a pseudo-terminal; nothing once its other side is closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def environment() -> dict[str, str]:
    """In which the command finds this source tree."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _heed_interrupts() -> None:  # a background job of a shell ignores them, and what it starts too
    signal.signal(signal.SIGINT, signal.SIG_DFL)
