"""Figures of a real evaluation: what they show is what was scored, and equal results are equal files."""

from pathlib import Path

import numpy as np
import pytest

from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from model.storage.checkpoint import Checkpoint
from model.tasks import Head
from support.figures import axes_by_title, drawn_figures, lines_by_label
from training.evaluation.predict import Predictor
from training.evaluation.result import Lengths, Result, evaluate, read_split
from training.evaluation.scores import f1
from training.plots.results import draw

PNG = b"\x89PNG\r\n\x1a\n"
HEAD = Head("mood", "single_label", ("glad", "sad"))


def result(checkpoint: Checkpoint, data: Path) -> Result:
    predictor = Predictor(TorchBackend(checkpoint.model), checkpoint.tokenizer, checkpoint.tasks)
    split = read_split(data, "dev", checkpoint.tasks)
    return evaluate(predictor, split, 4, DecodingOptions(max_new_tokens=4))


def confused(counts: list[list[int]], labels: tuple[str, ...] = HEAD.labels) -> Result:
    """A head whose true labels (rows) were taken for others (columns)."""
    facts = {"confusion": counts, "calibration_error": 0.0, "reliability": [(0.5, 0.5, 1)]}
    return Result("dev", facts={"mood": facts}, heads=[Head("mood", "single_label", labels)])


def test_an_evaluation_is_drawn(checkpoint: Checkpoint, data: Path, tmp_path: Path) -> None:
    drawn = draw(result(checkpoint, data), tmp_path, "random")
    assert {what: path.name for what, path in drawn.items()} == {
        "Lengths": "lengths.png",
        "F1 of each label of emotions": "emotions.png",
        "Confusion of topic": "topic.png",
        "Reliability": "reliability.png",
    }
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


def test_lengths_count_the_words_of_every_row(checkpoint: Checkpoint, data: Path) -> None:
    lengths = result(checkpoint, data).lengths["dialogsum"]
    assert len(lengths.source) == len(lengths.reference) == len(lengths.output) == 4
    assert min(lengths.source) > max(lengths.reference) > 0


def test_lengths_show_every_row_and_the_medians(tmp_path: Path) -> None:
    source = [30, 40, 40, 50, 2000]  # one that is far longer belongs to the last bar
    found = Result("dev", lengths={"dialogsum": Lengths(source, [5, 6, 7, 8, 9], [3, 3, 3, 4, 4])})
    with drawn_figures() as figures:
        draw(found, tmp_path, "random")
    axes = axes_by_title(figures["lengths.png"])
    assert set(axes) == {"dialogsum (5 rows)", "its summaries"}
    legends = {title: [text.get_text() for text in ax.get_legend().get_texts()] for title, ax in axes.items()}
    assert legends == {
        "dialogsum (5 rows)": ["source, median 40"],
        "its summaries": ["reference, median 7", "produced, median 3"],
    }
    for ax in axes.values():
        for histogram in ax.patches:
            x, y = histogram.get_xy().T
            width = np.diff(np.unique(x)).min()
            area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2  # of the polygon
            assert area / width == pytest.approx(5)  # rows
            assert x.max() <= ax.get_xlim()[1]
            assert y.max() < ax.get_ylim()[1]


def test_bars_are_the_scores_of_the_labels_with_their_intervals(
    checkpoint: Checkpoint, data: Path, tmp_path: Path
) -> None:
    found = result(checkpoint, data)
    with drawn_figures() as figures:
        draw(found, tmp_path, "random")
    [ax] = figures["emotions.png"].axes
    support = found.facts["emotions"]["support"]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert sorted(labels) == sorted(f"{label} ({number})" for label, number in support.items())
    values = [bar.get_width() for bar in ax.patches]
    assert values == sorted(values)
    [errors] = [part for part in ax.collections if hasattr(part, "get_segments")]
    for label, value, ((low, _), (high, _)) in zip(labels, values, errors.get_segments(), strict=True):
        score = found.scores[f"emotions.label.{label.rpartition(' (')[0]}"]
        assert value == score.value
        assert (low, high) == pytest.approx((min(score.interval()[0], value), max(score.interval()[1], value)))
    macro = found.scores["emotions.macro_f1"].value
    assert lines_by_label(ax)[f"macro F1 {macro:.3f}"][0] == [macro, macro]
    assert ax.get_xlabel().endswith(f"rows with the label, of {found.rows['emotions']}")


def test_confusion_has_true_labels_as_rows_and_their_shares(tmp_path: Path) -> None:
    with drawn_figures() as figures:
        draw(confused([[3, 1], [0, 1200]]), tmp_path, "random")
    ax, bar = figures["mood.png"].axes
    [image] = ax.get_images()
    np.testing.assert_allclose(image.get_array(), [[0.75, 0.25], [0.0, 1.0]])
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells == {(0, 0): "3\n75.0%", (1, 0): "1\n25.0%", (0, 1): "0\n0.0%", (1, 1): "1,200\n100.0%"}
    assert [text.get_text() for text in ax.get_yticklabels()] == ["glad", "sad"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    assert bar.get_ylabel() == "of the rows with this true label"


def test_a_label_without_rows_has_no_shares(tmp_path: Path) -> None:
    with drawn_figures() as figures:
        draw(confused([[0, 0], [2, 2]]), tmp_path, "random")
    np.testing.assert_allclose(figures["mood.png"].axes[0].get_images()[0].get_array(), [[0, 0], [0.5, 0.5]])


def test_counts_are_not_written_into_a_confusion_of_many_labels(tmp_path: Path) -> None:
    labels = tuple(f"label {number}" for number in range(13))
    with drawn_figures() as figures:
        draw(confused(np.eye(13, dtype=int).tolist(), labels), tmp_path, "random")
    ax = figures["mood.png"].axes[0]
    assert not ax.texts
    assert [text.get_text() for text in ax.get_xticklabels()] == list(labels)


def test_reliability_shows_stated_and_observed_and_what_a_temperature_leaves(tmp_path: Path) -> None:
    facts = {
        "support": {"glad": 1},
        "calibration_error": 0.2,
        "reliability": [(0.1, 0.3, 40), (0.9, 0.7, 8)],
        "temperature": 1.5,
        "calibration_error_at_temperature": 0.05,
        "reliability_at_temperature": [(0.2, 0.25, 40), (0.8, 0.75, 8)],
    }
    score = f1(np.array([[True]]), np.array([[True]]), "macro")
    found = Result(
        "dev",
        scores={"mood.macro_f1": score, "mood.label.glad": score},
        rows={"mood": 1},
        facts={"mood": facts},
        heads=[Head("mood", "multi_label", ("glad", "sad"), (0.5, 0.5))],
    )
    with drawn_figures() as figures:
        draw(found, tmp_path, "random")
    top, bottom = figures["reliability.png"].axes
    assert lines_by_label(top) == {
        "perfect": ([0, 1], [0, 1]),
        "as it is, error 0.200": ([0.1, 0.9], [0.3, 0.7]),
        "temperature 1.50, error 0.050": ([0.2, 0.8], [0.25, 0.75]),
    }
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bottom.patches] == [
        (pytest.approx(0.1), 40),
        (pytest.approx(0.9), 8),
    ]
    assert bottom.get_yscale() == "log"
