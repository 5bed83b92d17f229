"""The container's health check: whether the service or the page is alive, where it was told to listen, with no proxy.

It goes by the command line of the container's first process, then, for the service, by `LEXIMIND_HOST` and
`LEXIMIND_PORT`. Exit status
1, with the reason on standard error, if it is not alive.
"""

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_TIMEOUT_S = 2
_OF_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def address(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, int, str]:
    """Host, port and path to ask at, of a service or a page that was started so."""
    port, path = 8000, "/health/live"
    if "demo" in command:
        environment, port, path = {}, 7860, "/"
    host = _given("host", command, environment) or "127.0.0.1"
    return _OF_ALL.get(host, host), int(_given("port", command, environment) or port), path


def _given(name: str, command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """A setting as the service reads it: the last flag wins, and a flag wins over the environment."""
    value = environment.get(f"LEXIMIND_{name.upper()}")
    for index, argument in enumerate(command):
        flag, equals, rest = argument.partition("=")
        if flag == f"--{name}":
            value = rest if equals else next(iter(command[index + 1 :]), None)
    return value


def main() -> None:
    """Ask once.

    Raises:
        SystemExit: it is not alive.
    """
    command = Path("/proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    host, port, path = address(command, os.environ)
    try:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        connection.request("GET", path)
        status = connection.getresponse().status
    except OSError as error:
        sys.exit(f"{host}:{port}: {error}")
    if status != 200:
        sys.exit(f"{host}:{port}: {path} says {status}")


if __name__ == "__main__":
    main()
