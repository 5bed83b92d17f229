"""Heads of one's own: declared by name, learned from rows in `heads/`, scored and served; no source knows them."""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.main import create_app
from app.settings import Settings
from model.errors import ModelError
from model.inference.native_backend import NativeBackend
from model.network.leximind import LexiMind
from model.probabilities import probabilities
from model.storage.checkpoint import Checkpoint, load_checkpoint
from model.storage.saving import save_checkpoint
from model.tasks import Head
from support.training_runs import trainer, write_data, write_jsonl
from training.add_head import main as add_head
from training.data.own import own_heads, read_own
from training.errors import TrainingError
from training.evaluate import main as evaluate
from training.evaluation.calibration import at_temperature
from training.evaluation.predict import Predictor

CPU = torch.device("cpu")
WORDS = {
    "bridge": "The council voted to build a new bridge over the river",
    "market": "Shares of the chip maker rose twelve percent after record profits",
    "space": "Astronomers have found water vapour in the air of a planet",
}
TOPICS = list(WORDS)


def tickets(shift: int, count: int = 36) -> list[dict[str, Any]]:
    return [{"text": f"{WORDS[TOPICS[n % 3]]} on day {n + shift}.", "label": TOPICS[n % 3]} for n in range(count)]


def tagged(shift: int, count: int = 40) -> list[dict[str, Any]]:
    draw = random.Random(shift)
    chosen = [sorted(draw.sample(TOPICS, k=draw.randint(1, 3))) for _ in range(count)]
    return [
        {"text": f"{'. '.join(WORDS[name] for name in names)}. Number {n + shift}.", "labels": names}
        for n, names in enumerate(chosen)
    ]


def write_head(root: Path, name: str, train: Iterable[dict[str, Any]], dev: Iterable[dict[str, Any]]) -> Path:
    write_jsonl(root / "heads" / name / "train.jsonl.gz", train)
    write_jsonl(root / "heads" / name / "dev.jsonl.gz", dev)
    return root


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with all that is built in, a head `ticket` of one label a text and a head `tags` of several."""
    root = write_data(tmp_path_factory.mktemp("own"))
    write_head(root, "ticket", tickets(0), tickets(100))
    return write_head(root, "tags", tagged(0), tagged(100))


def add(checkpoint: Path, name: str, data: Path, output: Path, *more: str) -> Checkpoint:
    arguments = [str(checkpoint), name, "--data", str(data), "--output", str(output)]
    add_head([*arguments, "--encodings", str(output.parent / "encodings"), *more])
    return load_checkpoint(output, CPU)


async def asked(folder: Path, path: str, **body: Any) -> Any:
    app = create_app(Settings(checkpoint=folder, device="cpu", dtype="float32", threads=1))
    await app.state.context.service.load()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leximind") as client:
        response = await client.post(path, json=body)
    await app.state.context.service.drain(1.0)
    assert response.status_code == 200, response.text
    return response.json()


def test_heads_are_trained_with_the_rest_scored_and_drawn(own_data: Path, tmp_path: Path) -> None:
    options = ("data.heads=[ticket,tags]", "loop.steps=4", "loop.evaluate_every=4", "loss.positive_power=0.5")
    run = trainer(own_data, tmp_path / "run", *options)
    assert {"ticket", "tags"} <= run.mixture.streams.keys()
    run.run()
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    shown = {name for line in history for name in line}
    assert {"train/ticket", "train/tags", "dev/ticket.accuracy", "dev/tags.macro_f1", "dev/overall"} <= shown
    assert not any("tfidf" in name for name in shown)
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint", CPU)
    assert checkpoint.tasks.names == ("summarize", "emotions", "topic", "ticket", "tags")
    ticket, tags = checkpoint.tasks.heads[2:]
    assert (ticket.kind, ticket.labels, tags.kind, tags.labels) == (
        "single_label",
        tuple(TOPICS),
        "multi_label",
        tuple(TOPICS),
    )
    report = tmp_path / "report"
    evaluate([str(checkpoint.folder), "--data", str(own_data), "--output", str(report), "--rows", "2", "--card"])
    scores = json.loads((report / "report.json").read_text())["scores"]
    assert scores["ticket.tfidf.accuracy"]["value"] == 1.0  # each label has words of its own
    assert scores["tags.tfidf.macro_f1"]["value"] > 0.9
    assert {"ticket.accuracy", "ticket.macro_f1", "tags.macro_f1", "tags.label.space"} <= scores.keys()
    page = (report / "report.md").read_text()
    assert "## Ticket" in page
    assert "TF-IDF and logistic regression: accuracy 1.000" in page
    assert "| TF-IDF and logistic regression: macro F1 |" in page
    assert {"ticket.png", "tags.png"} <= {path.name for path in report.iterdir()}
    card = (checkpoint.folder / "MODEL_CARD.md").read_text()
    assert "3 labels of ticket" in card
    assert "| heads/ticket | 36 | terms not recorded here" in card


def test_resuming_a_run_with_a_head_goes_on(own_data: Path, tmp_path: Path) -> None:
    alone = ("data.heads=[ticket]", "data.only=[ticket]", "data.vocabulary_size=310", "loop.evaluate_every=1")
    trainer(own_data, tmp_path / "run", *alone, "loop.steps=2").run()
    again = trainer(own_data, tmp_path / "run", *alone, "loop.steps=3", f"resume_from={tmp_path / 'run'}")
    assert again.step == 2
    again.run()
    assert load_checkpoint(tmp_path / "run" / "last", CPU).tasks.names == ("summarize", "ticket")


@pytest.mark.parametrize(("name", "key"), [("ticket", "scores"), ("tags", "labels")])
async def test_head_added_to_a_network_that_stays_is_right_about_new_texts(
    name: str, key: str, own_data: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    added = add(checkpoint.folder, name, own_data, tmp_path / "added")
    assert added.manifest["training"]["started_from"]["checkpoint"] == checkpoint.name
    kept = added.model.state_dict()
    assert all(torch.equal(tensor, kept[weight]) for weight, tensor in checkpoint.model.state_dict().items())
    assert added.tasks.heads[:2] == checkpoint.tasks.heads
    assert added.tasks.heads[2].name == name
    for label in TOPICS:
        answer = await asked(added.folder, f"/classify/{name}", text=f"{WORDS[label]} on day 777.", top_k=1)
        assert answer[key][0]["label"] == label


def test_what_was_encoded_is_kept_for_the_next_trial(
    own_data: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add(checkpoint.folder, "ticket", own_data, tmp_path / "first")
    for one in (LexiMind, NativeBackend):
        monkeypatch.setattr(one, "encode", None)
    second = add(checkpoint.folder, "ticket", own_data, tmp_path / "second")
    assert torch.equal(first.model.heads["ticket"].linear.weight, second.model.heads["ticket"].linear.weight)


def test_a_head_that_is_there_is_learned_anew_in_its_place(
    own_data: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    first = add(checkpoint.folder, "ticket", own_data, tmp_path / "first")
    second = add(first.folder, "ticket", own_data, tmp_path / "second", "--positive-power", "0.5")
    assert second.tasks.names == first.tasks.names
    assert second.num_parameters == first.num_parameters


def test_hundreds_of_labels_are_learned_and_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def rows(shift: int) -> list[dict[str, Any]]:
        return [{"text": f"{WORDS[TOPICS[n % 3]]} {n} {shift}", "label": f"label {n:03}"} for n in range(150)] * 2

    data = write_head(tmp_path / "data", "many", rows(0), rows(1))
    added = add(checkpoint.folder, "many", data, tmp_path / "added")
    assert added.model.config.heads["many"] == 150
    assert "most often taken for" in (added.folder / "MODEL_CARD.md").read_text()
    evaluate([str(added.folder), "--data", str(data), "--output", str(tmp_path / "report")])
    assert (tmp_path / "report" / "many.png").is_file()


def test_card_stores_temperature_and_thresholds_that_decide_as_before(
    own_data: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    added = add(checkpoint.folder, "tags", own_data, tmp_path / "added")
    head = added.tasks.head("tags")
    assert head.temperature != 1.0
    predictor = Predictor(added.model, added.tokenizer, added.tasks)
    logits = torch.from_numpy(predictor.classify("tags", [row["text"] for row in tagged(500)]))
    plain = torch.tensor([at_temperature(threshold, 1 / head.temperature) for threshold in head.thresholds])
    assert torch.allclose(plain * 100, (plain * 100).round(), atol=1e-3)  # the grid that they were tuned on
    served = probabilities(logits, head.kind, head.temperature) >= torch.tensor(head.thresholds)
    assert torch.equal(served, probabilities(logits, head.kind) >= plain)


def without(column: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{name: value for name, value in row.items() if name != column} for row in rows]


BAD: dict[str, tuple[str, Any, Any, str]] = {
    "label of dev": (
        "ticket",
        tickets(0),
        [*tickets(9), {"text": "a", "label": "moon"}],
        r"dev.*:37: label 'moon' is none",
    ),
    "one label": ("ticket", tickets(0)[::3], tickets(9)[::3], r"have 1 labels \(bridge\); a head needs 2 or more"),
    "no labels": (
        "ticket",
        without("label")(tickets(0)),
        tickets(9),
        r"train.*:1: the row has neither label and labels",
    ),
    "some without": (
        "ticket",
        [*tickets(0), {"text": "a"}],
        tickets(9),
        r"train.*:37: the row lacks one of the columns \['text', 'label'\]",
    ),
    "both": ("ticket", [{**tickets(0)[0], "labels": []}], tickets(9), "the row has both label and labels"),
    "other kind in dev": ("ticket", tickets(0), tagged(9), r"dev.*:1: the row lacks one of the columns"),
    "no text": ("ticket", without("text")(tickets(0)), tickets(9), "the row lacks one of the columns"),
    "empty label": ("ticket", [{"text": "a", "label": " "}], tickets(9), "label is empty"),
    "no rows": ("ticket", [], tickets(9), "has no rows"),
    "slash": ("a/b", tickets(0), tickets(9), "the head 'a/b': a name has lower-case letters"),
    "reserved": ("overall", tickets(0), tickets(9), "the head 'overall': the word is taken"),
    "torch's": ("type", tickets(0), tickets(9), "the head 'type': torch has this word"),
    "built in": ("topic", tickets(0), tickets(9), "data.heads: topic is built in"),
    "a reader": ("headlines", tickets(0), tickets(9), "data.heads: headlines is built in"),
}


@pytest.mark.parametrize(("name", "train", "dev", "message"), BAD.values(), ids=BAD)
def test_bad_heads_are_refused_before_anything_is_computed(
    name: str,
    train: Any,
    dev: Any,
    message: str,
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for one in (LexiMind, NativeBackend):
        monkeypatch.setattr(one, "encode", None)
    data = write_head(tmp_path / "data", name, train, dev)
    with pytest.raises((TrainingError, ModelError), match=message):
        trainer(data, tmp_path / "run", f"data.heads=[{name}]", f"data.only=[{name}]")
    assert not (tmp_path / "run" / "spiece.model").exists()
    with pytest.raises(SystemExit, match=message):
        add(checkpoint.folder, name, data, tmp_path / "added")
    assert not (tmp_path / "added").exists()


def test_missing_rows_are_told_by_their_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"heads/ticket/train\.jsonl\.gz: no such file"):
        add(checkpoint.folder, "ticket", tmp_path, tmp_path / "added")


def test_head_of_the_same_name_with_other_labels_is_refused(
    own_data: Path, checkpoint: Checkpoint, spiece: Path, tmp_path: Path
) -> None:
    other = Head("ticket", "single_label", ("bug", "bill"))
    config = replace(checkpoint.model.config, heads={"ticket": 2})
    tasks = replace(checkpoint.tasks, heads=(other,))
    save_checkpoint(tmp_path / "other", LexiMind(config), spiece, tasks, card="")
    message = "has a head ticket of other labels: single_label, bug, bill; the data have single_label, bridge"
    with pytest.raises(SystemExit, match=message):
        add(tmp_path / "other", "ticket", own_data, tmp_path / "added")
    with pytest.raises(TrainingError, match=message):  # as a run asks for it
        own_heads(own_data, ["ticket"], "", load_checkpoint(tmp_path / "other", CPU))


def test_output_that_is_there_is_not_replaced(own_data: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "added").mkdir()
    with pytest.raises(SystemExit, match="added exists; name a new folder"):
        add(checkpoint.folder, "ticket", own_data, tmp_path / "added")


def test_labels_have_the_order_of_the_checkpoint(own_data: Path) -> None:
    [head] = own_heads(own_data, ["tags"], "", None)
    turned = replace(head, labels=head.labels[::-1])
    one, other = (read_own(own_data, which, "dev") for which in (head, turned))
    assert [turned.labels[n] for n in other[2].labels["tags"]][::-1] == [head.labels[n] for n in one[2].labels["tags"]]
