"""The dashboard asks only for metrics and labels that the service has, and asks in valid PromQL."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from app.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
# What Prometheus adds to every series that it scrapes.
TARGET_LABELS = {"job", "instance"}
KEYWORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}


def load(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def queries() -> Iterator[tuple[str, str]]:
    """(where it stands, PromQL) of every panel and every variable of every dashboard."""
    for path in DASHBOARDS:
        dashboard = load(path)
        for panel in dashboard["panels"]:
            yield from ((f"{path.stem}: {panel['title']}", target["expr"]) for target in panel.get("targets", []))
        for variable in dashboard["templating"]["list"]:
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert query, variable["query"]["query"]
            yield f"{path.stem}: ${variable['name']}", f"count by ({query[2]}) ({query[1]})"


def series() -> dict[str, set[str]]:
    """Every series name that a scrape can hold, and its labels, as the metrics table defines them."""
    metrics = Metrics()
    names: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        (family,) = metric.describe()
        labels = set(metric._labelnames) | TARGET_LABELS
        if family.type == "histogram":
            names |= {f"{family.name}_sum": labels, f"{family.name}_count": labels}
            names[f"{family.name}_bucket"] = labels | {"le"}
        else:
            names[family.name + ("_total" if family.type == "counter" else "")] = labels
    for family in metrics.registry.collect():
        if family.name.startswith("process_"):
            names |= {sample.name: TARGET_LABELS for sample in family.samples}
    return names


def words(promql: str) -> tuple[set[str], set[str]]:
    """(metric names, label names) of an expression, without a parser: whatever is neither function nor keyword."""
    promql = re.sub(r'"[^"]*"', '""', promql)
    promql = re.sub(r"\[[^\]]*\]", "", promql)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", promql))
    groups = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", promql)
    labels |= {label.strip() for group in groups for label in group.split(",")}
    promql = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)|\{[^}]*\}", "", promql)
    names = set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", promql)) - KEYWORDS
    return names, labels


def test_there_is_something_to_check() -> None:
    assert len(list(queries())) >= 15


@pytest.mark.parametrize(("where", "promql"), list(queries()))
def test_query_names_metrics_and_labels_that_exist(where: str, promql: str) -> None:
    known = series()
    names, labels = words(promql)
    assert names, f"{where}: no metric in {promql}"
    assert names <= known.keys(), f"{where}: no such metric: {sorted(names - known.keys())}"
    for name in names:
        assert labels <= known[name], f"{where}: {name} has no label {sorted(labels - known[name])}"


@pytest.mark.parametrize(("where", "promql"), list(queries()))
def test_quantiles_are_taken_over_buckets_summed_by_le(where: str, promql: str) -> None:
    for inner in re.findall(r"histogram_quantile\([\d.]+, (.*)", promql):
        grouped = re.match(r"sum by \(([^)]*)\) \(rate\((\w+)", inner)
        assert grouped, where
        assert "le" in grouped[1].split(", "), where
        assert grouped[2].endswith("_bucket"), where


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_accepts_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"dashboard:query:{i}", "expr": promql.replace("$__rate_interval", "40s")}
        for i, (_, promql) in enumerate(queries())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    checked = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_use_the_provisioned_datasource_and_do_not_overlap(path: Path) -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    cells: set[tuple[int, int]] = set()
    ids: set[int] = set()
    for panel in load(path)["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] in uids, panel["title"]
        at = panel["gridPos"]
        own = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not own & cells, f"{panel['title']} overlaps another panel"
        assert panel["id"] not in ids, panel["title"]
        cells |= own
        ids.add(panel["id"])
