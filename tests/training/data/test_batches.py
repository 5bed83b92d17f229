"""Batches of rows of like length, no longer than they must be, in an order that seed and epoch decide."""

import random

import pytest
import torch

from training.data.batches import EncodedExample, Stream

BUCKETS = [(16, 4), (64, 8)]


def rows() -> list[EncodedExample]:
    draw = random.Random(0)
    return [EncodedExample((7,) * draw.randint(3, 64), (9,) * draw.randint(1, 8), {}) for _ in range(300)]


def stream(pool: int, multiple: int | None) -> Stream:
    return Stream(rows(), BUCKETS, 288, (), seed=0, pool=pool, multiple=multiple)


def padding(one: Stream) -> float:
    batches = [one.next() for _ in range(one.batches_per_epoch())]
    return 1 - sum(float(batch.encoder_mask.sum()) for batch in batches) / sum(b.encoder_mask.numel() for b in batches)


def test_sorting_and_cutting_leave_little_padding() -> None:
    assert padding(stream(1, None)) > 0.3
    assert padding(stream(50, 1)) < 0.05


@pytest.mark.parametrize("pool", [1, 50])
def test_an_epoch_has_every_row(pool: int) -> None:
    one = stream(pool, 1)
    numbers = [number for _ in range(one.batches_per_epoch()) for number in one.next().numbers]
    assert set(numbers) == set(range(300))
    assert len(numbers) < 300 + 4  # but for those that fill the last batch


def test_a_batch_is_cut_to_a_multiple_and_never_past_its_bucket() -> None:
    whole, cut = stream(50, None), stream(50, 8)
    for _ in range(whole.batches_per_epoch()):
        one, other = whole.next(), cut.next()
        assert one.numbers == other.numbers
        width = other.input_ids.shape[1]
        assert width % 8 == 0
        assert torch.equal(one.input_ids[:, :width], other.input_ids)
        assert not one.encoder_mask[:, width:].any()


def test_a_place_is_found_again() -> None:
    one, other = stream(50, 1), stream(50, 1)
    for _ in range(one.batches_per_epoch() + 3):
        one.next()
    other.seek(one.epoch, one.position)
    assert one.next().numbers == other.next().numbers
