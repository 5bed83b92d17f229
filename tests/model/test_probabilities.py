import math

import pytest
import torch

from model.probabilities import energy, joined, probabilities

LOGITS = torch.tensor([[2.0, -1.0, 0.5]])


def test_several_labels_are_each_for_itself_and_one_label_is_a_distribution() -> None:
    assert probabilities(LOGITS, "multi_label")[0].tolist() == pytest.approx([0.880797, 0.268941, 0.622459], abs=1e-6)
    assert probabilities(LOGITS, "single_label")[0].tolist() == pytest.approx([0.785597, 0.039113, 0.17529], abs=1e-6)


def test_temperature_divides_the_logits() -> None:
    for kind in ("multi_label", "single_label"):
        assert torch.equal(probabilities(LOGITS, kind, 2.0), probabilities(LOGITS / 2, kind))
        assert torch.equal(probabilities(LOGITS, kind, 1.0), probabilities(LOGITS, kind))


def test_chunks_of_several_labels_give_the_highest_and_those_of_one_label_the_mean_by_tokens() -> None:
    chunks = [(10, (0.9, 0.1)), (30, (0.1, 0.9))]
    assert joined(chunks, "multi_label") == (0.9, 0.9)
    assert joined(chunks, "single_label") == pytest.approx((0.3, 0.7))


def test_energy_is_high_where_some_label_fits() -> None:
    assert energy(LOGITS).tolist() == pytest.approx([math.log(sum(map(math.exp, LOGITS[0].tolist())))])
    assert energy(LOGITS + 3) > energy(LOGITS)
    assert torch.equal(probabilities(LOGITS + 3, "single_label"), probabilities(LOGITS, "single_label"))
