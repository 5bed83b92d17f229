"""What is scored: the rows of a split that a checkpoint can be scored on, and facts about what it wrote."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.inference.decoding.options import DecodingOptions
from model.storage.checkpoint import LoadedCheckpoint
from model.tasks import Head, Tasks
from support.training_runs import write_jsonl
from training.data.examples import Example
from training.errors import DataError
from training.evaluation.result import Split, evaluate, fitted, read_split, tasks_of

OWN = Head("ticket", "single_label", ("bill", "bug"))


class Fixed:
    """Writes what it was given, whatever it is asked."""

    def __init__(self, *outputs: str) -> None:
        self.outputs = list(outputs)
        self.tasks = Tasks()

    def summarize(self, texts: list[str], options: DecodingOptions) -> list[str]:
        assert options == DecodingOptions()
        return self.outputs[: len(texts)]


def scored(outputs: tuple[str, ...], rows: list[tuple[str, str]]) -> Any:
    examples = [Example(source, "news", summary=summary) for source, summary in rows]
    predictor: Any = Fixed(*outputs)
    return evaluate(predictor, Split("test", {"news": examples}, {}), 10, DecodingOptions())


def test_a_split_has_what_the_tasks_can_do(data: Path, checkpoint: LoadedCheckpoint) -> None:
    split = read_split(data, "dev", checkpoint.tasks)
    assert set(split.heads) == {"emotions", "topic"}
    assert {"dialogsum", "cnn_dailymail"} <= set(split.summaries)
    assert all(example.origin == source for source, rows in split.summaries.items() for example in rows)
    [topic] = [head for head in checkpoint.tasks.heads if head.name == "topic"]
    alone = read_split(data, "dev", replace(checkpoint.tasks, heads=(topic,)), {"topic"})
    assert (set(alone.heads), alone.summaries) == ({"topic"}, {})


def test_a_head_of_one_s_own_brings_its_train_rows(tmp_path: Path) -> None:
    for name, count in (("train", 6), ("dev", 4)):
        rows = [{"text": f"{name} {n}", "label": OWN.labels[n % 2]} for n in range(count)]
        write_jsonl(tmp_path / "heads" / "ticket" / f"{name}.jsonl.gz", rows)
    split = read_split(tmp_path, "dev", Tasks(heads=(OWN,)), {"ticket"})
    assert (len(split.heads["ticket"]), len(split.train["ticket"])) == (4, 6)
    assert split.baseline(OWN)["accuracy"].rows.shape == (4, 1)
    assert split.baseline(OWN) is split.baseline(OWN)  # learned once
    assert split.baseline(replace(OWN, name="topic")) == {}


def test_one_row_is_too_few(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "emotion" / "dev.jsonl.gz", [{"text": "a", "labels": ["joy"]}])
    with pytest.raises(DataError, match="dev has 1 rows; at least 2 are needed"):
        read_split(
            tmp_path, "dev", Tasks(heads=(Head("emotions", "multi_label", ("joy", "x"), (0.5, 0.5)),)), {"emotions"}
        )


def test_another_row_is_another_digest() -> None:
    one, two = (Split("dev", {"news": [Example(text, "news", summary="x")]}, {}) for text in ("a", "b"))
    assert one.digest() != two.digest()
    assert one.digest() == Split("dev", {"news": [Example("a", "news", summary="x")]}, {}).digest()


def test_folders_say_what_a_data_folder_is_for(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        tasks_of(tmp_path)
    (tmp_path / "emotion").mkdir()
    (tmp_path / "summarization").mkdir()
    assert tasks_of(tmp_path) == {"emotions", "summarize"}


def test_names_numbers_and_words_that_the_source_lacks_are_counted() -> None:
    found = scored(
        ("The mayor met Ella.", "The mayor met Bob at 5.", "The mayor mett Ella."),
        [("The mayor met Ella at home, she said.", "The mayor met Ella.")] * 3,
    )
    assert found.scores["summaries.news.supported"].value == pytest.approx(2 / 3)  # Bob and 5
    assert found.scores["summaries.news.real_words"].value == pytest.approx(1 / 3)  # `mett`, and Bob whom no text has


def test_copied_and_repeated_outputs_are_seen() -> None:
    copied = scored(("a b c d", "a b c d"), [("a b c d e", "x y")] * 2).facts["summaries.news"]
    assert (copied["new_bigrams"], copied["different_outputs"], copied["mean_words"]) == (0.0, 0.5, 4.0)
    mixed = scored(("a b x", "c d"), [("a b c d e", "x y")] * 2).facts["summaries.news"]
    assert (mixed["new_bigrams"], mixed["different_outputs"]) == (0.25, 1.0)


def test_the_baseline_is_as_many_first_sentences_as_references_have() -> None:
    found = scored(("x", "y"), [("One two. Three four. Five six.", "One two. Three four.")] * 2)
    assert found.facts["summaries.news"]["lead_k"] == 2
    assert found.scores["summaries.news.lead.rougeL"].value == 1.0


def test_at_most_so_many_summaries_of_a_source_are_written() -> None:
    examples = [Example(f"text {number}", "news", summary="x") for number in range(20)]
    predictor: Any = Fixed(*["out"] * 20)
    found = evaluate(predictor, Split("test", {"news": examples}, {}), 7, DecodingOptions())
    assert found.rows == {"summaries.news": 7}
    assert [sample.row for sample in found.samples[0]] == [f"news row {number}" for number in range(1, 8)]


def test_a_hint_has_words_that_repeat_and_never_the_text() -> None:
    source = "#Person1#: The bridge collapsed. #Person2#: Which bridge? #Person1#: The river bridge, near the river."
    [[sample]] = scored(("out",), [(source, "x")]).samples
    assert sample.hint.split(", ")[:2] == ["bridge", "river"]
    assert "Person1" not in sample.hint
    assert len(sample.hint.split(", ")) <= 4


def test_what_was_fitted_replaces_what_was_served(checkpoint: LoadedCheckpoint) -> None:
    found = scored(("x",), [("a", "b")])
    tuned = replace(checkpoint.tasks.head("topic"), temperature=2.0)
    found.heads.append(tuned)
    tasks = fitted(checkpoint.tasks, found)
    assert tasks.head("topic") == tuned
    assert tasks.head("emotions") == checkpoint.tasks.head("emotions")
    assert [head.name for head in tasks.heads] == [head.name for head in checkpoint.tasks.heads]
