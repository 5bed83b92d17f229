"""Optimizers and learning rates: who steps which parameter, schedules by their formula, states, refusals."""

import math
from copy import deepcopy
from typing import Any

import pytest
import torch

from model.network.leximind import LexiMind
from support.models import CONFIG
from support.training_runs import equal
from training.errors import TrainingError
from training.optimization.optimizers import OptimizerConfig, Optimizers, ScheduleConfig, learning_rate_scale

ADAMW: dict[str, Any] = {
    "name": "adamw",
    "lr": 1e-3,
    "matrix_lr": None,
    "head_lr": None,
    "weight_decay": 0.1,
    "betas": (0.9, 0.99),
    "eps": 1e-8,
}
MUON = {**ADAMW, "name": "muon", "matrix_lr": 0.02}


def model(seed: int = 0) -> LexiMind:
    torch.manual_seed(seed)
    return LexiMind(CONFIG)


def fill_gradients(of: LexiMind) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in of.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def in_stack(name: str, parameter: torch.nn.Parameter) -> bool:
    return ".layers." in name and parameter.ndim == 2


@pytest.mark.parametrize(("settings", "kinds"), [(ADAMW, ["AdamW"]), (MUON, ["AdamW", "Muon"])])
def test_every_parameter_is_stepped_once(settings: dict[str, Any], kinds: list[str]) -> None:
    one = model()
    optimizers = Optimizers(one, OptimizerConfig(**settings))
    assert [type(part).__name__ for part in optimizers.parts] == kinds
    stepped = [id(p) for part in optimizers.parts for group in part.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in one.parameters())


def test_muon_steps_the_matrices_of_the_stacks_alone() -> None:
    one = model()
    optimizers = Optimizers(one, OptimizerConfig(**MUON))
    matrices = {id(p) for group in optimizers.parts[1].param_groups for p in group["params"]}
    assert matrices == {id(p) for name, p in one.named_parameters() if in_stack(name, p)}
    assert {group["lr"] for group in optimizers.parts[1].param_groups} == {0.02}


def test_adafactor_is_torch_s() -> None:
    optimizers = Optimizers(model(), OptimizerConfig(**{**ADAMW, "name": "adafactor"}))
    assert [type(part) for part in optimizers.parts] == [torch.optim.Adafactor]


def test_frozen_parameters_are_not_stepped_and_none_left_is_refused() -> None:
    one = model()
    one.encoder.requires_grad_(False)
    optimizers = Optimizers(one, OptimizerConfig(**ADAMW))
    stepped = {id(p) for group in optimizers.parts[0].param_groups for p in group["params"]}
    assert not stepped & {id(p) for p in one.encoder.parameters()}
    one.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"nothing is left to train; loop\.freeze names every parameter"):
        Optimizers(one, OptimizerConfig(**ADAMW))


def test_a_scale_is_of_the_peak_not_of_the_rate_of_now() -> None:
    optimizers = Optimizers(model(), OptimizerConfig(**MUON))
    for scale in (0.5, 0.5, 0.1):
        optimizers.set_scale(scale)
        rates = [group["lr"] for part in optimizers.parts for group in part.param_groups]
        assert rates == pytest.approx([scale * 1e-3, scale * 1e-3, scale * 0.02])


@pytest.mark.parametrize("settings", [ADAMW, MUON], ids=lambda one: one["name"])
def test_a_state_goes_on_to_the_last_bit(settings: dict[str, Any]) -> None:
    one, other = model(), model()
    first, second = (Optimizers(each, OptimizerConfig(**settings)) for each in (one, other))
    for _ in range(2):
        fill_gradients(one)
        for part in first.parts:
            part.step()
    other.load_state_dict(one.state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))  # as from a file: torch would share the tensors
    for each, optimizers in ((one, first), (other, second)):
        fill_gradients(each)
        for part in optimizers.parts:
            part.step()
    assert equal(one.state_dict(), other.state_dict())


def test_gradients_are_dropped_not_zeroed() -> None:
    one = model()
    optimizers = Optimizers(one, OptimizerConfig(**MUON))
    fill_gradients(one)
    optimizers.zero_grad()
    assert all(parameter.grad is None for parameter in one.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", lambda part: 0.1 + 0.9 * (1 + math.cos(math.pi * part)) / 2),
        ("trapezoid", lambda part: 0.1 + 0.9 * min(1.0, (1 - part) / 0.25)),
        ("constant", lambda _: 1.0),
        ("inverse_sqrt", lambda part: math.sqrt(20 / (20 + 80 * part))),
    ],
)
def test_a_schedule_follows_its_formula_after_the_warm_up(name: Any, expected: Any) -> None:
    config = ScheduleConfig(name, 20, 0.1, 0.25)
    for step in range(20, 101, 5):
        assert learning_rate_scale(config, step, 100) == pytest.approx(expected((step - 20) / 80))


def test_a_run_that_is_lengthened_ends_at_the_final_share() -> None:
    config = ScheduleConfig("cosine", 0, 0.1, 0.25)
    assert learning_rate_scale(config, 0, 100) == 1.0
    assert learning_rate_scale(config, 250, 100) == pytest.approx(0.1)
    assert learning_rate_scale(ScheduleConfig("cosine", 10, 0.1, 0.25), 5, 5) == pytest.approx(0.6)  # all warm-up


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, r"optimizer\.lr is 0\.0; it must be above 0"),
        ({"lr": math.nan}, r"optimizer\.lr is nan"),
        ({"head_lr": -1.0}, r"optimizer\.head_lr is -1\.0"),
        ({"eps": math.inf}, r"optimizer\.eps is inf"),
        ({"matrix_lr": 0.1}, r"optimizer\.matrix_lr is 0\.1 with adamw; leave it null"),
        ({"name": "muon"}, r"optimizer\.matrix_lr is None with muon; give it one"),
    ],
)
def test_impossible_rates_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        OptimizerConfig(**{**ADAMW, **change})


@pytest.mark.parametrize(
    ("warmup", "final", "decay", "message"),
    [
        (-1, 0.1, 0.2, "warmup_steps is -1; it must be 0 or more"),
        (0, 1.5, 0.2, r"final is 1\.5 and decay_fraction 0\.2; they are shares"),
        (0, 0.1, 0.0, r"final is 0\.1 and decay_fraction 0\.0; they are shares"),
    ],
)
def test_impossible_schedules_are_refused(warmup: int, final: float, decay: float, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        ScheduleConfig("cosine", warmup, final, decay)
