"""Recording rules and alerts: promtool's opinion, its unit tests, and a runbook for each."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from app.main import create_app
from app.settings import Settings
from deploy.queries import FOLDER, RULES, rules

RULES_TEST = FOLDER.parent / "tests" / "deploy" / "rules_test.yml"
ALERTS = [rule for rule in rules() if "alert" in rule]
README = (FOLDER / "README.md").read_text(encoding="utf-8")

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def promtool(*arguments: object) -> None:
    ran = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", *RULES)


@needs_promtool
def test_alerts_fire_when_they_should_and_are_silent_otherwise() -> None:
    promtool("test", "rules", RULES_TEST)


def test_every_alert_is_tested() -> None:
    cases = [
        case for test in yaml.safe_load(RULES_TEST.read_text())["tests"] for case in test.get("alert_rule_test", [])
    ]
    fired = {(case["alertname"], one["exp_labels"]["severity"]) for case in cases for one in case.get("exp_alerts", [])}
    assert fired == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_every_alert_says_what_is_wrong_and_where_its_runbook_is(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket", "info")
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"] == f"deploy/README.md#{alert['alert'].lower()}"
    section = re.search(rf"^### {alert['alert']}\n\n(.+?)(?=^##|\Z)", README, re.MULTILINE | re.DOTALL)
    assert section, f"deploy/README.md has no section ### {alert['alert']}"
    assert len(section[1].split()) > 20


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (LexiMind\w+)$", README, re.MULTILINE)) == {alert["alert"] for alert in ALERTS}


def test_requests_for_work_are_those_that_the_service_takes() -> None:
    selectors = {one for rule in rules() for one in re.findall(r'route=~"(.+?)"', rule["expr"])}
    assert len(selectors) == 1
    (selector,) = selectors
    paths = create_app(Settings()).openapi()["paths"]
    assert {path for path in paths if re.fullmatch(selector, path)} == {path for path in paths if "post" in paths[path]}
