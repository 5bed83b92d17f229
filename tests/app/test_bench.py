import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from support.commands import local_flags

pytestmark = pytest.mark.usefixtures("root_logger")


def test_every_load_has_figures_that_fit_each_other(checkpoint_folder: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--seconds", "1", "--json", *local_flags(checkpoint_folder)])
    figures = json.loads(done.stdout)
    assert done.exit_code == 0
    assert [one["at_once"] for one in figures] == [1, 256, 64, 1, 8, 32, 64, 4]
    for one in figures:
        is_summary = one["name"].startswith("summarize")
        assert 0 < one["p50_s"] <= one["p95_s"]
        tokens = one["new_tokens_per_s"]
        assert tokens == pytest.approx(64 * one["texts_per_s"], rel=0.05) if is_summary else tokens == 0
        # Little's law: what is at once is the rate times the time of each, but for the last, which end later.
        assert one["texts_per_s"] * one["p50_s"] < 2 * one["at_once"]


def test_people_get_a_table(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = CliRunner().invoke(app, ["bench", "--seconds", "1", *local_flags(checkpoint_folder)])
    assert done.exit_code == 0
    assert done.stdout.startswith("random@")
    assert "summarize, 4 beams" in done.stdout
