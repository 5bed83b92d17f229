"""The configuration as a whole: what a run is made of, what a resumed one may change, and mistakes by their place."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from support.training_runs import composed
from training.config import flat, parse_config, suggestion
from training.errors import TrainingError
from training.overrides import shown_overrides, typed_output


def config(*overrides: str) -> Any:
    return parse_config(composed(Path("data"), Path("out"), *overrides))


def changed(*overrides: str) -> set[str]:
    """Which of the keys that must stay these overrides change."""
    one, other = config().must_match(), config(*overrides).must_match()
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@pytest.mark.parametrize(
    "override",
    [
        "loop.steps=9",
        "loop.device=auto",
        "loop.save_every=3",
        "schedule.warmup_steps=7",
        "tracking.uri=sqlite:///other.db",
        "data.root=elsewhere",
        "loop.checkpoint_layers=true",
    ],
)
def test_places_and_lengths_may_change_when_a_run_is_resumed(override: str) -> None:
    assert changed(override) == set()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("loop.seed=5", "loop.seed"),
        ("optimizer.lr=0.5", "optimizer.lr"),
        ("model.d_ff=64", "model.d_ff"),
        ("data.prompt=say", "data.prompt"),
        ("data.groups.topics.tokens=999", "data.groups.topics.tokens"),
        ("loop.precision=fp16", "loop.precision"),
    ],
)
def test_what_decides_numbers_must_stay(override: str, key: str) -> None:
    assert changed(override) == {key}


def test_every_mistake_is_named_by_its_place() -> None:
    tree = OmegaConf.to_container(composed(Path("data"), Path("out")))
    assert isinstance(tree, dict)
    tree["loop"]["stepz"] = tree["loop"].pop("steps")
    tree["data"]["groups"]["topics"]["tokens"] = 0
    with pytest.raises(TrainingError) as error:
        parse_config(OmegaConf.create(tree))
    lines = str(error.value).splitlines()
    assert lines[0] == "the configuration does not fit:"
    assert any(line.startswith("  loop.stepz: no such key; did you mean steps?") for line in lines)
    assert "  loop.steps: missing" in lines
    assert any(line.startswith("  data.groups.topics.tokens: ") and line.endswith("(got 0)") for line in lines)


def test_heads_are_no_setting_of_the_network() -> None:
    with pytest.raises(TrainingError, match=r"model\.heads: no such key"):
        config("+model.heads={}")


def test_nested_names_are_dotted_and_empty_mappings_stay() -> None:
    assert dict(flat({"a": {"b": 1, "c": {"d": [2]}}, "e": {}, "f": None})) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": {},
        "f": None,
    }


def test_a_suggestion_is_near_or_lists_what_there_is() -> None:
    assert suggestion("stpes", ["steps", "seed"]) == "; did you mean steps?"
    assert suggestion("qqq", ["steps", "seed"]) == "; known are seed, steps"
    assert suggestion("qqq", [str(number) * 9 for number in range(40)]) == "; --help shows those that there are"


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["model=tiny", "output=runs/a"], "runs/a"),
        (["output=runs/a", "output=runs/b"], "runs/b"),
        (["-m", "output=runs/a"], "runs/a"),
        (["--help", "output=runs/a"], None),
        (["output=runs/a,runs/b"], None),
        (["output=runs/${model.d_model}"], None),
        (["model=tiny"], None),
    ],
)
def test_the_folder_that_was_typed_is_known_before_anything_is_composed(
    arguments: list[str], folder: str | None
) -> None:
    assert typed_output(arguments) == (None if folder is None else Path(folder))


def test_overrides_are_shown_without_places_of_this_machine() -> None:
    typed = ["model=tiny", "data.root=/home/x", "+output=y", "~hydra.run", "loop.seed=1", "init_from=z"]
    assert shown_overrides(typed) == ["model=tiny", "loop.seed=1"]
