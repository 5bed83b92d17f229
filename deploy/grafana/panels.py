"""The kinds of panel that the dashboards are made of, with one look; knows no metric."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.queries import rules

SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
RUNBOOKS = "leximind-runbooks"
# Of what the variables choose; every query of a dashboard has it.
CHOSEN = 'job=~"$job",instance=~"$instance"'

NAMES = list(dict.fromkeys(rule["alert"] for rule in rules() if "alert" in rule))

Panel = timeseries.Panel | stat.Panel | bargauge.Panel


@dataclass(frozen=True)
class Series:
    """One query of a panel, and what its lines are called (`{{label}}` for a label's value)."""

    promql: str
    legend: str


def quantiles(metric: str, selector: str = "", of: Sequence[float] = (0.5, 0.9, 0.95, 0.99)) -> list[Series]:
    """Quantiles of a histogram over everything chosen."""
    buckets = f"sum by (le) (rate(leximind_{metric}_bucket{{{_and(selector)}}}[$__rate_interval]))"
    return [Series(f"histogram_quantile({one}, {buckets})", f"p{round(100 * one)}") for one in of]


def rate(metric: str, selector: str = "", by: str = "") -> str:
    """Events a second."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate(leximind_{metric}{{{_and(selector)}}}[$__rate_interval]))"


def mean(metric: str) -> str:
    """The mean of a histogram's values; no value while there are none."""
    return f"{rate(f'{metric}_sum')} / ({rate(f'{metric}_count')} > 0)"


def total(metric: str) -> str:
    """A gauge, summed over the instances."""
    return f"sum (leximind_{metric}{{{CHOSEN}}})"


def graph(
    title: str,
    description: str,
    unit: str,
    series: Sequence[Series],
    *,
    alerts: Sequence[str] = (),
    limits: Sequence[tuple[float, str]] = (),
    stacked: bool = False,
    maximum: float | None = None,
    width: int = 8,
) -> timeseries.Panel:
    """Lines over time; a `limit` is a dashed line from which on its colour holds, an alert a link to its runbook."""
    panel = (
        timeseries.Panel()
        .unit(unit)
        .min(0)
        .span(width)
        .height(8)
        .line_width(2 - stacked)
        .fill_opacity(30 if stacked else 5)
        .show_points(kinds.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).placement(_BOTTOM).show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .thresholds(_thresholds(limits))
    )
    if maximum is not None:
        panel = panel.max(maximum)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    if limits:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED))
    _fill(panel, title, description, series, alerts)
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    series: Series,
    *,
    alerts: Sequence[str] = (),
    limits: Sequence[tuple[float, str]] = (),
    base: str = "green",
    names: bool = False,
    width: int = 4,
) -> stat.Panel:
    """The latest value in large figures, coloured by the limits that it has reached; `names`: its legend instead."""
    panel = (
        stat.Panel()
        .unit(unit)
        .span(width)
        .height(4)
        .thresholds(_thresholds(limits, base))
        .color_mode(kinds.BigValueColorMode.VALUE if limits else kinds.BigValueColorMode.NONE)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .text_mode(kinds.BigValueTextMode.NAME if names else kinds.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    _fill(panel, title, description, [series], alerts)
    return panel


def bars(title: str, description: str, series: Sequence[Series], limits: Sequence[tuple[float, str]]) -> bargauge.Panel:
    """Shares of a whole, a bar each."""
    panel = (
        bargauge.Panel()
        .unit("percentunit")
        .min(0)
        .max(1)
        .span(24)
        .height(9)
        .thresholds(_thresholds(limits))
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    _fill(panel, title, description, series, ())
    return panel


def dashboard_of(
    uid: str, title: str, description: str, items: Sequence[str | Panel], *, with_routes: bool = False
) -> dashboard.Dashboard:
    """A dashboard of panels in rows, which strings begin; with the variables of its queries and links to the others."""
    links = dashboard.DashboardLink("LexiMind").type(DashboardLinkType.DASHBOARDS).tags(["leximind"]).keep_time(True)
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["leximind"])
        .readonly()
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(links.include_vars(True).as_dropdown(False))
        .with_variable(_variable("job", "Job", "label_values(leximind_build_info, job)"))
        .with_variable(_variable("instance", "Instance", 'label_values(leximind_build_info{job=~"$job"}, instance)'))
    )
    if with_routes:
        routes = _variable("route", "Route", 'label_values(leximind_requests_total{job=~"$job"}, route)')
        made = made.with_variable(routes.regex(_WORK))
    for panel_id, item in enumerate(items, start=1):
        if isinstance(item, str):
            made = made.with_row(dashboard.Row(item).id(panel_id))
        else:
            made = made.with_panel(item.id(panel_id))
    return made


# Routes that take work.
_WORK = r"/^\/(?!.*\/(health|info)$|health|metrics|info|docs|openapi|admin).*/"
_BOTTOM = kinds.LegendPlacement.BOTTOM


def _and(selector: str) -> str:
    return f"{CHOSEN},{selector}" if selector else CHOSEN


def _thresholds(limits: Sequence[tuple[float, str]], base: str = "green") -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color=base), *(Threshold(value=value, color=color) for value, color in limits)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .hide(VariableHide.DONT_HIDE)
        .multi(True)
        .include_all(True)
        .current(VariableOption(text="All", value="$__all"))
    )


def _fill(panel: Panel, title: str, description: str, series: Sequence[Series], alerts: Sequence[str]) -> None:
    panel.title(title).description(description).datasource(SOURCE)
    for ref_id, one in zip("ABCDEFGHIJ", series, strict=False):
        query = prometheus.Dataquery().expr(one.promql).legend_format(one.legend).ref_id(ref_id)
        panel.with_target(query.datasource(SOURCE).range())
    link = dashboard.DashboardLink
    panel.links(
        [
            link(f"Runbook: {alert}").type(DashboardLinkType.LINK).url(f"/d/{RUNBOOKS}?viewPanel={runbook_id(alert)}")
            for alert in alerts
        ]
    )


def runbook_id(alert: str) -> int:
    """The panel of the dashboard of runbooks that has this alert's."""
    return NAMES.index(alert) + 1
