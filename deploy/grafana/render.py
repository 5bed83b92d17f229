"""Draws the dashboards with matplotlib from a running Prometheus: what Grafana would show, without Grafana.

    python -m deploy.grafana.render http://127.0.0.1:9090 docs/dashboards --minutes 30

Of a panel it shows title, lines, legend, unit and limits, on Grafana's grid.
"""

import argparse
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import httpx
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter
from matplotlib.ticker import FuncFormatter

from deploy.queries import DASHBOARDS

_SCRAPE_S = 10
_COLORS = {"green": "#37872D", "orange": "#E0752D", "red": "#C4162A"}
_LINES = ["#3274D9", "#FF780A", "#56A64B", "#A352CC", "#E0B400", "#E02F44", "#0C8599", "#7F8C8D", "#B877D9", "#1F60C4"]
_ROW_INCHES, _COLUMN_INCHES = 0.36, 0.75
_MOST_LEGENDS = 10


class Source:
    """A Prometheus, asked for the last `minutes`."""

    def __init__(self, url: str, minutes: float, end: float) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)
        self.end, self.start = end, end - 60 * minutes

    def lines(self, promql: str) -> list[dict[str, Any]]:
        """Series over time, 300 points each."""
        step = max(_SCRAPE_S, (self.end - self.start) / 300)
        return self._ask("query_range", promql, start=self.start, end=self.end, step=step)

    def latest(self, promql: str) -> list[dict[str, Any]]:
        """Series at the end."""
        return self._ask("query", promql, time=self.end)

    def _ask(self, how: str, promql: str, **when: float) -> list[dict[str, Any]]:
        promql = promql.replace("$__rate_interval", f"{4 * _SCRAPE_S}s")
        promql = promql.replace("$__range", f"{int(self.end - self.start)}s")
        promql = promql.replace("$route", "/(summarize|emotions|topic|analyze|predict|classify.*)")
        answer = self._http.get(f"/api/v1/{how}", params={"query": re.sub(r"\$\w+", ".*", promql), **when}).json()
        assert answer["status"] == "success", (promql, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def draw(dashboard: dict[str, Any], source: Source, path: Path) -> None:
    """One dashboard as a picture."""
    placed = [panel for panel in dashboard["panels"] if panel["type"] != "text"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in placed)
    figure = pyplot.figure(figsize=(24 * _COLUMN_INCHES, height * _ROW_INCHES + 0.7), facecolor="#f4f5f5")
    top = height * _ROW_INCHES / (height * _ROW_INCHES + 0.7)
    figure.text(0.012, (1 + top) / 2, dashboard["title"], fontsize=17, weight="bold", va="center")
    for panel in placed:
        at = panel["gridPos"]
        left, bottom = at["x"] / 24, (1 - (at["y"] + at["h"]) / height) * top
        size = at["w"] / 24, at["h"] / height * top
        if panel["type"] == "row":
            figure.text(left + 0.012, bottom + size[1] / 2, f"▾ {panel['title']}", fontsize=12, va="center")
            continue
        gap_x, gap_y = 0.04 / _COLUMN_INCHES / 24 * 2, 0.06 / (height * _ROW_INCHES)
        frame = (left + gap_x, bottom + gap_y, size[0] - 2 * gap_x, size[1] - 2 * gap_y)
        card = figure.add_axes(frame, xticks=[], yticks=[], facecolor="white")
        for spine in card.spines.values():
            spine.set_color("#d8d9da")
        inches = size[0] * 24 * _COLUMN_INCHES, at["h"] * _ROW_INCHES
        card.set_title(panel["title"], fontsize=10, loc="left", x=0.12 / inches[0], y=1 - 0.27 / inches[1], pad=0)
        kind = {"stat": _number, "bargauge": _bars, "timeseries": _lines}[panel["type"]]
        kind(panel, source, card, inches)
    figure.savefig(path, dpi=60)
    pyplot.close(figure)


def _number(panel: dict[str, Any], source: Source, card: Axes, _: tuple[float, float]) -> None:
    options, defaults = panel["options"], panel["fieldConfig"]["defaults"]
    series = source.latest(panel["targets"][0]["expr"])
    if not series:
        text, color = "No data", "#888888"
    elif options.get("textMode") == "name":
        text, color = _legend(panel["targets"][0]["legendFormat"], series[0]["metric"]), "black"
    else:
        value = float(series[0]["value"][1])
        is_time = defaults["unit"] == "dateTimeFromNow"
        ago = f"{(source.end - value / 1000) / 60:.0f} minutes ago"
        text = ago if is_time else _format(value, defaults["unit"])
        color = _color(value, defaults["thresholds"]["steps"]) if options.get("colorMode") == "value" else "black"
    size = 26 if len(text) < 12 else 15
    card.text(0.5, 0.42, text, fontsize=size, color=color, ha="center", va="center", transform=card.transAxes)


def _bars(panel: dict[str, Any], source: Source, card: Axes, inches: tuple[float, float]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes = card.inset_axes((2.2 / inches[0], 0.06, 1 - 3.2 / inches[0], 0.80))
    for row, target in enumerate(panel["targets"]):
        value = max((float(one["value"][1]) for one in source.latest(target["expr"])), default=0.0)
        axes.barh(row, 1, color="#eeeeee", height=0.6)
        axes.barh(row, value, color=_color(value, defaults["thresholds"]["steps"]), height=0.6)
        axes.text(1.01, row, _format(value, defaults["unit"]), va="center", fontsize=11)
    axes.set_yticks(range(len(panel["targets"])), [target["legendFormat"] for target in panel["targets"]], fontsize=10)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xticks=[])
    axes.spines[:].set_visible(False)


def _lines(panel: dict[str, Any], source: Source, card: Axes, inches: tuple[float, float]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    series = [
        (_legend(target["legendFormat"], one["metric"]), one["values"])
        for target in panel["targets"]
        for one in source.lines(target["expr"])
    ]
    if not series:
        card.text(0.5, 0.45, "No data", color="#888888", ha="center", transform=card.transAxes)
        return
    names = [name for name, _ in series][:_MOST_LEGENDS]
    columns = max(1, int(inches[0] / (0.55 + 0.085 * max(map(len, names)))))
    legend_inches = 0.3 + 0.17 * math.ceil(len(names) / columns)
    lowest = (0.75 / inches[0], legend_inches / inches[1])
    axes = card.inset_axes((*lowest, 1 - 0.9 / inches[0], 1 - (legend_inches + 0.4) / inches[1]))
    is_stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    times = sorted({float(at) for _, values in series for at, _ in values})
    base = dict.fromkeys(times, 0.0)
    for color, (name, values) in zip(_LINES * 9, series, strict=False):
        points = {float(at): float(value) for at, value in values if float(value) == float(value)}
        if is_stacked:
            lower = [base[at] for at in times]
            base = {at: base[at] + points.get(at, 0.0) for at in times}
            upper = [base[at] for at in times]
            axes.fill_between([_date(at) for at in times], lower, upper, color=color, alpha=0.45, lw=0)
            axes.plot([_date(at) for at in times], upper, color=color, lw=0.8, label=name)
        else:
            axes.plot(
                [_date(at) for at in points], list(points.values()), color=color, lw=1.5, label=name, clip_on=False
            )
    highest = axes.get_ylim()[1]
    if "thresholdsStyle" in defaults["custom"]:
        for step in defaults["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=_COLORS[step["color"]], lw=1, ls="--")
        highest = max(highest, min(1.1 * defaults["thresholds"]["steps"][-1]["value"], 4 * highest))
    axes.set_ylim(0, defaults.get("max") or highest)
    axes.set_xlim(_date(source.start), _date(source.end))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _format(value, defaults["unit"])))
    axes.tick_params(labelsize=8, length=0)
    axes.grid(color="#eeeeee")
    axes.spines[:].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    card.legend(
        handles[:_MOST_LEGENDS],
        names[:_MOST_LEGENDS],
        loc="lower left",
        fontsize=8,
        ncols=columns,
        frameon=False,
        handlelength=1.0,
        columnspacing=1.0,
        borderaxespad=0.2,
    )


def _date(seconds: float) -> float:
    return seconds / 86400  # matplotlib counts days since 1970


def _legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), template)


def _color(value: float, steps: list[dict[str, Any]]) -> str:
    reached = [step["color"] for step in steps if step.get("value") is None or value >= step["value"]]
    return _COLORS[reached[-1]]


def _format(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{100 * value:.3g} %"
        case "s":
            size, name = next((one for one in ((1, "s"), (1e-3, "ms")) if value >= one[0] or not value), (1e-6, "µs"))
            return f"{value / size:.3g} {name}"
        case "bytes":
            sizes = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
            size, name = next((one for one in sizes if value >= one[0]), (1, "B"))
            return f"{value / size:.3g} {name}"
        case "reqps":
            return f"{value:.3g} req/s"
        case "ops":
            return f"{value:.3g} ops/s"
        case _:
            return f"{value / 1e3:.4g} K" if value >= 1e4 else f"{value:.4g}"


def main() -> None:
    """Draw every dashboard but the runbooks'."""
    parser = argparse.ArgumentParser(description="Draw the dashboards from a running Prometheus.")
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("folder", type=Path, help="where the pictures go, made if it is not there")
    parser.add_argument("--minutes", type=float, default=30, help="how much of the past they show (%(default)s)")
    parser.add_argument("--end", type=float, default=None, help="up to when, in seconds since 1970; now by default")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    source = Source(given.url, given.minutes, time.time() if given.end is None else given.end)
    for path in DASHBOARDS:
        if path.stem != "runbooks":
            draw(json.loads(path.read_text(encoding="utf-8")), source, given.folder / f"{path.stem}.png")


if __name__ == "__main__":
    main()
