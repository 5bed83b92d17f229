"""Installing by the line of the quick start, from an index in a folder: no network, no gigabyte.

The index has the wheel as it is built, and of every package that is installed here its own metadata without the code,
which the new environment takes from this one. So pip resolves what the extra asks for, and the command runs.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import quote

import pytest

from support.pages import REPOSITORY, blocks_of

pytestmark = pytest.mark.slow
LIBRARIES = sysconfig.get_path("purelib")
PIPX = Path(sysconfig.get_path("scripts")) / "pipx"
SOURCES = ("app", "model", "training", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")


def build_wheel(source: Path, folder: Path) -> None:
    """The wheel of a copy of the sources, without kernels, which take a minute and are not what this is about."""
    source.mkdir()
    for name in SOURCES:
        path = REPOSITORY / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=source, env={**os.environ, "CXX": "none"}, check=True, capture_output=True)


def write_metadata_wheel(installed: Distribution, folder: Path) -> None:
    """A wheel that has of `installed` the metadata, and where its code is."""
    stem = f"{re.sub(r'[-.]+', '_', installed.name)}-{installed.version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", installed.read_text("METADATA") or "")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
        wheel.writestr(f"{stem}.pth", f"{LIBRARIES}\n")


def write_index(simple: Path, source: Path) -> None:
    """A folder for each project with its wheel and a page of links (PEP 503)."""
    simple.mkdir()
    (simple / "leximind").mkdir()
    build_wheel(source, simple / "leximind")
    for installed in distributions(path=[LIBRARIES]):
        folder = simple / re.sub(r"[-_.]+", "-", installed.name).lower()
        if folder.name != "leximind" and installed.read_text("METADATA"):
            folder.mkdir(exist_ok=True)
            write_metadata_wheel(installed, folder)
    for folder in simple.iterdir():
        links = [f'<a href="{quote(wheel.name)}">{wheel.name}</a>' for wheel in folder.iterdir()]
        (folder / "index.html").write_text("<!doctype html>" + "".join(links))


@pytest.mark.skipif(not PIPX.exists(), reason="pipx is not installed; the extra dev has it")
def test_pipx_line_installs_from_an_index(tmp_path: Path) -> None:
    [line] = [one.text for one in blocks_of("docs/quick-start.md") if one.text.startswith("pipx ")]
    write_index(tmp_path / "simple", tmp_path / "source")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIP", "PYTHONPATH"))},
        "PATH": f"{PIPX.parent}{os.pathsep}{os.environ['PATH']}",
        "PIPX_HOME": str(tmp_path / "home"),
        "PIPX_BIN_DIR": str(tmp_path / "bin"),
        "PIPX_DISABLE_SHARED_LIBS_AUTO_UPGRADE": "1",  # or it would look for a newer pip there
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": (tmp_path / "simple").as_uri(),
    }
    installed = subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    command = [tmp_path / "bin" / "leximind", "topic", "The home side won the final.", "--json"]
    answered = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert '"model": "tiny"' in answered.stdout, answered.stderr
    [found] = (tmp_path / "home").glob("venvs/leximind/lib/*/site-packages/leximind-*.dist-info/licenses/LICENSE")
    assert "MIT" in found.read_text()
