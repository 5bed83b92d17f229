"""Grafana's dashboards as code: `python -m deploy.grafana` writes the JSON files that Grafana is provisioned with."""
