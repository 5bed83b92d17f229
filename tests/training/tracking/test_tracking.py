"""Figures of real runs, where a person looks for them."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf

from model.storage.checkpoint import load_checkpoint
from support.training_runs import composed, trainer
from training.config import TrackingConfig
from training.errors import TrainingError
from training.run import finish_run
from training.tracking.tracker import Tracker, read_history
from training.train import train

# SQLAlchemy's pool leaves connections to the collector; MLflow uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::sqlalchemy.exc.SADeprecationWarning",
)


def test_a_run_is_kept_and_a_resumed_one_goes_on_in_it(data: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}"
    options = ("tracking.enabled=true", f"tracking.uri={uri}", "loop.evaluate_every=2")
    run = trainer(data, tmp_path / "run", *options, "loop.steps=2")
    run.run_id = run.tracker.start("first", [("loop.steps", 2)], 0, None)
    run.run()
    finish_run(run, "FINISHED")
    client = MlflowClient(uri)
    kept = client.get_run(run.run_id)
    assert kept.data.params == {"loop.steps": "2"}
    assert {"train/lr", "train/tokens_per_s", "dev/overall", "dev/topic.accuracy"} <= kept.data.metrics.keys()
    assert (tmp_path / "tracking" / "artefacts" / run.run_id / "artifacts" / "checkpoint").is_dir()

    again = trainer(data, tmp_path / "run", *options, "loop.steps=4", f"resume_from={tmp_path / 'run'}")
    assert again.tracker.start("second", [], again.step, again.run_id) == run.run_id
    again.run()
    finish_run(again, "FINISHED")
    steps = [metric.step for metric in client.get_metric_history(run.run_id, "dev/overall")]
    assert steps == [2, 4]


def test_what_a_run_was_and_did_can_be_read_in_mlflow(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.meter.peak_operations", lambda _: 1e12)  # as on a known GPU
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    options = ("tracking.enabled=true", f"tracking.uri={uri}", "loop.steps=2", "loop.seed=7")
    train(composed(data, tmp_path / "run", *options), ["python -m training.train"])
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("leximind").experiment_id])  # type: ignore[union-attr]
    assert run.info.status == "FINISHED"
    assert run.data.params["loop.seed"] == "7"
    assert run.data.metrics["train/mfu"] > 0
    kept = tmp_path / "artefacts" / run.info.run_id / "artifacts"
    assert OmegaConf.load(kept / "config.yaml").loop.seed == 7
    hashes = json.loads((kept / "data.json").read_text())["files"]
    path = "topic/train.jsonl.gz"
    assert hashes[path] == hashlib.sha256((data / path).read_bytes()).hexdigest()
    assert (kept / "outputs" / "step-2.md").read_text().startswith("| row | output |")
    assert (kept / "plots" / "training.png").read_bytes() == (tmp_path / "run" / "plots" / "training.png").read_bytes()
    load_checkpoint(kept / "checkpoint", torch.device("cpu"))


def test_a_run_tells_from_which_weights_it_started(data: Path, tmp_path: Path) -> None:
    short = ("loop.steps=1", "loop.evaluate_every=1", "loop.evaluate_rows=2")
    trainer(data, tmp_path / "first", *short).run()
    first = tmp_path / "first" / "checkpoint"
    trainer(data, tmp_path / "second", *short, f"init_from={first}").run()
    second = load_checkpoint(tmp_path / "second" / "checkpoint", torch.device("cpu"))
    before = {name: json.loads((first / "manifest.json").read_text())[name] for name in ("training", "terms")}
    assert second.manifest["training"]["started_from"] == {"checkpoint": "first", **before}
    assert "It started from the weights of first. Trained with" in (second.folder / "MODEL_CARD.md").read_text()


def test_history_drops_what_came_after_the_saved_step(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, TrackingConfig(enabled=False, uri="", experiment=""))
    tracker.start("run", [], 0, None)
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 1 / step})
    with (tmp_path / "history.jsonl").open("a") as out:
        out.write('{"step": 4, "lo')  # cut off by a crash
    tracker.start("run", [], 2, None)
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2]


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"tracking\.enabled=false"):
        Tracker(tmp_path, TrackingConfig(enabled=True, uri=f"sqlite:///{tmp_path}/file/mlflow.db", experiment="x"))


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """As while another program writes."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def config(folder: Path) -> TrackingConfig:
    return TrackingConfig(enabled=True, uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="x")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: MLflow's migrations take seconds."""
    folder = tmp_path_factory.mktemp("empty")
    Tracker(folder, config(folder)).finish("FINISHED")
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path: Path, empty_database: Path) -> Path:
    """A folder with a database that has the experiment, whose artefacts go to its own folder."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", [f"{tmp_path}/artefacts"])
    return tmp_path


def kept(folder: Path, run_id: str | None, name: str) -> list[int]:
    return [metric.step for metric in MlflowClient(config(folder).uri).get_metric_history(str(run_id), name)]


def test_a_database_that_is_locked_meanwhile_loses_nothing(place: Path) -> None:
    tracker = Tracker(place, config(place))
    run_id = tracker.start("run", [("a", 1)], 0, None)
    with locked(place / "mlflow.db"):
        for step in range(1, 4):
            tracker.log(step, {"loss": 1 / step})
            assert read_history(place)[-1] == {"step": step, "loss": 1 / step}
    tracker.finish("FINISHED")
    assert kept(place, run_id, "loss") == [1, 2, 3]
    assert MlflowClient(config(place).uri).get_run(str(run_id)).info.status == "FINISHED"


def test_a_database_that_stays_locked_ends_no_run(
    data: Path, place: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tracker.__init__, "__defaults__", (0.2,))  # seconds to wait for MLflow, not twenty
    options = ("tracking.enabled=true", f"tracking.uri={config(place).uri}", "loop.steps=2")
    with locked(place / "mlflow.db"):
        train(composed(data, place / "run", *options), ["python -m training.train"])
    assert {line["step"] for line in read_history(place / "run")} == {2}
    assert "the run goes on" in caplog.text
    assert "lacks figures of this run; history.jsonl has all" in caplog.text


def test_a_run_that_mlflow_has_lost_is_begun_anew(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(place, config(place))
    run_id = tracker.start("run", [], 4, "0" * 32)
    tracker.log(5, {"loss": 1.0})
    tracker.finish("FINISHED")
    assert run_id != "0" * 32
    assert kept(place, run_id, "loss") == [5]
    assert "a new one is begun" in caplog.text


def test_artefacts_that_have_no_place_do_not_hold_up_the_figures(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(place, config(place))
    run_id = tracker.start("run", [], 0, None)
    (place / "artefacts").write_text("in the way")
    tracker.text("config.yaml", "loop: {}")
    tracker.log(1, {"loss": 1.0})
    tracker.finish("FINISHED")
    assert kept(place, run_id, "loss") == [1]
    assert "config.yaml left out" in caplog.text


def test_history_is_complete_after_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(tmp_path, TrackingConfig(enabled=False, uri="", experiment=""))
    tracker.start("run", [], 0, None)
    path = tmp_path / "history.jsonl"
    tracker.log(1, {"loss": 1.0})
    path.rename(tmp_path / "aside")
    path.symlink_to("/dev/full")  # every write to it finds no space
    tracker.log(2, {"loss": 0.5})
    assert "1 lines not written yet" in caplog.text
    path.unlink()
    (tmp_path / "aside").rename(path)
    tracker.log(3, {"loss": 0.2})
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3]


_FIRST_RUN = """
import sys
from pathlib import Path
from training.config import TrackingConfig
from training.tracking.tracker import Tracker
tracker = Tracker(Path(sys.argv[1]), TrackingConfig(True, sys.argv[2], "x"))
tracker.start("run", [("a", 1)], 0, None)
tracker.log(1, {"loss": 1.0})
tracker.finish("FINISHED")
"""


@pytest.mark.slow
def test_first_runs_started_together_are_all_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FIRST_RUN]
    runs = [
        subprocess.Popen([*command, str(tmp_path / name), config(tmp_path).uri], stderr=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for run in runs:
        _, shown = run.communicate(timeout=200)
        assert run.returncode == 0, shown
    client = MlflowClient(config(tmp_path).uri)
    experiment = client.get_experiment_by_name("x")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert [run.data.metrics for run in found] == [{"loss": 1.0}] * 2
