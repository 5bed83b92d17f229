"""What is to run on a GPU one day: every part on a CPU, with what a bare GPU machine has, and going on where it was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from benchmarks import gpu
from benchmarks.gpu_parts import Setting
from benchmarks.gpu_serving import SETTINGS
from benchmarks.interpreters import ROOT
from support import parts

# Runs the parts with the packages hidden that a bare GPU machine lacks.
BARE = """
import json, sys
from importlib.machinery import PathFinder
from pathlib import Path

ABSENT = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_core", "pydantic_settings"} | {
    "hydra", "omegaconf", "mlflow", "opentelemetry"
}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
from benchmarks.gpu import PARTS
from benchmarks.gpu_parts import Setting

setting = Setting("cpu", Path(sys.argv[1]), quick=True)
figures = {name: part(setting) for name, part in PARTS.items()}
assert not ABSENT & {name.split(".")[0] for name in sys.modules}
print(json.dumps(figures))
"""


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting("cpu", tmp_path, quick=True)


def kept(folder: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads((folder / "gpu-quick.json").read_text())["parts"]
    return parts


@pytest.mark.slow
def test_every_part_works_with_what_a_bare_gpu_machine_has(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == set(gpu.PARTS)
    assert figures["parity"]["float32, 1 beams: ids as transformers has them"] == "100.0%"
    assert figures["parity"]["float32, 4 beams: ids as transformers has them"] == "100.0%"
    assert "skipped" in figures["tests"]["1 files"] or "passed" in figures["tests"]["1 files"]
    assert all(figures.values())


def test_the_engine_is_measured_with_the_servers_settings() -> None:
    fields = Settings.model_fields
    assert {name: fields[name].default for name in SETTINGS} == SETTINGS


@pytest.mark.slow
def test_parts_that_are_done_are_kept_and_the_others_come_again(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="failed: second"):
        gpu.run({"first": parts.works, "second": parts.fails}, setting, tmp_path, None, 60)
    assert kept(tmp_path)["first"]["figures"] == {"device": "cpu"}
    assert kept(tmp_path)["second"]["error"] == "ValueError: not on cpu"
    gpu.run({"first": parts.fails, "second": parts.works}, setting, tmp_path, None, 60)  # the first is not run
    assert [one["error"] for one in kept(tmp_path).values()] == [None, None]
    with pytest.raises(SystemExit, match="failed: first"):  # asked for by name it is
        gpu.run({"first": parts.fails, "second": parts.fails}, setting, tmp_path, ["first"], 60)


@pytest.mark.slow
def test_a_part_that_dies_or_takes_too_long_is_said_to(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="failed: late"):
        gpu.run({"late": parts.lasts}, setting, tmp_path, None, 60, limit_s=0.1)
    with pytest.raises(SystemExit, match="failed: dead"):
        gpu.run({"dead": parts.dies}, setting, tmp_path, None, 60)
    assert kept(tmp_path)["late"]["error"] == "took longer than 0.1 s"
    assert kept(tmp_path)["dead"]["error"] == "its process ended with 7"


def test_no_part_begins_after_the_budget(setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.run({"first": parts.fails}, setting, tmp_path, None, budget_s=-1)
    assert "left: first" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))
