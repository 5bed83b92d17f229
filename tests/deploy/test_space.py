"""What `make space` writes: a folder that a Hugging Face Space of type docker builds by itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(not shutil.which("make"), reason="make is not installed"),
    pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="it is taken from a git checkout"),
]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "out"
    subprocess.run(["make", "space", f"SPACE={folder}"], cwd=REPOSITORY, check=True, capture_output=True)
    return folder


def test_front_matter_says_how_it_is_built_and_where_it_listens(space: Path) -> None:
    _, front, text = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front_matter = yaml.safe_load(front)
    assert front_matter["sdk"] == "docker"
    assert front_matter["app_port"] == 7860
    assert len(front_matter["short_description"]) <= 60
    assert (space / front_matter["license_link"]).is_file()
    assert "non-commercial" in text


def test_its_dockerfile_ends_in_the_page_and_has_all_that_it_copies(space: Path) -> None:
    dockerfile = (space / "Dockerfile").read_text(encoding="utf-8")
    assert dockerfile.rstrip().endswith("FROM demo")
    assert set(re.findall(r"^ARG EXTRAS=(.+)$", dockerfile, re.MULTILINE)) == {"serve,demo"}
    assert re.findall(r"^ARG TORCH_INDEX_URL=(.+)$", dockerfile, re.MULTILINE) == [
        "https://download.pytorch.org/whl/cpu"
    ]
    page = dockerfile[dockerfile.index(" AS demo") : dockerfile.index(" AS serve")]
    assert "EXPOSE 7860" in page
    assert 'CMD ["demo", "--host", "0.0.0.0"]' in page
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    assert all((space / name).exists() for line in copied for name in line.split())


def test_large_files_are_stored_as_the_hub_wants_them(space: Path) -> None:
    patterns = [line.split()[0] for line in (space / ".gitattributes").read_text().splitlines() if "filter=lfs" in line]
    too_large = [path for path in space.rglob("*") if path.is_file() and path.stat().st_size > 10 * 2**20]
    assert all(any(path.match(pattern) for pattern in patterns) for path in too_large)
