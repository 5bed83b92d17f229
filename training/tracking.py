"""Where a run leaves its figures: `history.jsonl` in its folder, and MLflow unless that is switched off.

The only module that knows MLflow.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config import TrackingConfig
from training.errors import TrainingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

HISTORY = "history.jsonl"
_SQLITE = "sqlite:///"


class Tracker:
    """The figures of one run. A resumed run goes on where its state says, in both places."""

    def __init__(self, folder: Path, config: TrackingConfig) -> None:
        self._path = folder / HISTORY
        self._mlflow = _Mlflow(config) if config.enabled else None

    def start(self, name: str, parameters: Iterable[tuple[str, Any]], step: int, run_id: str | None) -> str | None:
        """Begin at `step`; what an interrupted run wrote beyond it is dropped. Returns MLflow's id of the run."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_history(self._path.parent) if line["step"] <= step] if step else []
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        return self._mlflow.start(name, parameters, run_id) if self._mlflow else None

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep `figures` of `step`."""
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": step, **figures}) + "\n")
        if self._mlflow:
            self._mlflow.log(step, figures)

    def text(self, name: str, text: str) -> None:
        """Keep a text, such as the outputs of a validation."""
        if self._mlflow:
            self._mlflow.client.log_text(self._mlflow.run_id, text, name)

    def finish(self, status: str, artefacts: Iterable[Path] = ()) -> None:
        """End with `FINISHED`, `KILLED` or `FAILED`, and keep folders and files."""
        if self._mlflow:
            self._mlflow.finish(status, artefacts)


def read_history(folder: Path) -> list[dict[str, float]]:
    """Every line of a run's history; a last line that was cut off by a crash is left out."""
    if not (folder / HISTORY).is_file():
        return []
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@dataclass
class _Mlflow:
    config: TrackingConfig
    run_id: str = ""

    def __post_init__(self) -> None:
        import mlflow  # takes seconds: only where it is used
        from mlflow.exceptions import MlflowException

        try:
            _make_room(self.config.uri)
            self.client: MlflowClient = mlflow.MlflowClient(self.config.uri)
            found = self.client.get_experiment_by_name(self.config.experiment)
        except (MlflowException, OSError) as error:
            raise TrainingError(
                f"tracking.uri is {self.config.uri}: {error}; mend it or pass tracking.enabled=false"
            ) from error
        self._experiment = (
            found.experiment_id
            if found
            else self.client.create_experiment(self.config.experiment, artifact_location=_artefacts(self.config.uri))
        )

    def start(self, name: str, parameters: Iterable[tuple[str, Any]], run_id: str | None) -> str:
        from mlflow.entities import Param

        if run_id:
            self.client.set_terminated(run_id, "RUNNING")
            self.run_id = run_id
            return run_id
        self.run_id = self.client.create_run(self._experiment, run_name=name).info.run_id
        values = [Param(key, str(value)[:6000]) for key, value in parameters]
        for first in range(0, len(values), 100):  # MLflow takes no more at once
            self.client.log_batch(self.run_id, params=values[first : first + 100])
        return self.run_id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def finish(self, status: str, artefacts: Iterable[Path]) -> None:
        for path in artefacts:
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), path.name)
            elif path.is_file():
                self.client.log_artifact(self.run_id, str(path))
        self.client.set_terminated(self.run_id, status)


def _make_room(uri: str) -> None:
    if uri.startswith(_SQLITE):
        Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)


def _artefacts(uri: str) -> str | None:
    # Beside the database; MLflow's own choice would be the working directory.
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).resolve().parent / "artefacts").as_uri()
