"""The dashboards' JSON is what the code makes, and whoever looks at a panel learns what it shows and what to do."""

import json
from typing import Any

import pytest

from deploy.grafana.__main__ import dashboards
from deploy.queries import DASHBOARDS, panels, rules

MADE = {name: json.loads(text) for name, text in dashboards().items()}
# Of all dashboards but the runbooks', which has texts alone.
PANELS = [(name, one) for name, of in MADE.items() for one in panels(of) if one.get("targets")]


def test_committed_json_is_what_the_code_makes() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in DASHBOARDS}
    assert committed == dashboards(), "run python -m deploy.grafana and commit what it writes"


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=lambda one: one if isinstance(one, str) else one["title"])
def test_every_panel_has_a_unit_a_description_and_limits(name: str, panel: dict[str, Any]) -> None:
    assert len(panel["description"].split()) >= 3, name
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert all(target["legendFormat"] for target in panel["targets"])
    if panel["type"] == "timeseries":
        drawn = "thresholdsStyle" in panel["fieldConfig"]["defaults"]["custom"]
        assert drawn is (len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1)


def test_every_alert_is_linked_from_a_panel_to_its_runbook() -> None:
    runbooks = MADE["runbooks.json"]
    titles = {panel["id"]: panel["title"] for panel in runbooks["panels"]}
    linked = {link["title"]: link["url"] for _, panel in PANELS for link in panel.get("links", [])}
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert linked.keys() == {f"Runbook: {alert}" for alert in alerts}
    for title, url in linked.items():
        address, _, panel_id = url.partition("?viewPanel=")
        assert address == f"/d/{runbooks['uid']}"
        assert f"Runbook: {titles[int(panel_id)]}" == title


def test_dashboards_link_to_each_other() -> None:
    assert len({of["uid"] for of in MADE.values()}) == len(MADE)
    assert all("leximind" in of["tags"] for of in MADE.values())
    assert all(of["links"][0]["tags"] == ["leximind"] for name, of in MADE.items() if name != "runbooks.json")
