from pathlib import Path

import pytest
from matplotlib.text import Text

from training.plots.panels import panels

TITLE = "a checkpoint with a long name on dev: stated probability and observed share"


@pytest.mark.parametrize("columns", [1, 2])
def test_title_stays_within_its_figure(tmp_path: Path, columns: int) -> None:
    with panels(tmp_path / "figure.png", 1, columns, 4.4, 3.0, TITLE) as axes:
        figure = axes[0].figure
    (title,) = figure.findobj(lambda one: isinstance(one, Text) and one.get_text().split() == TITLE.split())
    assert title.get_window_extent().x1 <= figure.bbox.width
