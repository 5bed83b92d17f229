"""What a person reads while training."""

import pytest

from training.loop.progress import TrainingProgress


def test_a_line_in_a_file_tells_small_and_large_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(10, 0, quiet=False) as progress:
        progress.update(5, {"topic": 1.25, "tokens_per_s": 5123.4, "lr": 5e-5, "emotions": 0.0})
    shown = capsys.readouterr().out
    assert "step 5/10  topic 1.250  tokens_per_s 5,123  lr 5.0e-05  emotions 0.000  left 0 min" in shown


def test_other_processes_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(10, 0, quiet=True) as progress:
        progress.update(5, {"topic": 1.25})
        progress.say("done")
    assert capsys.readouterr().out == ""
