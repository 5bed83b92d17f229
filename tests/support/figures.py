"""Figures as they were drawn: their artists, to be read back by a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@contextmanager
def drawn_figures() -> Iterator[dict[str, Figure]]:
    """Every figure that is saved within the block, by the name of its file; the files are written as ever."""
    figures: dict[str, Figure] = {}
    save = Figure.savefig

    def keep(figure: Figure, path: Path, **options: Any) -> None:
        figures[path.name] = figure
        save(figure, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        yield figures


def axes_by_title(figure: Figure) -> dict[str, Axes]:
    """The axes that show something, by what stands above them."""
    return {ax.get_title(loc="left"): ax for ax in figure.axes if ax.axison}


def lines_by_label(ax: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """x and y of each line that the legend names."""
    legend = ax.get_legend()
    assert legend is not None
    named = {text.get_text() for text in legend.get_texts()}
    return {
        str(line.get_label()): ([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()])
        for line in ax.get_lines()
        if line.get_label() in named
    }
