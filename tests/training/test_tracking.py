"""Figures of real runs, where a person looks for them."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf
from small_runs import composed, trainer

from model.checkpoint import load_checkpoint
from training.config import TrackingConfig
from training.errors import TrainingError
from training.run import finish_run
from training.tracking import Tracker, read_history
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
    monkeypatch.setattr("training.meter.peak_operations", lambda _: 1e12)  # as on a known GPU
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
    before = json.loads((first / "manifest.json").read_text())["training"]
    assert second.manifest["training"]["started_from"] == {"checkpoint": "first", "training": before}
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
