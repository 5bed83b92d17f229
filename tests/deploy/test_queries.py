"""Dashboards and rules ask only for metrics and labels that the service has, and ask in valid PromQL."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from app.metrics import Metrics
from deploy.queries import DASHBOARDS, FOLDER, dashboard_queries, panels, rule_queries, rules

# What Prometheus adds to every series that it scrapes.
TARGET_LABELS = {"job", "instance"}
KEYWORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
QUERIES = [*dashboard_queries(), *rule_queries()]


@functools.cache
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
    # A recording rule's name begins with the labels that are left, joined by _; an instance has its job too.
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    names |= {name: {"job", *name.partition(":")[0].split("_")} for name in recorded}
    return names | {"up": TARGET_LABELS, "ALERTS": {"alertname", "alertstate", "severity", "job"}}


def words(promql: str) -> tuple[dict[str, set[str]], set[str]]:
    """({metric: labels selected by}, labels grouped by), without a parser: what is neither function nor keyword."""
    promql = re.sub(r'"[^"]*"', '""', promql)
    promql = re.sub(r"\[[^\]]*\]|\boffset \w+", "", promql)
    groups = re.findall(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)", promql)
    promql = re.sub(r"\b(?:by|without|on|ignoring|group_left)\s*\([^)]*\)", "", promql)
    selected: dict[str, set[str]] = {}
    for name, selector in re.findall(
        r"\b([a-zA-Z_:][\w:]*)\b(?!\s*\()(?:\{([^}]*)\})?", re.sub(r"=~|!~|!=", "=", promql)
    ):
        if name not in KEYWORDS:
            selected.setdefault(name, set()).update(re.findall(r"(\w+)\s*=", selector))
    return selected, {label.strip() for group in groups for label in group.split(",") if label.strip()}


def test_there_is_something_to_check() -> None:
    assert len(QUERIES) >= 60


@pytest.mark.parametrize(("where", "promql"), QUERIES)
def test_query_names_metrics_and_labels_that_exist(where: str, promql: str) -> None:
    known = series()
    selected, groups = words(promql)
    assert selected, f"{where}: no metric in {promql}"
    assert selected.keys() <= known.keys(), f"{where}: no such metric: {sorted(selected.keys() - known.keys())}"
    for name, labels in selected.items():
        assert labels <= known[name], f"{where}: {name} has no label {sorted(labels - known[name])}"
    assert groups <= set().union(*(known[name] for name in selected)), f"{where}: no metric has {sorted(groups)}"


@pytest.mark.parametrize(("where", "promql"), QUERIES)
def test_quantiles_are_taken_over_buckets_summed_by_le(where: str, promql: str) -> None:
    for inner in re.findall(r"histogram_quantile\([\d.]+, (.*)", promql):
        grouped = re.match(r"sum by \(([^)]*)\) \(rate\((\w+)", inner)
        assert grouped, where
        assert "le" in grouped[1].split(", "), where
        assert grouped[2].endswith("_bucket"), where


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_accepts_every_query(tmp_path: Path) -> None:
    recorded = [
        {"record": f"dashboard:query:{i}", "expr": re.sub(r"\$__\w+", "40s", promql)}
        for i, (_, promql) in enumerate(dashboard_queries())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}), encoding="utf-8")
    checked = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_use_the_provisioned_datasource_and_do_not_overlap(path: Path) -> None:
    provisioned = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    cells: set[tuple[int, int]] = set()
    ids: set[int] = set()
    for panel in panels(json.loads(path.read_text(encoding="utf-8"))):
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] in uids, panel["title"]
        at = panel["gridPos"]
        own = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not own & cells, f"{panel['title']} overlaps another panel"
        assert panel["id"] not in ids, panel["title"]
        cells |= own
        ids.add(panel["id"])
