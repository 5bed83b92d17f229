"""What was answered before heads were data is answered still, by a folder of format 1 and by the same written anew."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.choices import BUNDLED
from model.storage.checkpoint import load_checkpoint
from model.storage.saving import save_checkpoint
from support.recorded import answers_of, identity_of
from support.recorded_requests import REQUESTS

RECORDED = Path(__file__).parent / "recorded"
# Other processors add in another order: float32 keeps seven digits, of which some are lost over the layers.
TOLERANCE = 1e-5


def recorded(name: str, checkpoint: Path) -> list[dict[str, Any]]:
    record = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    if record["identity"] != identity_of(checkpoint):
        pytest.skip(f"{checkpoint.name} is not the one that {name}.json was recorded from; record again")
    answers: list[dict[str, Any]] = record["answers"]
    return answers


def parsed(answer: dict[str, Any]) -> tuple[int, str, Any]:
    body: str = answer["body"]
    if answer["type"].startswith("text/event-stream"):
        events = [event.split("\ndata: ") for event in body.strip().split("\n\n")]
        return answer["status"], answer["type"], [{event: json.loads(data)} for event, data in events]
    content = json.loads(body)
    if isinstance(content, dict):
        content.pop("title", None)  # a status in words, which are other ones in other versions of Python
    return answer["status"], answer["type"], content


def flat(value: Any, place: str = "") -> list[tuple[str, Any]]:
    """Every leaf with its place, in order."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for name, part in items for leaf in flat(part, f"{place}/{name}")]
    return [(place, value)]


async def check(checkpoint: Path, name: str, before: Path) -> None:
    expected = recorded(name, before)
    given = await answers_of(checkpoint)
    for (path, body), one, other in zip(REQUESTS, given, expected, strict=True):
        status, kind, content = parsed(one)
        assert (status, kind) == parsed(other)[:2], (path, body, one)
        new, old = flat(content), flat(parsed(other)[2])
        assert [place for place, _ in new] == [place for place, _ in old], (path, body, one)
        for (place, value), (_, was) in zip(new, old, strict=True):
            if isinstance(was, float):
                assert value == pytest.approx(was, abs=TOLERANCE), (path, body, place)
            else:
                assert value == was, (path, body, place)


async def test_folder_of_format_1_answers_as_it_did() -> None:
    folder = RECORDED / "format1"
    assert json.loads((folder / "manifest.json").read_text())["format_version"] == 1
    await check(folder, "format1", folder)


async def test_folder_written_anew_answers_as_the_one_of_format_1(tmp_path: Path) -> None:
    before = RECORDED / "format1"
    old = load_checkpoint(before, torch.device("cpu"))
    folder = tmp_path / "format1"  # its name is in the answers
    save_checkpoint(folder, old.model, before / "spiece.model", old.tasks, card="", dtype=torch.bfloat16)
    assert json.loads((folder / "manifest.json").read_text())["format_version"] == 2
    assert identity_of(folder) == identity_of(before)
    await check(folder, "format1", before)


async def test_bundled_checkpoint_answers_as_it_did() -> None:
    await check(BUNDLED, "bundled", BUNDLED)
