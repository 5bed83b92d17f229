"""A container on loopback: an image's root, read-only, its user, no capabilities. runc runs it, or chroot where not."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from support.servers import Server

_STARTED_WITHIN_S = 30.0


class Container(Protocol):
    """A running container."""

    process: subprocess.Popen[bytes]  # ends when the container does, with its status
    log: Path

    def execute(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in the container, as its user."""

    def terminate(self) -> None:
        """SIGTERM to its first process."""


@dataclass(frozen=True)
class Spec:
    """What is to run: of an image, or a part of it."""

    root: Path
    user: int
    group: int
    cwd: str
    environment: dict[str, str]
    command: Sequence[str]

    @classmethod
    def of(cls, config: dict[str, Any], root: Path, *arguments: str, **environment: str) -> "Spec":
        """An image's configuration by Docker's names; `arguments` and `environment` as `docker run` takes them."""
        user, group = map(int, config["User"].split(":"))
        own = dict(line.split("=", 1) for line in config["Env"])
        command = [*config["Entrypoint"], *(arguments or config["Cmd"])]
        return cls(root, user, group, config["WorkingDir"], own | environment, command)


@dataclass(frozen=True)
class Served:
    """A container that serves on a port of its environment."""

    container: Container
    server: Server


@contextmanager
def running(spec: Spec, folder: Path) -> Iterator[Container]:
    """The container, ended with the context; `folder` is its own."""
    folder.mkdir()
    container: Container = (RuncContainer if runc_works(spec, folder) else ChrootContainer)(spec, folder)
    try:
        yield container
    finally:
        if container.process.poll() is None:
            container.terminate()
            container.process.wait(60)


def runc_works(spec: Spec, folder: Path) -> bool:
    """Whether runc starts a container of this image here."""
    trial = Spec(spec.root, spec.user, spec.group, "/", spec.environment, ["true"])
    (folder / "trial").mkdir()
    try:
        return RuncContainer(trial, folder / "trial").process.wait(_STARTED_WITHIN_S) == 0
    except OSError:  # it is not installed
        return False


class RuncContainer:
    """By runc, in namespaces of its own but for the network."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self._spec, self._name = spec, f"{folder.parent.name}-{folder.name}"
        self._runc = ["runc", "--root", str(folder / "state")]
        subprocess.run(["runc", "spec"], cwd=folder, check=True)
        config = json.loads((folder / "config.json").read_text())
        config["root"] = {"path": str(spec.root), "readonly": True}
        config["process"] |= {
            "terminal": False,
            "user": {"uid": spec.user, "gid": spec.group},
            "args": list(spec.command),
            "cwd": spec.cwd,
            "env": [f"{name}={value}" for name, value in spec.environment.items()],
            "capabilities": {},
            "noNewPrivileges": True,
        }
        namespaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [one for one in namespaces if one["type"] != "network"]
        tmp = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=64m"]}
        config["mounts"].append(tmp)
        (folder / "config.json").write_text(json.dumps(config))
        self.log = folder / "log"
        with self.log.open("wb") as output:
            run = [*self._runc, "run", "--bundle", str(folder), self._name]
            self.process = subprocess.Popen(run, stdout=output, stderr=output)

    def execute(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in the container, as its user."""
        given = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        execute = [*self._runc, "exec", *given, self._name, *command]
        return subprocess.run(execute, capture_output=True, text=True, timeout=120, check=False)

    def terminate(self) -> None:
        """SIGTERM to its first process."""
        subprocess.run([*self._runc, "kill", self._name, "TERM"], check=True)


# The mounts are seen by this process and its children alone, and end with them.
_CHROOT = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount -t tmpfs -o nosuid,nodev,size=64m tmpfs "$1/tmp" \
    && mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" || exit 125
"""


class ChrootContainer:
    """By chroot, in mount and process namespaces of its own."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self._spec = spec
        self.log = folder / "log"
        script = f"{_CHROOT}\nexec {shlex.join(self._chroot(spec.command, {}))}"
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", str(spec.root)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(unshare, stdout=output, stderr=output)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        give_up = time.monotonic() + _STARTED_WITHIN_S
        while not (found := children.read_text().split()):
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.05)
        self._pid = int(found[0])

    def _chroot(self, command: Sequence[str], environment: dict[str, str]) -> list[str]:
        """The command line that runs `command` in the root as the user: without privileges, those of root are gone."""
        own = [f"{name}={value}" for name, value in (self._spec.environment | environment).items()]
        entered = ["sh", "-c", 'cd "$0" && exec "$@"', self._spec.cwd, "env", "--ignore-environment", *own, *command]
        user = f"--userspec={self._spec.user}:{self._spec.group}"
        chroot = ["chroot", user, "--groups=", str(self._spec.root), *entered]
        return ["setpriv", "--no-new-privs", "--bounding-set=-all,+setuid,+setgid,+sys_chroot", "--", *chroot]

    def execute(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command in the container, as its user."""
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--pid", *self._chroot(command, environment)]
        return subprocess.run(enter, capture_output=True, text=True, timeout=120, check=False)

    def terminate(self) -> None:
        """SIGTERM to its first process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
