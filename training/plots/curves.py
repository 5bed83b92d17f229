"""The course of a run as a figure, from its `history.jsonl`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from training.plots.panels import BLUE, COLOURS, panels

History = Sequence[Mapping[str, float]]

_OTHERS = {
    "train/lr": "learning rate",
    "train/tokens_per_s": "tokens a second",
    "train/mfu": "share of peak arithmetic",
}
_NO_LOSSES = (*_OTHERS, "train/grad_norm")


def draw_curves(history: History, path: Path, title: str) -> list[Path]:
    """Losses, dev scores, learning rate, speed and, where it was measured, MFU.

    Returns:
        [path], or nothing where the history has no line yet.
    """
    recorded = dict.fromkeys(name for line in history for name in line)
    losses = [name for name in recorded if name.startswith("train/") and name not in _NO_LOSSES]
    others = [name for name in _OTHERS if _has(history, name)]
    dev = _dev_scores(history)
    count = len(losses) + len(others) + bool(dev)
    if not count:
        return []
    columns = min(3, count)
    rows = -(-count // columns)
    with panels(path, rows, columns, 4.2, 3.0, title) as axes:
        for name in losses:
            _line(axes.pop(0), history, name, f"loss: {name.removeprefix('train/')}")
        if dev:
            _dev(axes.pop(0), history, dev)
        for name in others:
            _line(axes.pop(0), history, name, _OTHERS[name], from_zero=True)
        for unused in axes:
            unused.set_axis_off()
    return [path]


def _has(history: History, name: str) -> bool:
    return any(name in line for line in history)


def _dev_scores(history: History) -> dict[str, str]:
    recorded = dict.fromkeys(name for line in history for name in line if name.startswith("dev/"))
    names = {"dev/overall": "overall"} if "dev/overall" in recorded else {}
    for name in recorded:
        task, _, score = name.removeprefix("dev/").rpartition(".")
        if score == "accuracy":
            names[name] = f"{task}, accuracy"
        elif score == "macro_f1" and f"dev/{task}.accuracy" not in recorded:
            names[name] = f"{task}, macro F1"
        elif task.startswith("summaries.") and score == "rougeL":
            names[name] = f"{task.removeprefix('summaries.')}, ROUGE-L"
    return names


def _points(history: History, name: str) -> tuple[list[float], list[float]]:
    found = [(line["step"], line[name]) for line in history if name in line]
    return [step for step, _ in found], [value for _, value in found]


def _line(ax: Axes, history: History, name: str, label: str, *, from_zero: bool = False) -> None:
    steps, values = _points(history, name)
    ax.plot(steps, values, color=BLUE, linewidth=1.2, marker="o" if len(steps) < 20 else None, markersize=3)
    if from_zero:
        ax.set_ylim(bottom=0)
    if name == "train/lr":
        ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _finish(ax, label)


def _dev(ax: Axes, history: History, names: Mapping[str, str]) -> None:
    for number, (name, label) in enumerate(names.items()):
        steps, values = _points(history, name)
        style = "-" if number < len(COLOURS) else "--"
        width = 2.2 if name == "dev/overall" else 1.2
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(steps, values, style, color=colour, linewidth=width, marker="o", markersize=3, label=label)
    ax.set_ylim(0, 1.4)  # the scores end at 1; the legend stands above them
    ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    ax.legend(fontsize="x-small", ncols=2, loc="upper left")
    _finish(ax, "dev")


def _finish(ax: Axes, label: str) -> None:
    ax.set_title(label)
    ax.set_xlabel("step")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
