"""Fitting on one half, measuring on the other."""

import numpy as np
import pytest

from training.evaluation.calibration import (
    at_temperature,
    calibration_error,
    fit_temperature,
    halves,
    probabilities,
    reliability,
    tune_thresholds,
)


def test_threshold_separates_what_can_be_separated() -> None:
    stated = np.array([[0.1], [0.15], [0.3], [0.4]], dtype=np.float32)
    (threshold,) = tune_thresholds(stated, stated > 0.2)
    assert 0.15 < threshold <= 0.3


def test_halves_share_no_row() -> None:
    tuned, scored = halves(7)
    rows = np.arange(7)
    assert not set(rows[tuned]) & set(rows[scored])
    assert set(rows[tuned]) | set(rows[scored]) == set(rows)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_is_found_again(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)) * 2
    truth = rng.random(logits.shape) < probabilities(logits, "multi_label")
    assert fit_temperature(logits * temperature, truth, kind="multi_label") == pytest.approx(temperature, rel=0.06)
    chosen = (probabilities(logits, "single_label").cumsum(1) > rng.random((20_000, 1))).argmax(1)
    one_hot = np.eye(3, dtype=bool)[chosen]
    assert fit_temperature(logits * temperature, one_hot, kind="single_label") == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 1.7, 4.0])
def test_threshold_on_another_temperature_s_scale_decides_the_same(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(size=(20_000, 1)) * 4
    for threshold in (0.02, 0.3, 0.5, 0.89):
        plain = probabilities(logits, "multi_label") >= threshold
        scaled = probabilities(logits, "multi_label", temperature) >= at_temperature(threshold, temperature)
        assert np.array_equal(plain, scaled)


def test_calibration_error_of_honest_and_of_boastful_probabilities() -> None:
    rng = np.random.default_rng(0)
    stated = rng.random(50_000)
    assert calibration_error(stated, rng.random(50_000) < stated) < 0.01
    assert calibration_error(np.full(1000, 0.9), np.zeros(1000, dtype=bool)) == pytest.approx(0.9)


def test_reliability_counts_every_decision() -> None:
    stated = np.random.default_rng(0).random((50, 4))
    bins = reliability(stated, stated > 0.5)
    assert sum(number for *_, number in bins) == 200
    assert all(0 <= observed <= 1 for _, observed, _ in bins)
