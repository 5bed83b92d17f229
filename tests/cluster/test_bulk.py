"""`leximind bulk --ray`: the files of a run without Ray, byte for byte, whatever ends the process meanwhile."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.commands import local_flags, run, started
from support.depth import depth, only_in_full

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

NUM_ROWS, SHARD_ROWS = 6000, 200  # half a minute's work: a kill finds it in the middle
ON_TWO = ("--ray", "--ray-actors", "2")
# The first agent of a Ray begins later than Ray waits for it.
SLOW_AGENT = """
import pathlib, sys, time
begun = pathlib.Path(__file__).with_name("begun")
if any(argument.endswith("dashboard/agent.py") for argument in sys.orig_argv) and not begun.exists():
    begun.touch()
    time.sleep(20)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, two of which have no text."""
    rows: list[Any] = [{"id": number, "text": f"Shares of the chip maker rose. {number}"} for number in range(NUM_ROWS)]
    rows[1234] = {"id": 1234, "text": ""}
    lines = [json.dumps(row) for row in rows]
    lines[4321] = "no object"
    path = tmp_path_factory.mktemp("source") / "rows.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def flags(checkpoint_folder: Path) -> list[str]:
    """Of every run."""
    return ["--tasks", "topic", "--shard-rows", str(SHARD_ROWS), *local_flags(checkpoint_folder)]


@pytest.fixture(scope="module")
def whole(source: Path, flags: list[str]) -> Path:
    """What a run without Ray writes."""
    target = source.parent / "whole"
    done = run("bulk", str(source), str(target), *flags)
    assert done.returncode == 4, done.stderr.decode()
    return target


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_and_interrupted_it_goes_on_to_the_files_of_a_run_without_ray(
    source: Path, flags: list[str], whole: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    counts = [0]
    for ending in depth((signal.SIGKILL,), (signal.SIGKILL, signal.SIGINT)):
        with started("bulk", str(source), str(target), *flags, *ON_TWO) as process:
            while len(list(target.glob("part-*"))) == counts[-1]:
                assert process.poll() is None, process.communicate()[1].decode()
                time.sleep(0.01)
            process.send_signal(ending)
            errors = process.communicate(timeout=60)[1].decode()
        counts.append(len(list(target.glob("part-*"))))
        assert not (target / "_SUCCESS").exists()
        if ending == signal.SIGINT:
            assert (process.returncode, "the same command goes on where it stopped" in errors) == (130, True), errors
    assert counts == sorted(set(counts)), "each run had finished some"
    assert counts[-1] < NUM_ROWS // SHARD_ROWS
    done = run("bulk", str(source), str(target), *flags, *ON_TWO)
    assert done.returncode == 4, done.stderr.decode()
    assert f" of {NUM_ROWS // SHARD_ROWS} files are there; going on" in done.stderr.decode()
    assert files_of(target) == files_of(whole)
    done = run("bulk", str(source), str(target), *flags)
    assert b"there is nothing to do" in done.stderr, "with Ray and without it is one job"


@only_in_full
def test_a_ray_whose_agents_are_too_slow_is_started_again(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENT)
    monkeypatch.syspath_prepend(tmp_path)  # of the command and of what it starts
    (tmp_path / "rows.jsonl").write_text('{"text": "Shares rose."}')
    done = run("bulk", str(tmp_path / "rows.jsonl"), str(tmp_path / "out"), *flags, *ON_TWO)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "begun").exists()


@only_in_full
def test_more_actors_than_there_is_room_for_are_refused_with_the_remedy(
    source: Path, flags: list[str], tmp_path: Path
) -> None:
    done = run("bulk", str(source), str(tmp_path / "out"), *flags, "--ray", "--ray-actors", "4096")
    assert done.returncode == 2
    assert "an actor takes 1 CPU" in done.stderr.decode()
    assert "give a lower --ray-actors or --threads" in done.stderr.decode()
