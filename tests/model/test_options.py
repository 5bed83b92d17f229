"""What may be asked of decoding: every field has its range, and a refusal says field, value and range."""

import math
from typing import Any

import pytest
import torch

from model.errors import OptionsError
from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from support.models import CONFIG, random_model

NAN, INFINITE = float("nan"), float("inf")
REFUSED: list[tuple[str, Any, str]] = [
    ("max_new_tokens", 0, "at least 1"),
    ("min_new_tokens", -1, "between 0 and max_new_tokens (128)"),
    ("min_new_tokens", 129, "between 0 and max_new_tokens (128)"),
    ("num_beams", 0, "between 1 and 8"),
    ("num_beams", 9, "between 1 and 8"),
    *[("length_penalty", value, "between -10 and 10") for value in (-10.1, 11, NAN, INFINITE)],
    ("early_stopping", "always", 'true, false or "never"'),
    *[("no_repeat_ngram_size", value, "between 0 (off) and 16") for value in (-1, 17, 10**30)],
    *[("repetition_penalty", value, "between 0.01 and 100 (1.0: off)") for value in (0.0, 1e-45, 101, NAN, INFINITE)],
    *[("temperature", value, "between 0.01 and 100") for value in (0.0, -1.0, 1e-40, 1e300, NAN)],
    ("top_k", -1, "0 (off) or more"),
    *[("top_p", value, "above 0 and at most 1 (1: off)") for value in (0.0, 1.1, NAN)],
    *[("seed", value, "between 0 and 2**63 - 1") for value in (-1, 2**63)],
]
# Where a range ends, the arithmetic must still hold.
EXTREME: list[dict[str, Any]] = [
    *[{"num_beams": 2, "length_penalty": value, "max_new_tokens": 200} for value in (-10.0, 10.0)],
    *[{"num_beams": 2, "repetition_penalty": value} for value in (0.01, 100.0)],
    *[{"do_sample": True, "repetition_penalty": value} for value in (0.01, 100.0)],
    *[{"do_sample": True, "temperature": value} for value in (0.01, 100.0)],
    {"do_sample": True, "temperature": 0.01, "repetition_penalty": 0.01},
    {"do_sample": True, "top_p": 1e-300},
    {"do_sample": True, "top_k": 10**30},
    {"do_sample": True, "top_k": 1, "seed": 2**63 - 1},
    {"no_repeat_ngram_size": 16},
    {"num_beams": 8, "max_new_tokens": 1},
]


@pytest.mark.parametrize(("field", "value", "limits"), REFUSED, ids=str)
def test_value_outside_its_range_is_refused(field: str, value: object, limits: str) -> None:
    with pytest.raises(OptionsError) as refusal:
        DecodingOptions(**{field: value})  # type: ignore[arg-type]
    assert refusal.value.field == field
    assert repr(value) in refusal.value.message
    assert limits in refusal.value.message


def test_sampling_with_beams_is_refused() -> None:
    with pytest.raises(OptionsError, match="do_sample: true with num_beams 2; sampling takes num_beams 1"):
        DecodingOptions(do_sample=True, num_beams=2)


@pytest.mark.parametrize("options", EXTREME, ids=str)
def test_value_at_the_end_of_its_range_decodes(options: dict[str, Any]) -> None:
    model = TorchBackend(random_model(CONFIG))
    ids, mask = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool)
    [result] = decode(model, model.encode(ids, mask), mask, [DecodingOptions(**{"max_new_tokens": 30, **options})])
    assert not {0, 1, 2} & set(result.token_ids)
    assert max(result.token_ids) < CONFIG.num_tokens
    assert result.finish_reason == "stop" or len(result.token_ids) == options.get("max_new_tokens", 30)
    assert result.score is None or math.isfinite(result.score)
