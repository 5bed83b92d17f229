"""Every PromQL expression of the dashboards and the rules, for what checks or draws them; knows no Prometheus."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((FOLDER / "prometheus" / "rules").glob("*.yml"))


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, those inside of rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """(where it stands, PromQL) of every panel and every variable; Grafana's own variables are still in it."""
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in panels(dashboard):
            yield from ((f"{path.stem}: {panel['title']}", target["expr"]) for target in panel.get("targets", []))
        for variable in dashboard.get("templating", {}).get("list", []):
            if variable["type"] != "query":
                continue
            query = variable["query"] if isinstance(variable["query"], str) else variable["query"]["query"]
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
            assert asked, query
            yield f"{path.stem}: ${variable['name']}", f"count by ({asked[2]}) ({asked[1]})"


def rules() -> Iterator[dict[str, Any]]:
    """Every recording rule and alert, as it stands in its file."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def rule_queries() -> Iterator[tuple[str, str]]:
    """(the rule's name, PromQL)."""
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
