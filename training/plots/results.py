"""A result as figures: what the report's tables say, to be seen at a glance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from model.tasks import Head
from training.evaluation.result import Result
from training.plots.panels import BLUE, GREEN, GREY, ORANGE, panels

_MOST_WRITTEN = 12  # labels whose counts can be read in a confusion


def draw(result: Result, folder: Path, name: str) -> dict[str, Path]:
    """Write a PNG into `folder` for all that the checkpoint `name` was scored on; returns them by what they show."""
    drawn = {}
    title = f"{name} on {result.split}"
    if result.lengths:
        drawn["Lengths"] = _lengths(result, folder / "lengths.png", title)
    for head in result.heads:
        if head.kind == "multi_label":
            drawn[f"F1 of each label of {head.name}"] = _labels(result, head, folder / f"{head.name}.png", title)
        else:
            drawn[f"Confusion of {head.name}"] = _confusion(result, head, folder / f"{head.name}.png", title)
    if result.heads:
        facts = {head.name: result.facts[head.name] for head in result.heads}
        drawn["Reliability"] = _reliability(facts, folder / "reliability.png", title)
    return drawn


def _lengths(result: Result, path: Path, title: str) -> Path:
    with panels(path, len(result.lengths), 2, 5.0, 2.4, f"{title}: words of a text") as axes:
        for (source, lengths), texts, summaries in zip(result.lengths.items(), axes[::2], axes[1::2], strict=True):
            _histogram(texts, {"source": (lengths.source, GREY)})
            texts.set_title(f"{source} ({len(lengths.source)} rows)")
            texts.set_ylabel("rows")
            _histogram(summaries, {"reference": (lengths.reference, BLUE), "produced": (lengths.output, ORANGE)})
            summaries.set_title("its summaries")
        for ax in axes[-2:]:
            ax.set_xlabel("words (the last bar: so many or more)")
    return path


def _histogram(ax: Axes, columns: Mapping[str, tuple[Sequence[int], str]]) -> None:
    every = np.concatenate([np.asarray(values) for values, _ in columns.values()])
    # A few texts are far longer than the rest; the last bar takes them all, so that the others can be distinguished.
    end = max(10.0, float(np.percentile(every, 99)))
    width = max(1, round(end / 20))
    edges = np.arange(0, end + width + 1, width)
    for label, (values, colour) in columns.items():
        shown = np.minimum(values, edges[-1] - 1)
        legend = f"{label}, median {np.median(values):.0f}"
        ax.hist(shown, edges.tolist(), histtype="stepfilled", fc=(colour, 0.35), ec=colour, lw=1.4, label=legend)
    ax.set_xlim(0, edges[-1])
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize="small", loc="upper right")


def _labels(result: Result, head: Head, path: Path, title: str) -> Path:
    support: Mapping[str, int] = result.facts[head.name]["support"]
    scores = {label: result.scores[f"{head.name}.label.{label}"] for label in support}
    order = sorted(scores, key=lambda label: (scores[label].value, label))
    values = np.array([scores[label].value for label in order])
    low, high = np.array([scores[label].interval() for label in order]).T
    macro = result.scores[f"{head.name}.macro_f1"].value
    with panels(path, 1, 1, 7.0, 1.2 + 0.24 * len(order), f"{title}: F1 of each label of {head.name}") as (ax,):
        reach = np.maximum(0, [values - low, high - values])  # a percentile interval need not hold the value
        ax.barh(range(len(order)), values, color=BLUE, height=0.7, xerr=reach, error_kw={"ecolor": GREY})
        ax.set_yticks(range(len(order)), [f"{label} ({support[label]})" for label in order])
        ax.axvline(macro, color=ORANGE, label=f"macro F1 {macro:.3f}")
        ax.grid(visible=False, axis="y")
        ax.set_xlim(0, 1)
        ax.set_ylim(-0.6, len(order) - 0.4)
        ax.set_xlabel(f"F1 with its 95 % interval; in brackets rows with the label, of {result.rows[head.name]}")
        ax.legend(loc="lower right")
    return path


def _confusion(result: Result, head: Head, path: Path, title: str) -> Path:
    labels, counts = head.labels, np.array(result.facts[head.name]["confusion"])
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    has_room = len(labels) <= _MOST_WRITTEN
    size = 2.0 + (0.9 if has_room else 0.25) * len(labels)
    with panels(path, 1, 1, size + 0.8, size, f"{title}: {head.name}") as (ax,):
        image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts) if has_room else ():
            colour = "white" if shares[row, column] > 0.5 else "black"
            cell = f"{count:,}\n{shares[row, column]:.1%}"
            ax.text(column, row, cell, ha="center", va="center", color=colour)
        ax.set_xticks(range(len(labels)), labels, rotation=0 if has_room else 90)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_xlabel("predicted")
        ax.set_ylabel("true")
        ax.grid(visible=False)
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, format=PercentFormatter(1))
        bar.set_label("of the rows with this true label")
    return path


def _reliability(facts: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> Path:
    with panels(path, 2, len(facts), 4.4, 3.0, f"{title}: stated probability and observed share") as axes:
        for number, (task, fact) in enumerate(facts.items()):
            top, bottom = axes[number], axes[number + len(facts)]
            top.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
            error, left = fact["calibration_error"], fact.get("calibration_error_at_temperature")
            curves = [("reliability", f"as it is, error {error:.3f}", BLUE, "o-")]
            if left is not None:
                legend = f"temperature {fact['temperature']:.2f}, error {left:.3f}"
                curves.append(("reliability_at_temperature", legend, GREEN, "s--"))
            for key, label, colour, style in curves:
                stated, observed, _ = zip(*fact[key], strict=True)
                top.plot(stated, observed, style, color=colour, markersize=4, label=label)
            top.set_title(task)
            top.set_ylabel("observed share")
            top.set_xlim(0, 1)
            top.set_ylim(0, 1)
            top.legend(fontsize="small", loc="upper left", frameon=True, framealpha=0.85, edgecolor="none")
            stated, _, decisions = zip(*fact["reliability"], strict=True)
            bottom.bar(stated, decisions, width=0.04, color=BLUE)
            bottom.set_yscale("log")
            bottom.set_ylim(bottom=0.8)
            bottom.set_xlim(0, 1)
            bottom.set_ylabel("decisions")
            bottom.set_xlabel("stated probability")
    return path
