"""Reports and cards say what was measured: figures with their intervals, baselines, weaknesses, terms of the data."""

from typing import Any

import numpy as np
import pytest

from model.storage.checkpoint import LoadedCheckpoint
from model.tasks import Head
from training.evaluation.card import model_card
from training.evaluation.report import comparison, comparison_markdown, table, to_json, to_markdown
from training.evaluation.result import Result, Sample
from training.evaluation.scores import Score, f1, mean

CALIBRATION = {"calibration_error": 0.2, "calibration_error_at_temperature": 0.05, "temperature": 1.5}
EVERY = ("rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "supported", "real_words")


def flat(value: float, rows: int = 4) -> Score:
    return mean([value] * rows)


def summaries(value: float = 0.3, lead: float = 0.25, supported: float = 1.0) -> Result:
    prefix = "summaries.dialogsum"
    scores = {f"{prefix}.{name}": flat(value) for name in EVERY} | {f"{prefix}.supported": flat(supported)}
    scores |= {f"{prefix}.lead.{name}": flat(lead) for name in EVERY}
    facts = {prefix: {"different_outputs": 0.75, "new_bigrams": 0.5, "lead_k": 2}}
    samples = [[Sample("dialogsum row 1", "bread", "A | B\nbake bread.")]]
    return Result("test", scores, {prefix: 4}, facts, [], samples)


def one_label(labels: tuple[str, ...], confusion: list[list[int]]) -> Result:
    head = Head("ticket", "single_label", labels)
    facts = {"ticket": {"labels": list(labels), "confusion": confusion, **CALIBRATION}}
    scores = {"ticket.accuracy": flat(0.75), "ticket.macro_f1": flat(0.5), "ticket.tfidf.accuracy": flat(0.6)}
    return Result("dev", scores, {"ticket": 4}, facts, [head])


def several() -> Result:
    head = Head("mood_now", "multi_label", ("glad", "sad|low"), (0.3, 0.4))
    truth = np.array([[1, 0], [1, 0], [0, 0], [1, 0]], dtype=bool)
    scores = {f"mood_now.{name}": f1(truth, truth, "macro") for name in ("macro_f1", "micro_f1", "samples_f1")}
    scores["mood_now.macro_f1_at_half"] = flat(0.1)
    for number, label in enumerate(head.labels):
        scores[f"mood_now.label.{label}"] = f1(truth, truth, f"label:{number}")
    thresholds, support = dict(zip(head.labels, head.thresholds, strict=True)), {"glad": 3, "sad|low": 0}
    facts: dict[str, Any] = {"mood_now": {"thresholds": thresholds, "support": support, **CALIBRATION}}
    return Result("dev", scores, {"mood_now": 4}, facts, [head])


def test_a_table_is_markdown() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_summaries_stand_above_their_first_sentences() -> None:
    page = to_markdown(summaries())
    figures = " | ".join(["0.300 (0.300–0.300)"] * 5)
    assert f"| dialogsum (4) | {figures} | 75% | 50% | 100.0% | 30.0% |" in page
    assert "| its lead-2 | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 |" in page
    assert "BERTScore" not in page  # which was not asked for


def test_few_labels_are_a_confusion_and_many_a_list() -> None:
    page = to_markdown(one_label(("bill", "a|b"), [[2, 0], [1, 1]]))
    assert "| true ↓ predicted → | bill | a\\|b |" in page
    assert "| **a\\|b** | 1 | 1 |" in page
    many = tuple(f"l{number}" for number in range(13))
    counts = np.diag([2] * 13)
    counts[3, 5] = 6
    page = to_markdown(one_label(many, counts.tolist()))
    assert "| l3 | 8 | 0.250 | l5 (6) |" in page
    assert "| l4 | 2 | 1.000 |  |" in page


def test_words_alone_stand_next_to_a_head_of_one_s_own() -> None:
    page = to_markdown(one_label(("bill", "bug"), [[2, 0], [1, 1]]))
    assert (
        "4 rows: accuracy 0.750 (0.750–0.750), macro F1 0.500 (0.500–0.500). TF-IDF and logistic regression: " in page
    )
    assert "accuracy 0.600" in page
    assert "Calibration error 0.200; 0.050 at the fitted temperature 1.50." in page


def test_several_labels_are_listed_with_threshold_and_rows() -> None:
    page = to_markdown(several())
    assert "## Mood now" in page
    assert "Thresholds tuned on one half of dev, scored on the other (4 rows)." in page
    assert "| glad | 0.30 | 3 | 1.000 (1.000–1.000) |" in page
    assert "| sad\\|low | 0.40 | 0 | 0.000 (0.000–0.000) |" in page
    other = several()
    other.split = "test"
    assert "nothing was tuned on test" in to_markdown(other)


def test_json_has_every_score_with_its_interval() -> None:
    found = to_json(summaries())
    assert found["scores"]["summaries.dialogsum.rougeL"] == pytest.approx({"value": 0.3, "low": 0.3, "high": 0.3})
    assert found["samples"] == [[{"row": "dialogsum row 1", "hint": "bread", "output": "A | B\nbake bread."}]]
    assert (found["split"], found["rows"]) == ("test", {"summaries.dialogsum": 4})


def test_a_comparison_is_of_what_both_have_on_the_same_rows() -> None:
    one, other = summaries(0.5), summaries(0.3)
    one.scores["summaries.extra.rougeL"] = flat(0.5)
    other.scores["summaries.dialogsum.bleu"] = flat(0.3, rows=7)
    found = comparison(one, other)
    assert set(found) == {f"summaries.dialogsum.{name}" for name in EVERY if name != "bleu"}
    assert found["summaries.dialogsum.rougeL"] == pytest.approx({"value": 0.2, "low": 0.2, "high": 0.2, "p": 0.0})
    page = comparison_markdown({**found, "mood.label.glad": found["summaries.dialogsum.rougeL"]})
    assert "| summaries.dialogsum.rougeL | +0.2000 | +0.2000 … +0.2000 | 0.000 |" in page
    assert "mood.label" not in page


def test_a_card_names_weaknesses_that_were_measured(checkpoint: LoadedCheckpoint) -> None:
    card = model_card("tiny", checkpoint.model, {}, summaries(0.2, lead=0.25, supported=0.9))
    assert "Summaries of dialogsum score below its first sentences (ROUGE-L 0.200 against 0.250)." in card
    assert "10% of the summaries of dialogsum have a name or number that the text lacks." in card
    better = model_card("tiny", checkpoint.model, {}, summaries(0.3, supported=0.98))
    assert "score below" not in better
    assert "that the text lacks" not in better
    assert "seldom gets right (F1 below 0.2): sad|low" in model_card("t", checkpoint.model, {}, several())
    assert "none were scored here" in model_card("t", checkpoint.model, {}, several())


def test_a_card_has_the_terms_of_its_data(checkpoint: LoadedCheckpoint) -> None:
    manifest = {"data": {"origins": {"goemotions": 1200, "ag_news": 34, "heads/ticket": 5}}}
    card = model_card("tiny", checkpoint.model, manifest, summaries())
    assert "**For research and non-commercial use**" in card
    assert "1,200" in card
    assert "| heads/ticket | 5 | terms not recorded here" in card
    free = model_card("tiny", checkpoint.model, {"data": {"origins": {"gutenberg": 1}}}, summaries())
    assert "non-commercial" not in free


def test_a_card_shows_outputs_as_cells_of_a_table(checkpoint: LoadedCheckpoint) -> None:
    card = model_card("tiny", checkpoint.model, {}, summaries())
    assert "| dialogsum row 1 | bread | A \\| B bake bread. |" in card


def test_a_card_lists_runs_and_what_they_started_from(checkpoint: LoadedCheckpoint) -> None:
    first = {"command": ["train", "a=1"], "step": 10, "resumed": [{"from_step": 4, "command": ["train", "a=2"]}]}
    source = {"checkpoint": "old", "training": {"command": ["train", "b"], "step": 5, "learning_rate": "halved"}}
    training = {**first, "averaged_with": [{"command": ["c"], "step": 7}, {}], "started_from": source}
    card = model_card("tiny", checkpoint.model, {"training": training}, summaries())
    assert "Trained with `train a=1`; resumed at step 4 with `train a=2`, 10 steps." in card
    assert "The weights are the mean of this run's and of: `c`, 7 steps." in card
    assert "It started from the weights of old. Trained with `train b`, 5 steps (learning rate changed by hand" in card
    imported = {"command": ["d"], "step": 1, "started_from": {"checkpoint": "x", "imported_from": "google/flan-t5"}}
    assert "Imported from google/flan-t5." in model_card("t", checkpoint.model, {"training": imported}, summaries())
