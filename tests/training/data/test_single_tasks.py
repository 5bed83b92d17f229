"""Any task alone: its groups named, no other task's data there, no other head made."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.storage.checkpoint import load_checkpoint
from support.depth import only_in_full
from support.training_runs import composed, trainer, write_data
from training.config import parse_config
from training.errors import DataError, TrainingError
from training.evaluate import main

FOLDERS = {"summaries": "summarization", "emotions": "emotion", "topics": "topic"}


def only(folder: Path, *groups: str) -> Path:
    """A data folder that has these and nothing else."""
    write_data(folder, 60)  # enough words for a vocabulary of one task's texts
    for group in FOLDERS.keys() - set(groups):
        shutil.rmtree(folder / FOLDERS[group])
    return folder


@pytest.mark.parametrize(
    ("groups", "heads", "scored"),
    [
        (("summaries",), {}, "summaries.dialogsum.rougeL"),
        (("topics",), {"topic": 4}, "topic.accuracy"),
        (("emotions",), {"emotions": 28}, "emotions.macro_f1"),
        pytest.param(("topics", "emotions"), {"emotions": 28, "topic": 4}, "topic.accuracy", marks=only_in_full),
    ],
)
def test_a_task_alone_asks_for_no_other_data(
    groups: tuple[str, ...], heads: dict[str, int], scored: str, tmp_path: Path
) -> None:
    data = only(tmp_path / "data", *groups)
    alone = (f"data.only=[{','.join(groups)}]", "data.vocabulary_size=310", "loop.steps=2", "loop.evaluate_every=1")
    run = trainer(data, tmp_path / "run", *alone, f"loop.metric={scored}")
    run.run()
    again = trainer(data, tmp_path / "run", *alone, f"loop.metric={scored}", f"resume_from={tmp_path / 'run'}")
    assert again.step == 2
    again.close()
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint", torch.device("cpu"))
    assert checkpoint.model.config.heads == heads
    main([str(checkpoint.folder), "--data", str(data), "--output", str(tmp_path / "report"), "--card", "--rows", "4"])
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert scored in report["scores"]
    assert ("summaries" in groups) == any(name.startswith("summaries.") for name in report["scores"])
    assert ("none were scored" in (checkpoint.folder / "MODEL_CARD.md").read_text()) == ("summaries" not in groups)


def test_headlines_alone_are_learned_from_topics(tmp_path: Path) -> None:
    options = ("data.only=[topics]", "data.groups.topics.readers=[headlines]", "data.vocabulary_size=310")
    options = (*options, "data.groups.topics.buckets=[[64,32]]")
    run = trainer(only(tmp_path / "data", "topics"), tmp_path / "run", *options)
    assert list(run.validation.split.summaries) == ["ag_headline"]


def test_a_head_that_is_not_trained_stays_with_its_thresholds(data: Path, tmp_path: Path) -> None:
    trainer(data, tmp_path / "first", "loop.steps=1").run()
    first = load_checkpoint(tmp_path / "first" / "checkpoint", torch.device("cpu"))
    options = ("loop.steps=1", "data.only=[topics]", "loop.freeze=[encoder,embedding]", f"init_from={first.folder}")
    trainer(data, tmp_path / "second", *options).run()
    second = load_checkpoint(tmp_path / "second" / "checkpoint", torch.device("cpu"))
    assert second.tasks.head("emotions") == first.tasks.head("emotions")
    before, after = first.model.heads, second.model.heads
    assert torch.equal(after["emotions"].linear.weight, before["emotions"].linear.weight)
    assert not torch.equal(after["topic"].linear.weight, before["topic"].linear.weight)


def test_a_group_that_is_not_there_is_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"data\.only: no group topcs; did you mean topics\?"):
        trainer(data, tmp_path / "run", "data.only=[topcs]")
    with pytest.raises(TrainingError, match=r"data\.only: .*at least 1"):
        parse_config(composed(data, tmp_path / "run", "data.only=[]"))


def test_a_folder_without_any_task_is_no_data_folder(checkpoint_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has none of the folders summarization, emotion, topic, heads"):
        main([str(checkpoint_folder), "--data", str(tmp_path)])
    with pytest.raises(DataError, match=r"train\.jsonl\.gz: no such file; .* leave its group out \(data\.only\)"):
        trainer(only(tmp_path / "data", "emotions"), tmp_path / "run")
