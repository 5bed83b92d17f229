"""What runs around the service: Prometheus's rules, Grafana's dashboards, compose and Kubernetes; not in the wheel."""
