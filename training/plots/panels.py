"""One style for all figures: PNG by matplotlib's Agg without pyplot, so no display and nothing kept between two."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Okabe and Ito 2008: distinct for the colour-blind as well.
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#767676"
_CHARACTERS_PER_INCH = 8  # of a title
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)

_STYLE: dict[Any, Any] = {  # its stubs list 300 names
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "savefig.dpi": 120,
}


@contextmanager
def panels(path: Path, rows: int, columns: int, width: float, height: float, title: str) -> Iterator[list[Axes]]:
    """Axes to draw on, row by row, of `width` × `height` inches each; the figure is at `path` afterwards."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * rows))
        FigureCanvasAgg(figure)
        axes: NDArray = figure.subplots(rows, columns, squeeze=False)  # type: ignore[type-arg]
        wrapped = fill(title, int(_CHARACTERS_PER_INCH * width * columns))
        figure.suptitle(wrapped, x=0.01, ha="left", fontweight="bold")
        yield list(axes.flat)
        path.parent.mkdir(parents=True, exist_ok=True)
        # No version and no date within: equal figures are equal files.
        figure.savefig(path, metadata={"Software": None})
