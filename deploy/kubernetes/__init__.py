"""Kubernetes: a kustomize base, what scales and watches it, and overlays for what it runs on."""
