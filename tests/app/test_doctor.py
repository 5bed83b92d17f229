import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.cores import usable_cores
from app.memory import available_bytes
from model.kernels import library
from support.commands import local_flags, run

pytestmark = pytest.mark.usefixtures("root_logger")


def findings(*arguments: str) -> tuple[dict[str, dict[str, str]], int]:
    """By name; the last of each."""
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return {one["name"]: one for one in json.loads(result.stdout)}, result.exit_code


def test_checkpoint_that_answers_is_fine(checkpoint_folder: Path) -> None:
    found, code = findings(*local_flags(checkpoint_folder))
    assert code == 0
    assert found["checkpoint"]["value"].startswith("random@")
    assert found["tasks"]["value"] == "summarize, emotions, topic"
    assert found["answer"]["value"].endswith("on cpu)")
    assert found["threads"]["value"].startswith("1 of ")
    assert {"leximind", "python", "packages", "device", "kernels", "number formats", "threads"} < found.keys()
    assert all(bool(one["remedy"]) == (one["state"] != "ok") for one in found.values())


def test_kernels_are_named_and_can_be_done_without(checkpoint_folder: Path) -> None:
    chosen = library.chosen_name()
    try:
        found, _ = findings(*local_flags(checkpoint_folder), "--kernels", "none")
        assert found["kernels"]["value"] == "none, as asked for: torch computes, more slowly"
    finally:
        library.choose(chosen)
    found, _ = findings(*local_flags(checkpoint_folder), "--kernels", chosen)
    assert found["kernels"]["value"].startswith(chosen)


def test_what_is_wrong_comes_with_a_remedy(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXIMIND_THREAD", "2")
    cores = usable_cores()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        flags = [
            *local_flags(checkpoint_folder)[:2],
            "--device",
            "cuda:77",
            "--threads",
            str(cores + 1),
            "--port",
            port,
        ]
        found, code = findings(*flags)
    assert code == 1
    assert found["environment"]["remedy"] == "did you mean LEXIMIND_THREADS?"
    assert found["threads"]["remedy"].startswith(f"--threads {cores} or fewer")
    assert "another process listens there" in found["address"]["remedy"]
    assert (found["device"]["state"], found["checkpoint"]["state"]) == ("failure", "failure")


def test_damaged_checkpoint_is_a_failure(checkpoint_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint_folder, tmp_path / "damaged")
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    found, code = findings(*local_flags(folder))
    assert (code, found["checkpoint"]["state"]) == (1, "failure")
    assert "model.safetensors" in found["checkpoint"]["value"]


def test_checkpoint_beyond_the_memory_is_a_failure(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doctor.available_bytes", lambda: 2**20)
    found, code = findings(*local_flags(checkpoint_folder))
    assert (code, found["memory"]["state"]) == (1, "failure")
    assert found["memory"]["value"] == "0.0 GiB available, about 0.4 GiB needed"


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4096 kB\n"}, 4096 * 1024),
        (
            {
                "proc/meminfo": "MemAvailable: 4096 kB\n",
                "proc/self/cgroup": "0::/pods/one\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/pods/one/memory.max": "1000\n",
                "sys/fs/cgroup/pods/one/memory.current": "900\n",
                "sys/fs/cgroup/pods/one/memory.stat": "anon 5\ninactive_file 300\n",
            },
            400,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000\n",
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "1100\n",
            },
            0,
        ),
        ({}, None),
    ],
)
def test_memory_is_the_least_of_machine_and_container(tmp_path: Path, files: dict[str, str], available: Any) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_bytes(tmp_path) == available


@pytest.mark.slow
def test_people_read_a_line_for_each_finding(checkpoint_folder: Path) -> None:
    done = run("doctor", *local_flags(checkpoint_folder))
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert any(line.startswith("ok       checkpoint: random@") for line in lines)
    assert all(line.startswith(("ok ", "warning ", "         -> ")) for line in lines)
