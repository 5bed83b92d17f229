"""Curves of a run: every figure of its history at its steps, each under its name."""

from pathlib import Path

from support.figures import axes_by_title, drawn_figures, lines_by_label
from support.training_runs import trainer
from training.plots.curves import draw_curves
from training.tracking.tracker import read_history

HISTORY = [
    {"step": 10, "train/topic": 1.5, "train/summarize": 5.0, "train/lr": 1e-3, "train/grad_norm": 3.0},
    {"step": 20, "train/topic": 1.0, "train/lr": 5e-4, "train/tokens_per_s": 900.0},
    {
        "step": 20,
        "dev/overall": 0.4,
        "dev/topic.accuracy": 0.6,
        "dev/topic.macro_f1": 0.5,
        "dev/emotions.macro_f1": 0.3,
        "dev/summaries.dialogsum.rougeL": 0.2,
        "dev/summaries.dialogsum.rouge1": 0.25,
    },
]


def test_losses_and_speed_are_drawn_at_their_steps(tmp_path: Path) -> None:
    with drawn_figures() as figures:
        assert draw_curves(HISTORY, tmp_path / "training.png", "a run") == [tmp_path / "training.png"]
    figure = figures["training.png"]
    assert figure.get_suptitle() == "a run"
    axes = axes_by_title(figure)
    assert set(axes) == {"loss: topic", "loss: summarize", "dev", "learning rate", "tokens a second"}
    points = {title: tuple(map(list, ax.get_lines()[0].get_data())) for title, ax in axes.items() if title != "dev"}
    assert points == {
        "loss: topic": ([10, 20], [1.5, 1.0]),
        "loss: summarize": ([10], [5.0]),
        "learning rate": ([10, 20], [1e-3, 5e-4]),
        "tokens a second": ([20], [900.0]),
    }
    assert {ax.get_xlabel() for ax in axes.values()} == {"step"}
    assert axes["tokens a second"].get_ylim()[0] == 0  # half the speed is half the height


def test_one_score_of_each_task_is_drawn_on_dev(tmp_path: Path) -> None:
    with drawn_figures() as figures:
        draw_curves(HISTORY, tmp_path / "training.png", "a run")
    dev = axes_by_title(figures["training.png"])["dev"]
    assert lines_by_label(dev) == {
        "overall": ([20], [0.4]),
        "topic, accuracy": ([20], [0.6]),  # which leaves its macro F1 out
        "emotions, macro F1": ([20], [0.3]),
        "dialogsum, ROUGE-L": ([20], [0.2]),
    }
    low, high = dev.get_ylim()
    assert low <= 0 < 1 < high


def test_more_scores_than_colours_are_distinguished_by_their_style(tmp_path: Path) -> None:
    history = [{"step": 1, **{f"dev/head{number}.accuracy": 0.1 * number for number in range(8)}}]
    with drawn_figures() as figures:
        draw_curves(history, tmp_path / "training.png", "a run")
    lines = axes_by_title(figures["training.png"])["dev"].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 8


def test_the_course_of_a_real_run_is_drawn(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "loop.steps=2", "loop.log_every=1")
    run.run()
    with drawn_figures() as figures:
        draw_curves(read_history(tmp_path / "run"), tmp_path / "plots" / "training.png", "run")
    axes = axes_by_title(figures["training.png"])
    assert {"loss: summarize", "loss: topic", "loss: emotions", "dev", "learning rate", "tokens a second"} <= set(axes)
    assert [list(ax.get_lines()[0].get_xdata()) for ax in (axes["loss: topic"], axes["dev"])] == [[1, 2], [2]]


def test_a_run_without_history_draws_nothing(tmp_path: Path) -> None:
    assert draw_curves([], tmp_path / "training.png", "run") == []
    assert not (tmp_path / "training.png").exists()
