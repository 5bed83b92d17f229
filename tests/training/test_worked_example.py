"""The example of training/README.md: BBC's categories, once on a network that stays and once on one that learns."""

import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from model.choices import BUNDLED
from support.depth import only_in_full
from support.training_runs import write_jsonl

BBC = Path(__file__).parents[3] / "shared" / "data" / "summarization" / "bbc_extractive.jsonl.gz"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not BBC.is_file(), reason="no BBC News Summary in ../shared/data"),
]


@pytest.fixture(scope="module")
def categories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BBC's texts and categories, a fifth of them for dev by a hash of the text."""
    root = tmp_path_factory.mktemp("bbc")
    with gzip.open(BBC, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for split, is_dev in (("train", False), ("dev", True)):
        chosen = (row for row in rows if (zlib.crc32(row["document"].encode()) % 5 == 0) == is_dev)
        written = ({"text": row["document"], "label": row["category"]} for row in chosen)
        write_jsonl(root / "heads" / "category" / f"{split}.jsonl.gz", written)
    return root


def run(module: str, *arguments: str, cwd: Path) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, cwd=cwd, capture_output=True)


def scores(folder: Path, data: Path, cwd: Path) -> dict[str, float]:
    run("training.evaluate", str(folder), "--data", str(data), "--output", "report", "--card", cwd=cwd)
    report = json.loads((cwd / "report" / "report.json").read_text())
    return {name: score["value"] for name, score in report["scores"].items()}


def test_on_the_network_that_stays(categories: Path, tmp_path: Path) -> None:
    output = tmp_path / "category"
    run("training.add_head", str(BUNDLED), "category", "--data", str(categories), "--output", str(output), cwd=tmp_path)
    found = scores(output, categories, tmp_path)
    assert found["category.accuracy"] >= 0.87
    assert found["category.tfidf.accuracy"] >= 0.95


@only_in_full
def test_by_fine_tuning_all(categories: Path, tmp_path: Path) -> None:
    which = ("data.heads=[category]", "data.only=[category]", "data.prompt=", "tracking.enabled=false")
    places = (f"init_from={BUNDLED}", f"data.root={categories}", "output=run")
    run("training.train", "training=head", *which, *places, cwd=tmp_path)
    assert scores(tmp_path / "run" / "checkpoint", categories, tmp_path)["category.accuracy"] >= 0.93
