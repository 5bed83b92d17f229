"""Figures of a real evaluation and a real run are there, are PNG, and say the same thing twice."""

from pathlib import Path

from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from model.storage.checkpoint import Checkpoint
from support.training_runs import trainer
from training.evaluation.predict import Predictor
from training.evaluation.result import Result, evaluate, read_split
from training.plots.curves import draw_curves
from training.plots.results import draw
from training.tracking.tracker import read_history

PNG = b"\x89PNG\r\n\x1a\n"


def result(checkpoint: Checkpoint, data: Path) -> Result:
    predictor = Predictor(TorchBackend(checkpoint.model), checkpoint.tokenizer, checkpoint.tasks)
    split = read_split(data, "dev", checkpoint.tasks)
    return evaluate(predictor, split, 4, DecodingOptions(max_new_tokens=4))


def test_an_evaluation_is_drawn(checkpoint: Checkpoint, data: Path, tmp_path: Path) -> None:
    drawn = draw(result(checkpoint, data), tmp_path, "random")
    assert {path.name for path in drawn.values()} == {"lengths.png", "emotions.png", "topic.png", "reliability.png"}
    assert all(path.read_bytes().startswith(PNG) for path in drawn.values())


def test_equal_results_are_equal_files(checkpoint: Checkpoint, data: Path, tmp_path: Path) -> None:
    found = result(checkpoint, data)
    one, two = (draw(found, tmp_path / name, "random") for name in "ab")
    assert all(one[shown].read_bytes() == two[shown].read_bytes() for shown in one)


def test_what_was_not_scored_is_not_drawn(checkpoint: Checkpoint, data: Path, tmp_path: Path) -> None:
    found = result(checkpoint, data)
    found.heads = [head for head in found.heads if head.name != "topic"]
    assert {path.name for path in draw(found, tmp_path, "x").values()} == {
        "lengths.png",
        "emotions.png",
        "reliability.png",
    }


def test_the_course_of_a_run_is_drawn_from_its_history(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "loop.steps=2", "loop.log_every=1")
    run.run()
    (path,) = draw_curves(read_history(tmp_path / "run"), tmp_path / "plots" / "training.png", "run")
    assert path.read_bytes().startswith(PNG)


def test_a_run_without_history_draws_nothing(tmp_path: Path) -> None:
    assert draw_curves([], tmp_path / "training.png", "run") == []
    assert not (tmp_path / "training.png").exists()


def test_lengths_count_the_words_of_every_row(checkpoint: Checkpoint, data: Path) -> None:
    lengths = result(checkpoint, data).lengths["dialogsum"]
    assert len(lengths.source) == len(lengths.reference) == len(lengths.output) == 4
    assert min(lengths.source) > max(lengths.reference) > 0
