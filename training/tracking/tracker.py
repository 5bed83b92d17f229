"""Where a run records its figures: `history.jsonl` in its folder, and MLflow unless that is switched off.

The only module that knows MLflow. Neither place ends a run: what cannot be kept now is kept later, with a warning.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config import TrackingConfig
from training.errors import TrainingError
from training.tracking.retrying import RetryingCalls

if TYPE_CHECKING:
    from mlflow import MlflowClient

HISTORY = "history.jsonl"
_SQLITE = "sqlite:///"


_PATIENCE_S = 20.0  # how long beginning and end of a run wait for MLflow
_TRIES = 3  # of an artefact, which must not hold up the figures behind it

_log = logging.getLogger(__name__)


class Tracker:
    """The figures of one run. A resumed run goes on where its state says, in both places.

    Raises:
        TrainingError: `tracking.uri` names no place that MLflow can use.
    """

    def __init__(self, folder: Path, config: TrackingConfig, patience_s: float = _PATIENCE_S) -> None:
        self._path = folder / HISTORY
        self._unwritten: list[str] = []
        self._mlflow = _Mlflow(config, patience_s) if config.enabled else None
        self._run_id: str | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None as long as there is none."""
        return (self._mlflow.run_id if self._mlflow else None) or self._run_id

    def start(self, name: str, parameters: Iterable[tuple[str, Any]], step: int, run_id: str | None) -> str | None:
        """Begin at `step`; what an interrupted run wrote beyond it is dropped. Returns `run_id` as it is now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_history(self._path.parent) if line["step"] <= step] if step else []
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            _log.warning("%s: what came after step %d cannot be dropped (%s)", self._path, step, error)
        self._run_id = run_id
        if self._mlflow:
            self._mlflow.start(name, parameters, run_id)
        return self.run_id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep `figures` of `step`."""
        self._unwritten.append(json.dumps({"step": step, **figures}) + "\n")
        self._write()
        if self._mlflow:
            self._mlflow.log(step, figures)

    def text(self, name: str, text: str) -> None:
        """Keep a text, such as the outputs of a validation."""
        if self._mlflow:
            self._mlflow.text(name, text)

    def finish(self, status: str, artefacts: Iterable[Path] = ()) -> None:
        """End with `FINISHED`, `KILLED` or `FAILED`, and keep folders and files."""
        self._write()
        if self._mlflow:
            self._mlflow.finish(status, artefacts)

    def _write(self) -> None:
        if not self._unwritten:
            return
        size = self._path.stat().st_size if self._path.is_file() else 0
        try:
            with self._path.open("a", encoding="utf-8") as out:
                out.writelines(self._unwritten)
        except OSError as error:
            with suppress(OSError):  # half a line would spoil the one that follows
                os.truncate(self._path, size)
            _log.warning("%s: %d lines not written yet (%s)", self._path, len(self._unwritten), error)
        else:
            self._unwritten.clear()


def read_history(folder: Path) -> list[dict[str, float]]:
    """Every line of a run's history; a last line that was cut off by a crash is left out."""
    if not (folder / HISTORY).is_file():
        return []
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class _Mlflow:
    """MLflow's side: all its calls are made by one thread, since a locked database holds each up for 20 s."""

    def __init__(self, config: TrackingConfig, patience_s: float) -> None:
        import mlflow  # noqa: F401 - takes seconds: only where it is used

        self.run_id: str | None = None
        self._config, self._patience_s = config, patience_s
        self._client: MlflowClient
        self._refused: list[Exception] = []
        try:
            _make_room(config.uri)
        except OSError as error:
            raise self._unusable(error) from error
        self._calls = RetryingCalls(config.uri, _is_final)
        self._calls.submit("the experiment", self._connect)
        there = self._calls.wait(patience_s)
        if self._refused:
            self._calls.stop()
            raise self._unusable(self._refused[0])
        if not there:
            _log.warning("%s: not there yet; the run goes on, and %s has all figures", config.uri, HISTORY)

    def start(self, name: str, parameters: Iterable[tuple[str, Any]], run_id: str | None) -> None:
        from mlflow.entities import Param

        self._calls.submit("the run", lambda: self._begin(name, run_id))
        if not run_id:
            values = [Param(key, str(value)[:6000]) for key, value in parameters]
            for first in range(0, len(values), 100):  # MLflow takes no more at once
                self._batch("parameters", params=values[first : first + 100])
        self._calls.wait(self._patience_s)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._batch(f"step {step}", metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def text(self, name: str, text: str) -> None:
        self._calls.submit(name, lambda: self._client.log_text(str(self.run_id), text, name), _TRIES)

    def finish(self, status: str, artefacts: Iterable[Path]) -> None:
        if self._calls.wait(self._patience_s):
            for path in artefacts:
                self._calls.submit(path.name, lambda path=path: self._keep(path), _TRIES)  # type: ignore[misc]
            self._calls.submit(status, lambda: self._client.set_terminated(str(self.run_id), status), _TRIES)
            self._calls.wait(None)
        else:
            _log.warning("%s: lacks figures of this run; %s has all", self._config.uri, HISTORY)
        self._calls.stop()

    def _connect(self) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        name = self._config.experiment
        try:
            with _alone(self._config.uri):
                client = MlflowClient(self._config.uri)
                found = client.get_experiment_by_name(name)
            if not found:
                place = _artefacts(self._config.uri)
                try:
                    found = client.get_experiment(client.create_experiment(name, artifact_location=place))
                except MlflowException:
                    found = client.get_experiment_by_name(name)  # which another run made at this moment
                    if not found:
                        raise
        except Exception as error:
            if _is_final(error):
                self._refused.append(error)
            raise
        self._client, self._experiment = client, found.experiment_id

    def _begin(self, name: str, run_id: str | None) -> None:
        from mlflow.exceptions import MlflowException

        if run_id:
            try:
                self._client.set_terminated(run_id, "RUNNING")
                self.run_id = run_id
                return
            except MlflowException as error:
                if not _is_final(error):
                    raise
                _log.warning("%s: has no run %s, a new one is begun (%s)", self._config.uri, run_id, error)
        self.run_id = self._client.create_run(self._experiment, run_name=name).info.run_id

    def _batch(self, what: str, **entities: Any) -> None:
        self._calls.submit(what, lambda: self._client.log_batch(str(self.run_id), **entities))

    def _keep(self, path: Path) -> None:
        if path.is_dir():
            self._client.log_artifacts(str(self.run_id), str(path), path.name)
        elif path.is_file():
            self._client.log_artifact(str(self.run_id), str(path))

    def _unusable(self, error: Exception) -> TrainingError:
        return TrainingError(f"tracking.uri is {self._config.uri}: {error}; correct it or pass tracking.enabled=false")


def _is_final(error: Exception) -> bool:
    """Whether MLflow found the request wrong; locks, full disks and silent servers are 500 and above."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and int(error.get_http_status_code()) < 500  # type: ignore[no-untyped-call]


def _make_room(uri: str) -> None:
    if uri.startswith(_SQLITE):
        Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    # MLflow makes and migrates a new database on the first call; of two runs that do so at once both fail, and what
    # they leave is unusable.
    with ExitStack() as stack:
        if uri.startswith(_SQLITE):
            folder = os.open(Path(uri.removeprefix(_SQLITE)).parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def _artefacts(uri: str) -> str | None:
    # In the folder of the database; MLflow's own choice would be the working directory.
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).resolve().parent / "artefacts").as_uri()
