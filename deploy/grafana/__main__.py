"""Writes the dashboards: `python -m deploy.grafana`."""

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.capacity import capacity
from deploy.grafana.engine import engine
from deploy.grafana.experience import experience
from deploy.grafana.runbooks import runbooks
from deploy.queries import FOLDER


def dashboards() -> dict[str, str]:
    """{file name: its JSON}."""
    encoder = JSONEncoder(sort_keys=True, indent=1, ensure_ascii=False)
    made = {"experience": experience(), "engine": engine(), "capacity": capacity(), "runbooks": runbooks()}
    return {f"{name}.json": encoder.encode(one.build()) + "\n" for name, one in made.items()}


if __name__ == "__main__":
    for name, text in dashboards().items():
        (FOLDER / "grafana" / "dashboards" / name).write_text(text, encoding="utf-8")
