"""What cannot be trained on is refused before the first step, with file, line and remedy; a NaN stops the run."""

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import ModelError
from support.training_runs import composed, trainer, write_data, write_jsonl
from training.config import parse_config
from training.errors import DataError, NotFinite, TrainingError
from training.overrides import check_overrides


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A data folder to damage."""
    return write_data(tmp_path / "data")


def test_truncated_gzip_names_the_file(broken: Path, tmp_path: Path) -> None:
    path = broken / "emotion" / "train.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"emotion/train\.jsonl\.gz: damaged or truncated"):
        trainer(broken, tmp_path / "run")


def test_corrupt_gzip_names_the_file(broken: Path, tmp_path: Path) -> None:
    path = broken / "topic" / "train.jsonl.gz"
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"topic/train\.jsonl\.gz"):
        trainer(broken, tmp_path / "run")


def test_wrong_label_names_file_and_line(broken: Path, tmp_path: Path) -> None:
    rows = [{"text": "fine", "labels": ["joy"]}, {"text": "odd", "labels": ["hangry"]}]
    write_jsonl(broken / "emotion" / "train.jsonl.gz", rows)
    with pytest.raises(DataError, match=r"emotion/train\.jsonl\.gz:2: label 'hangry' is none of"):
        trainer(broken, tmp_path / "run")


def test_missing_column_names_file_and_line(broken: Path, tmp_path: Path) -> None:
    write_jsonl(broken / "summarization" / "train.jsonl.gz", [{"document": "x", "source": "y"}])
    with pytest.raises(DataError, match=r"summarization/train\.jsonl\.gz:1: the row lacks"):
        trainer(broken, tmp_path / "run")


_SUMMARY = {"document": "A long text.", "summary": "A text.", "source": "s"}
_TOPIC = {"title": "A title", "description": "What it is about.", "label": "World"}


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("emotion", {"text": None, "labels": ["joy"]}, "text is null; it must be a text in quotes"),
        ("emotion", {"text": 5, "labels": ["joy"]}, "text is 5; it must be a text in quotes"),
        ("emotion", {"text": "\ud83d alone", "labels": ["joy"]}, "text holds half of a surrogate pair"),
        ("emotion", {"text": "fine", "labels": "joy"}, 'labels is "joy"; it must be a list of names, such as ["joy"]'),
        ("emotion", {"text": "fine", "labels": [17]}, "a name in labels is 17; it must be a text in quotes"),
        ("topic", _TOPIC | {"description": ""}, "description is empty; give it a text or remove the row"),
        ("topic", _TOPIC | {"description": None}, "description is null; it must be a text in quotes"),
        ("topic", _TOPIC | {"title": 7}, "title is 7; it must be a text in quotes"),
        ("topic", _TOPIC | {"label": 2}, "label is 2; it must be a text in quotes"),
        ("summarization", _SUMMARY | {"summary": " "}, "summary is empty; give it a text or remove the row"),
        ("summarization", _SUMMARY | {"source": None}, "source is null; it must be a text in quotes"),
    ],
)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_wrong_cell_names_file_line_and_remedy(
    split: str, task: str, row: dict[str, Any], expected: str, broken: Path, tmp_path: Path
) -> None:
    path = broken / task / f"{split}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    write_jsonl(path, [*rows, row])
    with pytest.raises(DataError, match=re.escape(f"{path}:{len(rows) + 1}: {expected}")):
        trainer(broken, tmp_path / "run")


def test_blank_lines_and_byte_order_marks_are_passed_over_with_a_count(
    broken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = broken / "emotion" / "train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        content = lines.read()
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.write(f"\ufeff{content}\n \n\ufeff{content}")  # two files with a mark, joined
    run = trainer(broken, tmp_path / "run")
    assert len(run.mixture.streams["emotions"][0].rows) == 48
    assert [r.getMessage() for r in caplog.records if r.name.startswith("training")] == [
        f"{path}: passed over 2 blank lines and 2 byte order marks"
    ]


@pytest.mark.parametrize(("split", "expected"), [("train", "finds no train rows"), ("dev", "dev has 0 rows")])
def test_empty_split_is_refused(split: str, expected: str, broken: Path, tmp_path: Path) -> None:
    write_jsonl(broken / "emotion" / f"{split}.jsonl.gz", [])
    with pytest.raises(DataError, match=expected):
        trainer(broken, tmp_path / "run")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("loop.stps=3", "no such key; did you mean loop.steps?"),
        ("optimiser.lr=1", "did you mean optimizer.lr?"),
        ("training=mediun", "no such choice; did you mean medium?"),
        ("model.d_modle=3", "did you mean model.d_model?"),
    ],
)
def test_mistyped_override_suggests_the_nearest(typed: str, expected: str) -> None:
    with pytest.raises(TrainingError, match=expected.replace("?", r"\?")):
        check_overrides(["training=dev", typed])


def test_right_overrides_pass() -> None:
    check_overrides(["model=tiny", "loop.steps=3", "data.groups.topics.tokens=5", "hydra.run.dir=x", "--cfg", "job"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("+loop.stepz=1", r"loop\.stepz: no such key; did you mean steps\?"),
        ("+model.dropuot=0.1", r"model\.dropuot: no such key; did you mean dropout\?"),
        ("loop.steps=many", r"loop\.steps: .*\(got 'many'\)"),
        ("loop.steps=-1", r"loop\.steps: .*greater than or equal to 1 \(got -1\)"),
        ("+nosuchkey=3", r"nosuchkey: no such key; --help shows those that there are"),
        ("optimizer.name=adam", r"optimizer\.name: .*adamw"),
        ("optimizer.name=muon", "matrix_lr is None with muon; give it one"),
        ("optimizer.matrix_lr=0.1", "with adamw; leave it null"),
        ("optimizer.lr=0", r"optimizer\.lr is 0.*above 0"),
        ("loss.focus_negative=0.5", r"must be 0 \(off\) or at least 1"),
        ("mixture.temperature=0.5", "must be 1"),
        ("loop.metric=topic.acuracy", r"did you mean topic\.accuracy\?"),
        ("loop.freeze=[encodr]", r"the model has no encodr; did you mean encoder\?"),
        ("data.groups.topics.readers=[topcs]", r"no reader topcs; did you mean topics\?"),
        ("model.num_tokens=200", "the vocabulary has 370 pieces"),
        ("data.vocabulary_size=100000", "which these texts do not give"),
        ("init_from=/nowhere", "/nowhere: no such folder"),
    ],
)
def test_impossible_configuration_says_what_to_do(override: str, expected: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises((TrainingError, ModelError), match=expected):
        trainer(data, tmp_path / "run", override)


def test_every_key_of_the_defaults_is_known_to_the_schema(data: Path, tmp_path: Path) -> None:
    for group in ("dev", "medium", "full"):
        parse_config(composed(data, tmp_path, f"training={group}"))
    for model in ("base", "large", "small", "tiny"):
        parse_config(composed(data, tmp_path, f"model={model}"))


def test_nan_stops_the_run_and_names_its_rows(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "loop.steps=3")
    run.one_step()
    run.save()
    before = (tmp_path / "run" / "state.pt").read_bytes()
    with torch.no_grad():
        run.objective.model.heads["topic"].linear.bias[0] = math.nan
    with pytest.raises(NotFinite, match=r"step 1: the loss is nan on topics"):
        run.run()
    written = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    assert written["batches"][0]["group"] == "topics"
    assert written["batches"][0]["rows"]
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
