"""The moving average of a run's weights: its formula, its exchange with the newest, its state."""

import pytest
import torch
from torch import nn

from training.loop.average import Average


def set_to(model: nn.Linear, value: float) -> nn.Linear:
    nn.init.constant_(model.weight, value)
    return model


def test_the_first_update_copies_and_later_ones_decay() -> None:
    model = set_to(nn.Linear(2, 1, bias=False), 7.0)
    average = Average(model, 0.9)
    values = []
    for value in (1.0, 2.0, 3.0):
        average.update(set_to(model, value))
        values.append(average.weights["weight"][0, 0].item())
    assert values == pytest.approx([1.0, 0.9 * 1 + 0.1 * 2, 0.9 * 1.1 + 0.1 * 3])


def test_within_the_block_the_model_has_the_average_and_afterwards_its_own() -> None:
    model = set_to(nn.Linear(2, 1, bias=False), 1.0)
    average = Average(model, 0.5)
    average.update(model)
    average.update(set_to(model, 3.0))
    parameter = model.weight
    with average.in_place_of(model):
        assert model.weight is parameter  # optimizers hold it
        assert (model.weight == 2.0).all()
    assert (model.weight == 3.0).all()
    with pytest.raises(RuntimeError, match="validation failed"), average.in_place_of(model):
        raise RuntimeError("validation failed")
    assert (model.weight == 3.0).all()
    assert (average.weights["weight"] == 2.0).all()


def test_a_state_goes_on_where_it_was() -> None:
    model = set_to(nn.Linear(2, 1, bias=False), 4.0)
    one, other = Average(model, 0.5), Average(set_to(nn.Linear(2, 1, bias=False), 9.0), 0.5)
    one.update(model)
    other.load_state_dict(one.state_dict())
    for average in (one, other):
        average.update(set_to(model, 8.0))
    assert torch.equal(one.weights["weight"], other.weights["weight"])
    assert (other.weights["weight"] == 6.0).all()


def test_a_state_of_before_the_first_update_still_copies() -> None:
    model = set_to(nn.Linear(2, 1, bias=False), 4.0)
    other = Average(model, 0.5)
    other.load_state_dict(Average(model, 0.5).state_dict())
    other.update(set_to(model, 8.0))
    assert (other.weights["weight"] == 8.0).all()
