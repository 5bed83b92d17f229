import numpy as np
import pytest

from model.tasks import Head
from training.data.examples import Example
from training.evaluation.unfamiliar import OWN_BELOW, energies, fit_energy, fit_known_words, others

TOPIC = Head("topic", "single_label", ("World", "Sports", "Business", "Sci/Tech"))
CALM = np.zeros((50, 4), np.float32)  # of energy log 4
SURE = CALM + np.array([9.0, 0.0, 0.0, 0.0], np.float32) + np.linspace(0, 1, 50, dtype=np.float32)[:, None]


def test_energy_below_the_bound_is_rare_among_a_head_s_own_texts_and_common_among_others() -> None:
    head, fact = fit_energy(TOPIC, SURE, CALM, [Example("hello", "chats")] * 50, tunes=True)
    assert energies(CALM).max() < fact["min_energy"] == head.min_energy < energies(SURE).max()
    assert fact["below"]["chats"] == 1.0
    assert fact["below"]["topic"] <= 2 * OWN_BELOW


def test_on_another_split_nothing_is_fitted() -> None:
    assert fit_energy(TOPIC, SURE, CALM, [Example("hello", "chats")] * 50, tunes=False) == (TOPIC, None)
    head, _ = fit_energy(TOPIC, SURE, CALM, [Example("hello", "chats")] * 50, tunes=True)
    same, fact = fit_energy(head, CALM, SURE, [Example("hello", "chats")] * 50, tunes=False)
    assert same == head
    assert fact["below"] == {"topic": 1.0, "chats": pytest.approx(0.0, abs=0.1)}


def test_others_are_texts_that_the_head_has_not() -> None:
    both, chat, comment = (
        Example("A headline", "ag_headline"),
        Example("Tom: hi", "samsum"),
        Example("ok", "goemotions"),
    )
    heads = {"topic": [Example("A headline", "ag_news")], "emotions": [comment]}
    assert others("topic", {"ag_headline": [both], "samsum": [chat]}, heads) == [chat, comment]


def test_known_words_are_bounded_by_texts_of_four_words_or_more() -> None:
    vocabulary = frozenset("the council closed library".split())
    plain = [Example("The council closed the library", "news")] * 300
    foreign = [Example("Der Rat schloss die library", "chats")] * 2
    bound, below = fit_known_words(vocabulary, [*plain, *foreign, Example("Hi", "chats")])
    assert bound == 1.0
    assert below == {"news": 0.0, "chats": 1.0}
    assert fit_known_words(vocabulary, [Example("Hi", "chats")]) == (0.0, {})
