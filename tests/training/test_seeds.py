"""One command trains several seeds, each in its own folder, and their reports become a mean and a spread."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest
from hydra import compose, initialize_config_module

from support.training_runs import SMALL
from training import evaluate, seeds
from training.config import parse_config
from training.data.readers import READERS
from training.overrides import check_overrides


@pytest.mark.slow
def test_seeds_are_trained_by_one_command_and_compared(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "study"
    small = [key for key in SMALL if key != "model=small" and not key.startswith("data.groups")]
    command = [sys.executable, "-m", "training.train", "-m", "experiment=tiny", "loop.seed=0,1", *small]
    command += ["data.groups.summaries.readers=[summaries]", "data.groups.summaries.buckets=[[64,32]]"]
    command += ["data.groups.extracts.readers=[leads]", "loop.steps=2", f"data.root={data}", f"output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    reports = []
    for number in (0, 1):
        run = output / f"tiny-{number}"
        manifest = json.loads((run / "checkpoint" / "manifest.json").read_text())
        assert manifest["training"]["config"]["loop.seed"] == number
        assert (run / "plots" / "training.png").is_file()
        options = ["--data", str(data), "--rows", "2", "--max-new-tokens", "4", "--output", str(run / "evaluation")]
        evaluate.main([str(run / "checkpoint"), *options])
        reports.append(json.loads((run / "evaluation" / "report.json").read_text()))
    seeds.main([str(output / f"tiny-{n}" / "evaluation") for n in (0, 1)] + ["--output", str(tmp_path / "out")])
    study = json.loads((tmp_path / "out" / "seeds.json").read_text())
    assert study.keys() == reports[0]["scores"].keys()
    for name, found in study.items():
        values = [report["scores"][name]["value"] for report in reports]
        assert (found["mean"], found["sd"]) == (pytest.approx(mean(values)), pytest.approx(stdev(values)))
    assert re.search(r"\| topic.accuracy \| 0\.\d+ ± 0\.\d+ \|", (tmp_path / "out" / "seeds.md").read_text())


def test_the_recipe_is_its_three_groups() -> None:
    with initialize_config_module("training.configs", version_base=None):
        recipe, spelt_out = (
            parse_config(compose("train", [*choices, "output=runs/x"]))
            for choices in (["experiment=tiny"], ["model=tiny", "data=tiny", "training=tiny"])
        )
    assert recipe == spelt_out


@pytest.mark.parametrize("recipe", ["tiny", "tiny_second", "tiny_chats"])
def test_every_recipe_is_a_whole_configuration_of_known_readers(recipe: str) -> None:
    with initialize_config_module("training.configs", version_base=None):
        parsed = parse_config(compose("train", [f"experiment={recipe}", "output=runs/x"]))
    assert {reader for group in parsed.data.groups.values() for reader in group.readers} <= READERS.keys()


def test_sweeps_are_checked_value_by_value() -> None:
    check_overrides(["-m", "experiment=tiny", "loop.seed=0,1,2", "model=tiny,small", "training=glob(*)"])
    with pytest.raises(Exception, match=r"no such choice; did you mean small\?"):
        check_overrides(["-m", "model=tiny,smal"])
    with pytest.raises(Exception, match=r"did you mean loop\.seed\?"):
        check_overrides(["-m", "experiment=tiny", "loop.sed=0,1"])


REPORT = {
    "checkpoint": "a",
    "weights": "1",
    "split": "dev",
    "rows": {"topic": 4},
    "scores": {"topic.accuracy": {"value": 0.5}},
}


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([REPORT], "a spread needs two or more"),
        ([REPORT, REPORT], "a and a hold the same weights"),
        ([REPORT, {**REPORT, "weights": "2", "split": "test"}], "scored with another split: test and dev"),
        ([REPORT, {"scores": {}}], r"1\.json: no report of training\.evaluate"),
    ],
)
def test_what_cannot_be_compared_is_refused(reports: list[object], expected: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(len(reports))]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(json.dumps(report))
    with pytest.raises(SystemExit, match=expected):
        seeds.main([str(path) for path in paths])
