"""The terms of a checkpoint: the strictest of its data and of the weights that it started from."""

from typing import Any

import pytest

from model.choices import BUNDLED
from model.storage.manifest import verified_manifest
from training.data.terms import RESEARCH_ONLY, UNKNOWN, terms_of_use


def manifest(*origins: str, started_from: dict[str, Any] | None = None) -> dict[str, Any]:
    training = {"started_from": started_from} if started_from is not None else {}
    return {"data": {"origins": dict.fromkeys(origins, 7)}, "training": training}


@pytest.mark.parametrize("origin", ["ag_news", "dialogsum", "samsum", "cnn_dailymail", "inshorts_headline", "isear"])
def test_one_restricted_data_set_restricts_the_model(origin: str) -> None:
    assert terms_of_use(manifest("gutenberg", origin)) == RESEARCH_ONLY


def test_data_without_restriction_leave_the_terms_to_the_card() -> None:
    assert terms_of_use(manifest("gutenberg", "goemotions")) == "the terms of its data (MODEL_CARD.md)"


def test_terms_of_the_weights_before_hold_on() -> None:
    assert terms_of_use(manifest("gutenberg", started_from={"terms": RESEARCH_ONLY})) == RESEARCH_ONLY
    imported = {"terms": "those of the published model, flan-t5-base"}
    assert terms_of_use(manifest("goemotions", started_from=imported)).endswith(f"with the terms: {imported['terms']}")
    assert terms_of_use(manifest("dialogsum", started_from=imported)) == RESEARCH_ONLY


def test_without_a_record_of_data_what_was_said_stays() -> None:
    assert terms_of_use({"terms": "mine alone"}) == "mine alone"
    assert terms_of_use({}) == UNKNOWN


def test_bundled_checkpoint_says_the_terms_of_its_data() -> None:
    found = verified_manifest(BUNDLED)
    assert found["terms"] == terms_of_use(found) == RESEARCH_ONLY
