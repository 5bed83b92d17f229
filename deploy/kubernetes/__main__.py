"""Writes the alerts and recording rules as the Prometheus operator takes them: `python -m deploy.kubernetes`."""

import yaml

from deploy.queries import FOLDER, RULES

TARGET = FOLDER / "kubernetes" / "monitoring" / "prometheusrule.yaml"


def prometheus_rule() -> str:
    """A PrometheusRule of every group of deploy/prometheus/rules."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "leximind"},
        "spec": {"groups": groups},
    }
    text: str = yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=1000)
    return f"# Made of deploy/prometheus/rules by python -m deploy.kubernetes.\n{text}"


if __name__ == "__main__":
    TARGET.write_text(prometheus_rule(), encoding="utf-8")
