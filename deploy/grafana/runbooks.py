"""The runbooks of deploy/README.md as a dashboard, so that a panel's link needs no address of this repository."""

import re

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models.text import TextMode

from deploy.grafana.panels import NAMES, RUNBOOKS, runbook_id
from deploy.queries import FOLDER


def runbooks() -> dashboard.Dashboard:
    """LexiMind: runbooks."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    made = (
        dashboard.Dashboard("LexiMind: runbooks")
        .uid(RUNBOOKS)
        .description("What each alert means, how to look closer, what to do; from deploy/README.md.")
        .tags(["leximind"])
        .readonly()
    )
    for alert in NAMES:
        section = re.search(rf"^### {alert}\n\n(.+?)\s*(?=^##|\Z)", readme, re.MULTILINE | re.DOTALL)
        assert section, f"deploy/README.md has no section ### {alert}"
        panel = text.Panel().id(runbook_id(alert)).title(alert).span(12).height(9)
        made = made.with_panel(panel.mode(TextMode.MARKDOWN).content(section[1]))
    return made
