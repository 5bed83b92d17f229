"""Warnings from the text to every kind of answer, with bounds that the test gives a checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch

from app.warnings import label_warnings, text_warnings
from model.storage.checkpoint import load_checkpoint
from model.storage.saving import describe_checkpoint
from model.tasks import Head
from support.services import Serving, open_service

TOPIC = Head("topic", "single_label", ("a", "b"), min_energy=2.0)
WORDS = frozenset({"the", "council", "closed", "library", "hello"})


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("The council closed the library.", []),
        ("Der Rat hat die Bücherei geschlossen, the", ["unfamiliar_text"]),
        ("😀🎉", ["unfamiliar_text"]),
        ("12;13;14\n15;16;17\n18;19;20", ["unfamiliar_text"]),
        ("Hello!", ["too_short"]),
        ("hello xyzzy", []),  # of two words nothing can be said
    ],
)
def test_text_is_warned_of_by_its_words(text: str, codes: list[str]) -> None:
    assert [one.code for one in text_warnings(text, WORDS, 0.5)] == codes


def test_low_energy_is_warned_of_and_no_bound_never() -> None:
    [warning] = label_warnings(TOPIC, 1.5)
    assert warning.code == "no_label_fits"
    assert "1.50" in warning.message
    assert "2.00" in warning.message
    assert label_warnings(TOPIC, 2.0) == label_warnings(replace(TOPIC, min_energy=None), 1.5) == ()


@pytest.fixture
def wary(checkpoint_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint that warns of every text."""
    folder = Path(copytree(checkpoint_folder, tmp_path / "wary"))
    loaded = load_checkpoint(folder, torch.device("cpu"))
    heads = tuple(
        replace(head, min_energy=1000.0) if head.kind == "single_label" else head for head in loaded.tasks.heads
    )
    tasks = replace(loaded.tasks, heads=heads, min_known_words=1.0)
    describe_checkpoint(folder, tasks, card="# wary\n", facts={})
    return folder


TEXT = "Shares of the zyx qwv rose twelve percent."


async def test_every_route_of_ours_warns_and_those_of_others_do_not(wary: Path) -> None:
    def codes(answer: dict[str, list[dict[str, str]]]) -> list[str]:
        return [one["code"] for one in answer["warnings"]]

    async with open_service(wary) as client:
        options = {"text": TEXT, "max_new_tokens": 4}
        assert codes((await client.post("/summarize", json=options)).json()) == ["unfamiliar_text"]
        assert codes((await client.post("/emotions", json={"text": TEXT})).json()) == ["unfamiliar_text"]
        both = ["unfamiliar_text", "no_label_fits"]
        assert codes((await client.post("/topic", json={"text": TEXT})).json()) == both
        assert codes((await client.post("/classify/topic", json={"text": [TEXT]})).json()[0]) == both

        everything = (await client.post("/analyze", json={"text": TEXT, "summary": {"max_new_tokens": 4}})).json()
        assert codes(everything) == ["unfamiliar_text"]
        assert codes(everything["topic"]) == ["no_label_fits"]
        assert "warnings" not in everything["summary"]
        assert "warnings" not in everything["emotions"]

        stream = await client.post("/summarize", json={**options, "stream": True})
        last = stream.text.strip().rsplit("data: ", 1)[1]
        assert codes(json.loads(last)) == ["unfamiliar_text"]

        for route, body in (("/hf/topic", {"inputs": TEXT}), ("/predict", {"inputs": TEXT})):
            assert "warning" not in (await client.post(route, json=body)).text


async def test_a_long_text_s_energy_is_the_mean_of_its_chunks(wary: Path) -> None:
    long = f"{TEXT} " * 60
    async with open_service(wary) as client:
        answer = (await client.post("/topic", json={"text": long})).json()
        alone = (await client.post("/topic", json={"text": TEXT})).json()
    assert [one["code"] for one in answer["warnings"]] == ["unfamiliar_text", "no_label_fits"]
    assert answer["warnings"][1] != alone["warnings"][1]


async def test_without_bounds_no_answer_has_the_field(serving: Serving) -> None:
    async with serving() as client:
        for route in ("/summarize", "/emotions", "/topic", "/analyze"):
            assert "warnings" not in (await client.post(route, json={"text": "😀🎉"})).text
