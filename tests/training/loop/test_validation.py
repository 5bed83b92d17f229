"""Validation of a run: the metric, the folders that a server can load, and nothing that changes the training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.storage.checkpoint import load_checkpoint
from model.tasks import Head
from support.training_runs import equal, trainer
from training.errors import TrainingError
from training.evaluation.result import Result, Sample
from training.evaluation.scores import mean
from training.loop.trainer import Trainer
from training.loop.validation import check_metric, figures, shown

CPU = torch.device("cpu")


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Trainer:
    return trainer(data, tmp_path / "run", "loop.evaluate_rows=2")


def test_the_mean_of_tasks_counts_each_task_once() -> None:
    scores = {
        "summaries.a.rougeL": 0.2,
        "summaries.b.rougeL": 0.4,
        "summaries.a.rouge1": 0.9,
        "summaries.a.lead.rougeL": 0.9,
        "topic.accuracy": 0.8,
        "topic.macro_f1": 0.1,
        "tags.macro_f1": 0.5,
        "tags.label.late": 0.9,
        "tags.tfidf.macro_f1": 0.9,
    }
    heads = [Head("topic", "single_label", ("a", "b")), Head("tags", "multi_label", ("late", "rude"), (0.5, 0.5))]
    result = Result("dev", scores={name: mean([value]) for name, value in scores.items()}, heads=heads)
    found = figures(result)
    assert found.pop("overall") == pytest.approx(np.mean([0.3, 0.8, 0.5]))
    assert found == {name: scores[name] for name in scores if not any(x in name for x in (".lead", ".label", ".tfidf"))}


def test_validating_draws_no_random_number_and_leaves_the_model(run: Trainer) -> None:
    run.one_step()
    before = {name: tensor.clone() for name, tensor in run.objective.model.state_dict().items()}
    generator = torch.get_rng_state()
    run.validation(run.objective.model, 1)
    assert torch.equal(torch.get_rng_state(), generator)
    assert equal(run.objective.model.state_dict(), before)
    assert run.objective.model.training
    run.close()


def test_the_newest_is_written_at_once_and_the_best_when_it_is_kept(run: Trainer) -> None:
    run.validation(run.objective.model, 3)
    assert not (run.folder / "checkpoint").exists()
    saved = load_checkpoint(run.folder / "last", CPU)
    assert saved.manifest["training"]["step"] == 3
    assert "overall" in saved.manifest["dev"]
    run.validation.keep()
    assert load_checkpoint(run.folder / "checkpoint", CPU).manifest["files"] == saved.manifest["files"]
    run.close()


def test_what_was_fitted_on_dev_is_what_is_saved(run: Trainer) -> None:
    result = run.validation(run.objective.model, 1)
    saved = load_checkpoint(run.folder / "last", CPU).tasks
    assert {head.name: head for head in saved.heads} == {head.name: head for head in result.heads}
    run.close()


def test_commands_of_a_resumed_run_follow_each_other(run: Trainer) -> None:
    validation = run.validation
    now = validation.commands()[0]["command"]
    earlier = [{"from_step": 0, "command": ["first"]}, {"from_step": 4, "command": ["second"]}]
    validation.resume_from([*earlier, {"from_step": 9, "command": ["lost"]}], 8)
    assert validation.commands() == [*earlier, {"from_step": 8, "command": now}]
    run.close()


@pytest.mark.parametrize("name", ["overall", "summaries.dialogsum.rougeL", "topic.accuracy", "emotions.macro_f1"])
def test_metrics_of_the_split_are_known(name: str, run: Trainer) -> None:
    check_metric(name, run.validation.split, run.validation.tasks)
    run.close()


@pytest.mark.parametrize(
    ("name", "nearest"), [("topic.acuracy", "topic.accuracy"), ("summaries.dialogsum.rouge_l", "summaries.dialogsum")]
)
def test_another_metric_is_refused_with_the_nearest(name: str, nearest: str, run: Trainer) -> None:
    with pytest.raises(TrainingError, match=rf"loop.metric is {name}, which no validation gives.*{nearest}"):
        check_metric(name, run.validation.split, run.validation.tasks)
    run.close()


def test_samples_are_of_the_source_that_is_answered_most_freely() -> None:
    result = Result(
        "dev",
        rows={"summaries.copied": 1, "summaries.free": 1},
        facts={"summaries.copied": {"new_bigrams": 0.0}, "summaries.free": {"new_bigrams": 0.6}},
        samples=[[Sample("copied row 1", "", "theirs")], [Sample("free row 1", "", "ours")]],
    )
    assert shown(result) == [("free row 1", "ours")]
    assert shown(Result("dev")) == []
