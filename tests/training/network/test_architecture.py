"""Which network a run trains and which heads it has: from the configuration, the data and what it starts from."""

from typing import Any

import pytest

from model.config import ModelConfig
from model.errors import ConfigError
from model.storage.checkpoint import LoadedCheckpoint
from model.tasks import EMOTIONS, TOPICS, Head
from training.data.examples import Example
from training.errors import TrainingError
from training.network.architecture import architecture_of, heads_of_run, learned_tasks

OWN = Head("ticket", "single_label", ("bill", "bug"))


def test_what_is_not_given_is_the_default() -> None:
    assert architecture_of({"d_model": 128, "num_heads": None}, None) == ModelConfig(d_model=128)


def test_a_network_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_heads is 0"):
        architecture_of({"num_heads": 0}, None)


def test_what_a_run_starts_from_brings_its_own(checkpoint: LoadedCheckpoint) -> None:
    assert architecture_of({"d_model": None, "d_ff": 48}, checkpoint) == checkpoint.config


def test_dropout_alone_may_differ(checkpoint: LoadedCheckpoint) -> None:
    found = architecture_of({"dropout": 0.3}, checkpoint)
    assert found.dropout == 0.3
    assert found.d_model == checkpoint.config.d_model


@pytest.mark.parametrize("given", [{"d_model": 64, "d_ff": 48}, {"num_encoder_layers": 3, "dropout": 0.2}])
def test_every_contradiction_is_named(given: dict[str, Any], checkpoint: LoadedCheckpoint) -> None:
    with pytest.raises(TrainingError, match="another architecture") as error:
        architecture_of(given, checkpoint)
    there = checkpoint.config.to_json()
    for name, value in given.items():
        contradicts = name != "dropout" and value != there[name]
        assert (f"model.{name} is {value!r}, there {there[name]!r}" in str(error.value)) == contradicts


def test_tasks_are_those_that_rows_have_answers_for() -> None:
    rows = [Example("a", "x", labels={"topic": (0,)}), Example("b", "x", summary="c", labels={"ticket": (1,)})]
    assert learned_tasks(rows) == {"topic", "ticket", "summarize"}
    assert learned_tasks([Example("a", "x")]) == set()


def test_a_head_is_made_for_each_task_that_is_learned() -> None:
    heads = heads_of_run({"emotions", "ticket", "summarize"}, [OWN], "say: ", None)
    assert {head.name: head.labels for head in heads} == {"emotions": EMOTIONS, "ticket": ("bill", "bug")}
    assert {head.prompt for head in heads} == {"say: "}
    assert heads[0].thresholds == (0.5,) * len(EMOTIONS)
    assert heads[1].thresholds == ()


def test_heads_that_are_there_stay_first_with_what_was_fitted(checkpoint: LoadedCheckpoint) -> None:
    heads = heads_of_run({"topic", "ticket"}, [OWN], "", checkpoint)
    assert [head.name for head in heads] == ["emotions", "topic", "ticket"]
    assert heads[0].thresholds == checkpoint.tasks.head("emotions").thresholds
    assert heads[1].labels == TOPICS
